"""`python -m bench run`, `tables`, `compare` and `gpu`; each has --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from . import gpu
from .harness import jobs
from .harness import sizes as size_lists
from .harness.jobs import Job, Settings
from .harness.provenance import ROOT, facts, folder_name
from .harness.providers import PROVIDERS, missing
from .harness.results import ResultsError, open_results
from .reports import compare, pages
from .time_to_solve import solve_jobs

WHAT = {
    "ours": "steps of models at the named sizes by our fastest backend alone",
    "beside": "training steps at the named sizes by our fastest backend beside others",
    "steps": "training, inference and memory steps at the named sizes, and peaks",
    "growth": "training steps as one letter grows",
    "parts": "content, allocation, linkage, write and read by themselves",
    "linkages": "training and inference steps with every linkage at the named sizes",
    "solve": "time until copy is solved",
    "large": "training steps with every linkage, up to a million cells",
    "kernels": "each launch of a memory or LSTM step by itself, on a GPU",
}
EARLY = ("ours", "beside")
"""What is also among the others, measured earlier where time is short."""

RESULTS = ROOT / "bench/results"


def kernel_jobs(settings: Settings) -> list[Job]:
    """The jobs of `gpu_kernels`; none where the kernels cannot run."""
    if missing(PROVIDERS["triton"], settings.device) is not None:
        return []
    from . import gpu_kernels

    return gpu_kernels.kernel_jobs(settings)


def jobs_of(options: argparse.Namespace, settings: Settings) -> list[Job]:
    """What was asked for, in the order of `WHAT`.

    Raises:
        ResultsError: a size is unknown.
    """
    known = size_lists.sizes_for(settings.device, settings.dry)
    names = list(known.named) if options.sizes is None else options.sizes
    if unknown := set(names) - set(known.named):
        raise ResultsError(f"--sizes must be among {tuple(known.named)}, got {sorted(unknown)}")
    named = {name: known.named[name] for name in names}
    made = {
        "ours": lambda: jobs.our_jobs(settings, named),
        "beside": lambda: jobs.beside_jobs(settings, named),
        "steps": lambda: jobs.step_jobs(settings, named),
        "growth": lambda: jobs.growth_jobs(settings, known.studies, options.letters),
        "parts": lambda: jobs.part_jobs(settings, named),
        "linkages": lambda: jobs.linkage_jobs(settings, named),
        "solve": lambda: solve_jobs(settings, options.seeds, options.solve_minutes),
        "large": lambda: jobs.large_jobs(settings, known.large),
        "kernels": lambda: kernel_jobs(settings),
    }
    wanted = options.what or [what for what in WHAT if what not in EARLY]
    return [job for what in WHAT if what in wanted for job in made[what]()]


def run(options: argparse.Namespace) -> int:
    """Measure what has not been measured yet."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ResultsError("there is no CUDA device here: nothing was measured")
    if options.dry and options.out is None:
        raise ResultsError("--dry needs --out FOLDER: its results are not measurements")
    settings = Settings(
        device, options.threads, tuple(options.providers or ()), options.dry, options.hurry
    )
    todo = jobs_of(options, settings)
    torch.set_num_threads(options.threads)
    out = options.out or RESULTS / folder_name(device)
    results = open_results(out, facts(device), options.dry, options.fresh)
    left = jobs.work_off(todo, results, options.minutes)
    if left:
        print(f"{left} jobs are left; the same command continues with them")
        return 3
    print(f"everything is measured: {results.path}; `python -m bench tables` writes the tables")
    return 0


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    runner = commands.add_parser("run", help="measure, or continue")
    runner.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU if there is one")
    told = "; ".join(f"{name}: {meaning}" for name, meaning in WHAT.items())
    runner.add_argument(
        "what", nargs="*", metavar="what", help=f"default: all but ours, beside. {told}"
    )
    runner.add_argument("--sizes", nargs="+", help="c1 to c5 on a CPU, g1 to g5 on a GPU")
    runner.add_argument("--letters", nargs="+", choices=tuple("NTBRW"), default=list("NTBRW"),
                        help="that grow")  # fmt: skip
    runner.add_argument("--providers", nargs="+", choices=PROVIDERS)
    runner.add_argument("--threads", type=int, default=2)
    runner.add_argument("--seeds", type=int, default=1, help="of solve")
    runner.add_argument("--solve-minutes", type=float, default=2.0, help="for a model and seed")
    runner.add_argument("--minutes", type=float, default=float("inf"), help="start no job after")
    runner.add_argument("--hurry", type=float, default=1.0, help="factor of the time for rounds")
    runner.add_argument("--out", type=Path, help="a folder; default: bench/results/<device>")
    runner.add_argument("--fresh", action="store_true", help="replace the results that are there")
    runner.add_argument("--dry", action="store_true", help="tiny, to try it; not measurements")
    runner.set_defaults(function=run)

    writer = commands.add_parser("tables", help="write tables and plots from results")
    pages.add_arguments(writer)
    comparer = commands.add_parser("compare", help="two result files, ratio by ratio")
    compare.add_arguments(comparer)
    all_of_gpu = commands.add_parser("gpu", help="everything that needs a GPU")
    gpu.add_arguments(all_of_gpu)
    options = parser.parse_args(arguments)
    if unknown := set(getattr(options, "what", ())) - set(WHAT):
        parser.error(f"what to run must be among {', '.join(WHAT)}; got {', '.join(unknown)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return int(options.function(options))
    except ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
