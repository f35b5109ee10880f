"""Learn copy with each linkage: `python -m bench.linkages`.

The command line's own defaults for copy but for the linkage, seeds and controllers as in
`bench.copy_task`, and as many training steps at most for all. Prints a Markdown table of all runs;
`--json FILE` also writes them as JSON, after each run anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from .copy_task import Result, learn
from .harness.provenance import provenance

LINKAGES: dict[str, dict[str, Any]] = {
    "dense": {"linkage": "dense"},
    "sparse, K = 5": {"linkage": "sparse", "link_fan_out": 5},
    "sparse, K = 8": {"linkage": "sparse", "link_fan_out": 8},
    "separable": {"linkage": "separable"},
    "none": {"linkage": "none"},
}
"""What `DNCConfig` is given for each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=4000)
    parser.add_argument("--controllers", nargs="+", default=["feedforward", "lstm"])
    parser.add_argument("--linkages", nargs="+", choices=LINKAGES, default=list(LINKAGES))
    parser.add_argument("--json", type=Path, help="file for the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the command line does
    heading, runs = provenance(), []
    print(heading)
    print(
        "\n| controller | linkage | seed | solved | steps | seconds | right | right at length 16 |"
    )
    print(f"|{8 * '---|'}", flush=True)
    for controller in options.controllers:
        for name in options.linkages:
            results = []
            for seed in range(options.seeds):
                result = learn(controller, seed, options.max_steps, **LINKAGES[name])
                results.append(result)
                runs.append(
                    {"controller": controller, "linkage": name, "seed": seed, **result._asdict()}
                )
                if options.json is not None:
                    report = {"provenance": heading, "runs": runs}
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
                print_row(controller, name, str(seed), "yes" if result.solved else "no", result)
            medians = Result(*map(statistics.median, zip(*results, strict=True)))
            count = f"{sum(result.solved for result in results):g} of {len(results)}"
            print_row(controller, name, "median", count, medians)


def print_row(controller: str, linkage: str, seed: str, solved: str, result: Result) -> None:
    print(
        f"| {controller} | {linkage} | {seed} | {solved} | {result.steps:.0f} | "
        f"{result.seconds:.0f} | {100 * result.right:.1f} % | {100 * result.right_twice:.1f} % |",
        flush=True,
    )


if __name__ == "__main__":
    main()
