"""What a task is: an endless, seeded source of batches with a loss and a score.

Tasks know no model. Letters: B sequences, T steps (of the longest), X input bits, Y target bits.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Batch(NamedTuple):
    """A batch of sequences, zeros past the end of each.

    | field   | shape     | dtype   | meaning                                            |
    |---------|-----------|---------|----------------------------------------------------|
    | inputs  | (T, B, X) | float32 | what the model sees                                |
    | targets | (T, B, Y) | float32 | what it should answer, 0 or 1                      |
    | mask    | (T, B)    | bool    | the steps on which the answer counts               |
    | lengths | (B)       | int64   | steps of each sequence                             |
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(*(tensor.to(device) for tensor in self))


class Score(NamedTuple):
    """How well a model answered, each sequence by itself.

    | field      | shape | meaning                                                    |
    |------------|-------|------------------------------------------------------------|
    | loss       | (B)   | mean binary cross-entropy of its counted bits, nats        |
    | wrong_bits | (B)   | counted bits on the wrong side of one half                 |
    """

    loss: Tensor
    wrong_bits: Tensor


class Task(Protocol):
    """A source of batches. Implementations are frozen dataclasses whose fields are the options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def input_size(self) -> int:
        """X."""
        ...

    @property
    def output_size(self) -> int:
        """Y."""
        ...

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences; the same generator state gives the same batch."""
        ...


def bit_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean binary cross-entropy over all bits that count, in nats per bit; a scalar.

    Args:
        logits: the model's outputs (T, B, Y).
        batch: the batch that was answered.
    """
    loss = F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="none")
    weight = batch.mask.unsqueeze(-1)
    return (loss * weight).sum() / (weight.sum() * logits.shape[-1])


def bit_score(logits: Tensor, batch: Batch) -> Score:
    """The score of each sequence; a sequence is right when all its counted bits are.

    Args:
        logits: the model's outputs (T, B, Y).
        batch: the batch that was answered.
    """
    loss = F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="none")
    weight = batch.mask.unsqueeze(-1)
    counted = batch.mask.sum(0) * logits.shape[-1]
    wrong = ((logits > 0) != (batch.targets > 0.5)) & weight
    return Score((loss * weight).sum((0, 2)) / counted, wrong.sum((0, 2)))
