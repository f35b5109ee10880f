"""What a task hands out: batches of sequences, scores of their answers, sequences in words.

Letters: B sequences, T steps (of the longest), X input features, Y outputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """A batch of sequences, zero past the end of each.

    | field   | shape     | dtype   | meaning                                            |
    |---------|-----------|---------|----------------------------------------------------|
    | inputs  | (T, B, X) | float32 | what the model sees                                |
    | targets | (T, B, Y) | float32 | what it should answer, 0 or 1; one-hot for a class |
    | mask    | (T, B)    | bool    | the steps on which the answer counts               |
    | lengths | (B)       | int64   | steps of each sequence                             |
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device; with `non_blocking`, from pinned memory, without waiting."""
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in self))

    def pin_memory(self) -> Batch:
        """The batch in memory from which a GPU copies by itself."""
        return Batch(*(tensor.pin_memory() for tensor in self))

    def padded(self, multiple: int) -> Batch:
        """The batch with T a multiple of this, by empty steps at the end that do not count."""
        missing = -len(self.inputs) % multiple
        inputs, targets, mask = (
            F.pad(one, (0, 0) * (one.dim() - 1) + (0, missing)) for one in self[:3]
        )
        return Batch(inputs, targets, mask, self.lengths)

    def split(self, parts: int) -> list[Batch]:
        """The batch cut in time into `parts` of equally many steps; each sequence continues.

        Raises:
            ValueError: T is not a multiple of `parts`.
        """
        steps, rest = divmod(len(self.inputs), parts)
        if rest:
            raise ValueError(f"parts must divide the {len(self.inputs)} steps, got {parts}")
        chunks = zip(*(tensor.split(steps) for tensor in self[:3]), strict=True)
        return [
            Batch(inputs, targets, mask, (self.lengths - number * steps).clamp(0, steps))
            for number, (inputs, targets, mask) in enumerate(chunks)
        ]


class Score(NamedTuple):
    """How well a model answered each sequence.

    | field   | shape | dtype   | meaning                                          |
    |---------|-------|---------|--------------------------------------------------|
    | loss    | (B)   | float32 | mean loss of its counted answers, nats           |
    | wrong   | (B)   | int64   | counted answers that are wrong                   |
    | counted | (B)   | int64   | answers that count                               |
    """

    loss: Tensor
    wrong: Tensor
    counted: Tensor


class Account(NamedTuple):
    """A sequence in words. told: what was told, by its step; text: the whole, in lines."""

    told: dict[int, str]
    text: str
