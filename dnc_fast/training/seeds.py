"""The same run with several seeds, in one table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ..tasks import Task
from .evaluation import Evaluation
from .trainer import Trainer


class Outcome(NamedTuple):
    """How the run of one seed ended.

    seconds: wall time of training. parts: scores by part, see `evaluate_by_part`.
    """

    seed: int
    steps: int
    seconds: float
    solved: bool
    held_out: Evaluation
    parts: dict[str, Evaluation]


def outcome(trainer: Trainer) -> Outcome:
    """How a run ended, scored on held-out sequences."""
    seed, steps, seconds = trainer.config.seed, trainer.step, trainer.seconds
    return Outcome(seed, steps, seconds, trainer.solved, *trainer.held_out_by_part())


def summary_table(task: Task, outcomes: Sequence[Outcome]) -> str:
    """A Markdown table: a row for each seed, their mean and, of several, standard deviation."""
    rows: list[tuple[object, str, Sequence[float]]] = []
    for run in outcomes:
        values = (run.steps, run.seconds, *run.held_out[1:])
        rows.append((run.seed, "yes" if run.solved else "no", values))
    columns = list(zip(*(values for _, _, values in rows), strict=True))
    solved = f"{sum(run.solved for run in outcomes)} of {len(outcomes)}"
    rows.append(("mean", solved, list(map(statistics.mean, columns))))
    if len(outcomes) > 1:
        rows.append(("standard deviation", "", list(map(statistics.stdev, columns))))
    lines = [
        f"{task}, trained with each seed and scored on held-out sequences:",
        "",
        f"| seed | solved | steps | seconds | {task.unit}s wrong per sequence | "
        f"{task.unit}s right | sequences right |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, solved, (steps, seconds, wrong, right, all_right) in rows:
        lines.append(
            f"| {name} | {solved} | {steps:.0f} | {seconds:.0f} | {wrong:.3f} | "
            f"{100 * right:.2f} % | {100 * all_right:.1f} % |"
        )
    return "\n".join(lines)
