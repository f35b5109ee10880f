"""Scores on sequences that were never trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from ..dnc import DNC
from ..tasks import Task
from .answering import answered
from .random import stream_generator


class Evaluation(NamedTuple):
    """Means over sequences.

    | field  | range   | meaning                                       |
    |--------|---------|-----------------------------------------------|
    | loss   | >= 0    | nats per answer                               |
    | wrong  | >= 0    | wrong answers per sequence                    |
    | right  | [0, 1]  | share of answers that are right               |
    | solved | [0, 1]  | share of sequences with no wrong answer       |
    """

    loss: float
    wrong: float
    right: float
    solved: float

    @property
    def bits(self) -> float:
        """The loss in bits per answer."""
        return self.loss / math.log(2)


FIGURES: dict[str, Callable[[Evaluation, str], str]] = {
    "wrong": lambda found, unit: f"{found.wrong:.2f} {unit}s wrong per sequence",
    "right": lambda found, unit: f"{100 * found.right:.2f} % of {unit}s right",
    "solved": lambda found, unit: f"{100 * found.solved:.1f} % of sequences right",
    "bits": lambda found, unit: f"{found.bits:.3f} bits per {unit}",
}
"""The figures of `Task.published` in words."""


def describe(task: Task, evaluation: Evaluation) -> str:
    """The figures that papers publish of the task, in words."""
    return ", ".join(FIGURES[name](evaluation, task.unit) for name in task.published)


def evaluate(
    model: DNC,
    task: Task,
    num_sequences: int,
    seed: int,
    stream: str = "held-out",
    index: int = 0,
    num_cells: int | None = None,
) -> Evaluation:
    """Score a model on sequences drawn from a stream of the seed.

    A task that is not endless gives all its sequences, each once, if so many or more are wanted.

    Args:
        model: of the task's sizes.
        task: where the sequences come from: of the stream "held-out" its `held_out()`, of the
            others its `validation()`.
        num_sequences: how many, or all where there are no more.
        seed: of the stream; the same seed gives the same sequences.
        stream: "validation" for deciding when to stop, "lesson" for tests of a lesson, "held-out"
            for what is reported.
        index: which draw of the stream.
        num_cells: memory cells to run with; None for the model's own.
    """
    task = task.held_out() if stream == "held-out" else task.validation()
    num_sequences = count_sequences(task, num_sequences)
    generator = stream_generator(seed, stream, index)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    losses, wrong, counted = [], [], []
    with torch.no_grad():
        for start in range(0, num_sequences, task.scoring_size):
            size = min(task.scoring_size, num_sequences - start)
            if num_sequences == task.size:
                batch = task.sequences(start, start + size).to(device)
            else:
                batch = task.batch(size, generator).to(device)
            batch = answered(model, task, batch, num_cells=num_cells)
            outputs, _ = model(batch.inputs, model.zero_state(size, num_cells))
            score = task.score(outputs, batch)
            losses.append(score.loss)
            wrong.append(score.wrong)
            counted.append(score.counted)
    model.train(training)
    mistakes, answers = torch.cat(wrong).double(), torch.cat(counted).double()
    return Evaluation(
        loss=torch.cat(losses).mean().item(),
        wrong=mistakes.mean().item(),
        right=1.0 - (mistakes.sum() / answers.sum()).item(),
        solved=(mistakes == 0).double().mean().item(),
    )


def count_sequences(task: Task, wanted: int) -> int:
    """How many sequences are scored of those wanted: no more than there are."""
    return wanted if task.size is None else min(wanted, task.size)


def held_out_size(task: Task, wanted: int) -> int:
    """How many held-out sequences make a score: all there are, of an endless task `wanted`."""
    return task.held_out().size or wanted
