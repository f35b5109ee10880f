"""Several models on one task: how each learned, what it takes, and longer sequences."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models import model_name
from ..tasks import Batch, Task
from .evaluation import evaluate
from .random import stream_generator
from .reach import gradient_by_lag
from .seeds import Outcome, outcome
from .trainer import Trainer

FACTORS = (2, 4, 8)
"""How many times as long as in training the longer sequences are."""

MOST_LONGER = 200
"""Longer sequences that are scored, of each length."""

TIMED = 5
"""Steps that are timed; the median counts."""


class Finished(NamedTuple):
    """A run of a comparison: how it ended, and on longer sequences.

    step_seconds: wall time of forward and backward pass of one batch.
    longer: by factor, the share of answers that are right.
    gradient: by time lag, see `gradient_by_lag`.
    """

    outcome: Outcome
    step_seconds: float
    longer: dict[int, float]
    gradient: Tensor | None


class Compared(NamedTuple):
    """A model with its options and its runs, one for each seed."""

    config: Any
    parameters: int
    runs: list[Finished]


def finished(trainer: Trainer, factors: Sequence[int] = FACTORS) -> Finished:
    """Score and time what a run has trained."""
    return Finished(
        outcome(trainer),
        step_seconds(trainer),
        longer_scores(trainer, factors),
        gradient_by_lag(trainer.model, trainer.task, trainer.config.seed),
    )


def longer_scores(trainer: Trainer, factors: Sequence[int]) -> dict[int, float]:
    """By factor, the share right of answers on longer sequences; none if the task has no length.

    A memory gets as many times more cells, if it can have others than in training.
    """
    found = {}
    fixed = getattr(trainer.model, "fixed_cells", False)
    cells = None if fixed else getattr(trainer.model.config, "num_cells", None)
    size = min(trainer.config.evaluation_size, MOST_LONGER)
    for factor in factors:
        task = trainer.task.longer(factor)
        if task is None:
            break
        num_cells = None if cells is None else factor * cells
        seed = trainer.config.seed
        found[factor] = evaluate(trainer.model, task, size, seed, num_cells=num_cells).right
    return found


def step_seconds(trainer: Trainer) -> float:
    """The median time of forward and backward pass of one training batch."""
    model, task = trainer.model, trainer.task
    generator = stream_generator(trainer.config.seed, "held-out")
    batch = task.batch(trainer.config.batch_size, generator).split(task.num_chunks)[0]
    batch = batch.to(trainer.device)
    times = [_time_step(model, task, batch) for _ in range(TIMED + 1)]
    model.zero_grad()
    return statistics.median(times[1:])


def _time_step(model: Any, task: Task, batch: Batch) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    task.loss(model(batch.inputs)[0], batch).backward()
    if batch.inputs.is_cuda:
        torch.cuda.synchronize(batch.inputs.device)
    return time.perf_counter() - started


def models_table(rows: Sequence[tuple[Any, int]]) -> str:
    """A Markdown table of models and their numbers of parameters."""
    lines = ["| model | parameters | hidden size |", "|---|---|---|"]
    for config, parameters in rows:
        lines.append(f"| {model_name(config)} | {parameters:,} | {config.hidden_size} |")
    return "\n".join(lines)


def comparison_table(task: Task, compared: Sequence[Compared]) -> str:
    """A Markdown table, a row for each model: means over seeds, of several with their deviation."""
    factors = sorted({factor for one in compared for run in one.runs for factor in run.longer})
    head = [
        "model",
        "parameters",
        "hidden size",
        "solved",
        "steps",
        "seconds",
        "ms per step",
        "sequences right",
        f"{task.unit}s right",
        *(f"at {factor} x length" for factor in factors),
    ]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for one in compared:
        outcomes = [run.outcome for run in one.runs]
        cells = [
            model_name(one.config),
            f"{one.parameters:,}",
            str(one.config.hidden_size),
            f"{sum(each.solved for each in outcomes)} of {len(outcomes)}",
            _spread([each.steps for each in outcomes], ",.0f"),
            _spread([each.seconds for each in outcomes], ".1f"),
            f"{1000 * statistics.median(run.step_seconds for run in one.runs):.1f}",
            _spread([100 * each.held_out.solved for each in outcomes], ".1f", " %"),
            _spread([100 * each.held_out.right for each in outcomes], ".2f", " %"),
        ]
        for factor in factors:
            shares = [100 * run.longer[factor] for run in one.runs if factor in run.longer]
            cells.append(_spread(shares, ".1f", " %") if shares else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """The mean and, of several, the standard deviation."""
    text = f"{statistics.mean(values):{form}}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):{form}}"
    return text + unit
