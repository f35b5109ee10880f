"""Several seeds of one run, in one table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ..tasks import Task
from .evaluation import Evaluation
from .trainer import Trainer


class Outcome(NamedTuple):
    """How one seed's run ended. seconds: wall time of training. held_out: its score."""

    seed: int
    steps: int
    seconds: float
    solved: bool
    held_out: Evaluation


def outcome(trainer: Trainer) -> Outcome:
    """How a run ended, with its score on held-out sequences."""
    seed, steps, seconds = trainer.config.seed, trainer.step, trainer.seconds
    return Outcome(seed, steps, seconds, trainer.solved, trainer.held_out())


def summary_table(task: Task, outcomes: Sequence[Outcome]) -> str:
    """All seeds in a Markdown table, then their mean and, of several, standard deviation."""
    lines = [
        f"| seed | solved | steps | seconds | {task.unit}s wrong per sequence | "
        f"{task.unit}s right | sequences right |",
        "|---|---|---|---|---|---|---|",
    ]

    def add(name: object, solved: str, values: Sequence[float]) -> None:
        steps, seconds, wrong, right, all_right = values
        lines.append(
            f"| {name} | {solved} | {steps:.0f} | {seconds:.0f} | {wrong:.3f} | "
            f"{100 * right:.2f} % | {100 * all_right:.1f} % |"
        )

    rows = []
    for run in outcomes:
        found = run.held_out
        rows.append((run.steps, run.seconds, found.wrong, found.right, found.solved))
        add(run.seed, "yes" if run.solved else "no", rows[-1])
    solved = f"{sum(run.solved for run in outcomes)} of {len(outcomes)}"
    columns = list(zip(*rows, strict=True))
    add("mean", solved, [statistics.mean(column) for column in columns])
    if len(outcomes) > 1:
        add("standard deviation", "", [statistics.stdev(column) for column in columns])
    return "\n".join(lines)
