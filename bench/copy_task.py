"""Learn copy over several seeds and controllers: `python -m bench.copy_task`.

Trains with the command line's own defaults, then scores 1,000 held-out sequences of the trained
lengths, and 1,000 of twice the longest with twice the cells. Prints a Markdown table, all seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from typing import Any, NamedTuple

import torch

from dnc_fast.presets import model_config, training_options
from dnc_fast.tasks import CopyTask
from dnc_fast.training import Trainer, TrainingConfig, evaluate

from .harness.provenance import provenance


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
    training = TrainingConfig(seed=seed, max_steps=max_steps, **training_options(task, controller))
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
    parser.add_argument("--controllers", nargs="+", default=["lstm", "feedforward"])
    parser.add_argument("--usage-orders", nargs="+", default=["exact"])
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the command line does
    print(provenance())
    print("\n| controller | usage order | seed | steps | seconds | right | right at length 16 |")
    print("|---|---|---|---|---|---|---|")
    for controller in options.controllers:
        for usage_order in options.usage_orders:
            rows = []
            for seed in range(options.seeds):
                rows.append(learn(controller, seed, usage_order=usage_order))
                print_row(controller, usage_order, str(seed), rows[-1])
            medians = Result(*map(statistics.median, zip(*rows, strict=True)))
            print_row(controller, usage_order, "median", medians)


def print_row(controller: str, usage_order: str, seed: str, result: Result) -> None:
    print(
        f"| {controller} | {usage_order} | {seed} | {result.steps:.0f} | {result.seconds:.0f} | "
        f"{100 * result.right:.1f} % | {100 * result.right_twice:.1f} % |",
        flush=True,
    )


if __name__ == "__main__":
    main()
