"""Digit autoencoding: hear a sequence of digits to its end, then say all of it again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..checks import check_integer
from .base import Batch, ClassTask, decaying, doubling, uniform

PADDING, END, FIRST = 0, 1, 2
"""The symbols: 0 pads, 1 ends, digits start at 2."""

NUM_SYMBOLS = 10


@dataclass(frozen=True)
class AutoencodingTask(ClassTask):
    """Digits 2 to 9, then 1 as the end and 0 up to the longest length; then the same as an answer.

    Symbols are one-hot of ten. The 2 (max_length + 1) steps are those of the sequence and, with a
    blank input, those of the answer, of which the digits and the end count. The length is uniform
    in [min_length, max_length].
    """

    unit = "symbol"
    published = ("right", "solved")

    min_length: int = field(default=3, metadata={"help": "fewest digits"})
    max_length: int = field(default=8, metadata={"help": "most digits"})

    def __post_init__(self) -> None:
        check_integer("min_length", self.min_length, minimum=1)
        check_integer("max_length", self.max_length, minimum=self.min_length)

    def __str__(self) -> str:
        return f"autoencode {self.min_length} to {self.max_length} digits"

    @property
    def input_size(self) -> int:
        return NUM_SYMBOLS

    @property
    def output_size(self) -> int:
        return NUM_SYMBOLS

    def lessons(self) -> tuple[AutoencodingTask, ...]:
        """The most digits double from lesson to lesson."""
        sizes = doubling(self.min_length, self.max_length)
        return tuple(replace(self, max_length=size) for size in sizes)

    def model_preset(self) -> dict[str, Any]:
        """Twice as many cells as the longest sequence needs."""
        return {**super().model_preset(), "num_cells": 2 * (self.max_length + 1)}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """No lessons."""
        return decaying(40_000)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        half, device = self.max_length + 1, generator.device
        length = uniform(self.min_length, self.max_length, (batch_size,), generator)
        digits = uniform(FIRST, NUM_SYMBOLS - 1, (half, batch_size), generator)
        clock = torch.arange(half, device=device).unsqueeze(1)
        symbols = torch.where(clock < length, digits, PADDING)
        symbols = torch.where(clock == length, END, symbols)

        shown = F.one_hot(symbols, NUM_SYMBOLS).float()
        blank = torch.zeros_like(shown)
        counts = clock <= length
        return Batch(
            inputs=torch.cat([shown, blank]),
            targets=torch.cat([blank, shown]),
            mask=torch.cat([torch.zeros_like(counts), counts]),
            lengths=torch.full((batch_size,), 2 * half, device=device),
        )
