"""Scores of a model on sequences that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch

from ..tasks import Score, Task
from .answering import answered, inference
from .batches import rounded
from .distributed import ALONE, Ranks
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
"""The figures that `Task.published` names, in words."""


def describe(task: Task, evaluation: Evaluation) -> str:
    """The figures that papers give for the task, in words."""
    return ", ".join(FIGURES[name](evaluation, task.unit) for name in task.published)


def evaluate(
    model: Any,
    task: Task,
    num_sequences: int,
    seed: int,
    stream: str = "held-out",
    index: int = 0,
    num_cells: int | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Score a model on sequences drawn from a stream of the seed.

    If as many sequences are asked for as a task has, or more, each of them is scored once.

    Args:
        model: its sizes must be the task's.
        task: its `held_out()` draws the sequences of the stream "held-out", its `validation()`
            those of the others.
        num_sequences: how many; no more than the task has.
        seed: of the stream; the same seed gives the same sequences.
        stream: "validation" for deciding when to stop, "lesson" and "milestone" for tests of
            these, "held-out" for what is reported.
        index: which draw of the stream.
        num_cells: memory cells to run with; None for the model's own.
        ranks: those that share the sequences; all get the same scores.
    """
    task = task.held_out() if stream == "held-out" else task.validation()
    generator = stream_generator(seed, stream, index)
    return _mean(_scores(model, task, num_sequences, generator, num_cells, ranks))


def evaluate_by_part(
    model: Any, task: Task, num_sequences: int, seed: int, ranks: Ranks = ALONE
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """The score on held-out sequences, and that on each of the task's parts by its name.

    Where all sequences of a task are scored, its parts make up the whole, and each sequence is
    scored once. Otherwise there are no scores by part: each would need sequences of its own.

    Args:
        model, task, num_sequences, seed, ranks: see `evaluate`.
    """
    size = task.held_out().size
    parts = {} if size is None or num_sequences < size else task.parts()
    if not parts:
        return evaluate(model, task, num_sequences, seed, ranks=ranks), {}
    generator = stream_generator(seed, "held-out")  # nothing is drawn where all are scored
    found = {
        name: _scores(model, part.held_out(), num_sequences, generator, None, ranks)
        for name, part in parts.items()
    }
    return _mean([*chain(*found.values())]), {name: _mean(scores) for name, scores in found.items()}


def _scores(
    model: Any,
    task: Task,
    num_sequences: int,
    generator: torch.Generator,
    num_cells: int | None,
    ranks: Ranks,
) -> list[Score]:
    """The scores of sequences of a task, a few at a time; of all it has, or drawn."""
    if task.size is not None:
        num_sequences = min(num_sequences, task.size)
    scores = []
    with inference(model) as device:
        for start in range(0, num_sequences, task.scoring_size):
            size = min(task.scoring_size, num_sequences - start)
            if num_sequences == task.size:
                batch = task.sequences(start, start + size).to(device)
            else:
                batch = task.batch(size, generator).to(device)
            batch, _ = ranks.share(batch)
            size = len(batch.lengths)
            if size == 0:
                continue
            batch = rounded(answered(model, task, batch, num_cells=num_cells))
            outputs, _ = model(batch.inputs, model.zero_state(size, num_cells))
            scores.append(task.score(outputs, batch))
    return list(chain(*ranks.gathered(scores)))


def _mean(scores: list[Score]) -> Evaluation:
    """The mean over sequences."""
    loss, wrong, counted = map(torch.cat, zip(*scores, strict=True))
    wrong = wrong.double()
    return Evaluation(
        loss=loss.mean().item(),
        wrong=wrong.mean().item(),
        right=1.0 - (wrong.sum() / counted.double().sum()).item(),
        solved=(wrong == 0).double().mean().item(),
    )


def held_out_size(task: Task, wanted: int) -> int:
    """How many held-out sequences to score: all of them, or `wanted` of an endless task."""
    return task.held_out().size or wanted
