"""Held-out sequences in words: what a model saw, what it should have answered, what it answered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tasks import GraphTask, Task, read_episode
from .answering import answered, inference
from .probe import transcript
from .random import stream_generator


def predictions(model: Any, task: Task, number: int, seed: int) -> str:
    """Some of the seed's held-out sequences with the answers, right and the model's.

    Args:
        model: its sizes must be the task's.
        task: where the sequences come from.
        number: how many.
        seed: of the stream; the same seed gives the same sequences.
    """
    task = task.held_out()
    with inference(model) as device:
        batch = task.batch(number, stream_generator(seed, "held-out")).to(device)
        batch = answered(model, task, batch)
        outputs, _ = model(batch.inputs)
        wrong, counted = task.score(outputs, batch)[1:]
        outputs = task.probabilities(outputs)
    names: Any = [None] * number
    if isinstance(task, GraphTask):
        names = task.names(number, stream_generator(seed, "held-out"))
    parts = []
    for row, length in enumerate(batch.lengths.tolist()):
        inputs, targets, said = (
            part[:length, row].cpu() for part in (batch.inputs, batch.targets, outputs)
        )
        mask = batch.mask[:length, row].cpu()
        words = task.words(inputs)
        if names[row] is not None:
            text = str(read_episode(inputs, said, targets, names[row]))
        elif words is not None:
            right, given = (task.words(part) or [] for part in (targets, said))
            text = transcript(words, mask, right, given)
        else:
            lines = {
                "input": _spelled(inputs, task.num_classes),
                "wanted": _spelled(targets[mask], task.num_classes),
                "said": _spelled(_decided(said[mask], task.num_classes), task.num_classes),
            }
            text = "\n".join(f"{name:<8}{line}" for name, line in lines.items())
        head = f"sequence {row + 1}: {wrong[row]} of {counted[row]} {task.unit}s wrong"
        parts.append(f"{head}\n{text}")
    return "\n\n".join(parts)


def _decided(outputs: Tensor, num_classes: int) -> Tensor:
    """The answers, 0 and 1, that probabilities (T, Y) stand for."""
    if not num_classes:
        return (outputs > 0.5).float()
    chosen = outputs.unflatten(-1, (-1, num_classes)).argmax(-1)
    return torch.nn.functional.one_hot(chosen, num_classes).flatten(-2).float()


def _spelled(steps: Tensor, num_classes: int) -> str:
    """Steps (T, ...) in a line: the number of a class, bits, or numbers; a dot for nothing."""
    return " ".join(_spell(values, num_classes) for values in steps.tolist()) or "nothing"


def _spell(values: list[float], num_classes: int) -> str:
    if not any(values):
        return "."
    if not set(values) <= {0.0, 1.0}:
        return ",".join(f"{value:.2f}" for value in values)
    if num_classes and sum(values) == 1:
        return str(values.index(1.0))
    return "".join(str(int(value)) for value in values)
