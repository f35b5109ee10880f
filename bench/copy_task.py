"""Learn copy with several controllers, variants and seeds: `python -m bench.copy_task`.

Trains with the defaults of the command line, then scores 1,000 held-out sequences of the trained
lengths, and 1,000 of twice the longest with twice the cells. Prints a Markdown table of all runs;
`--json FILE` also writes them as JSON, after every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dnc_fast.presets import model_config, training_options
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES
from dnc_fast.tasks import CopyTask
from dnc_fast.training import Trainer, TrainingConfig, evaluate

from .harness.provenance import provenance
from .reports.tables import print_head, print_row

VARIANTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "robust": {"usage_order": "robust"},
    "dense": {"linkage": "dense"},
    "sparse-5": {"linkage": "sparse", "link_fan_out": 5},
    "sparse-8": {"linkage": "sparse", "link_fan_out": 8},
    "separable": {"linkage": "separable"},
    "none": {"linkage": "none"},
    **{
        f"{similarity}-{allocation}": {"similarity": similarity, "allocation": allocation}
        for similarity, allocation in product(SIMILARITIES, ALLOCATIONS)
    },
}
"""Options of `DNCConfig`: an order of usage, a linkage, or a similarity and an allocation."""


class Result(NamedTuple):
    """One run. right, right_twice: shares of sequences, at trained lengths and at the double."""

    solved: float
    steps: float
    seconds: float
    right: float
    right_twice: float


def learn(controller: str, seed: int, max_steps: int = 10_000, **options: Any) -> Result:
    """Train and score one model.

    Args:
        controller: its name.
        seed: of parameters and data.
        max_steps: training steps at most.
        **options: of `DNCConfig`, other than the task's defaults.
    """
    task = CopyTask()
    model = model_config(task, controller=controller, **options)
    training = TrainingConfig(seed=seed, max_steps=max_steps, **training_options(task, model))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, model, training, folder)
        trainer.train("off")
    if trainer.interrupted:  # which is no result
        raise KeyboardInterrupt
    twice = CopyTask(2 * task.max_length, 2 * task.max_length)
    held_out = evaluate(trainer.model, task, 1000, seed)
    longer = evaluate(trainer.model, twice, 1000, seed, num_cells=2 * model.num_cells)
    return Result(trainer.solved, trainer.step, trainer.seconds, held_out.solved, longer.solved)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-steps", type=int, default=10_000)
    parser.add_argument("--controllers", nargs="+", default=["lstm", "feedforward"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["exact"])
    parser.add_argument("--json", type=Path, help="file for the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as on the command line
    heading, runs = provenance(), []
    print_head(heading, "controller", "variant", "seed", "solved", "steps", "seconds", "right",
               "right at length 16")  # fmt: skip
    for controller in options.controllers:
        for variant in options.variants:
            results = []
            for seed in range(options.seeds):
                result = learn(controller, seed, options.max_steps, **VARIANTS[variant])
                results.append(result)
                run = {"controller": controller, "variant": variant, "seed": seed}
                runs.append({**run, **result._asdict()})
                if options.json is not None:
                    report = {"provenance": heading, "runs": runs}
                    options.json.write_text(json.dumps(report, indent=1) + "\n")
                print_result(controller, variant, seed, "yes" if result.solved else "no", result)
            medians = Result(*map(statistics.median, zip(*results, strict=True)))
            count = f"{sum(result.solved for result in results):g} of {len(results)}"
            print_result(controller, variant, "median", count, medians)


def print_result(controller: str, variant: str, seed: int | str, solved: str, r: Result) -> None:
    shares = (f"{100 * share:.1f} %" for share in (r.right, r.right_twice))
    print_row(controller, variant, seed, solved, f"{r.steps:.0f}", f"{r.seconds:.0f}", *shares)


if __name__ == "__main__":
    main()
