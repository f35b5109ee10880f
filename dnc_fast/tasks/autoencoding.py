"""Digit autoencoding: see a sequence of digits and its end, then repeat all of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ..checks import check_integer
from ..options import option
from .base import ClassTask, doubling, span, uniform
from .batch import Batch

PADDING, END, FIRST = 0, 1, 2
"""The symbols: 0 pads, 1 ends, digits start at 2."""

NUM_SYMBOLS = 10


@dataclass(frozen=True)
class AutoencodingTask(ClassTask):
    """Digits 2 to 9, a 1 for the end, zeros up to the greatest length; then the same as an answer.

    Symbols are one-hot of ten. Of the 2 (max_length + 1) steps the first half shows the sequence;
    the second half has a blank input and is the answer, of which the digits and the end count. The
    length is uniform in [min_length, max_length].
    """

    unit = "symbol"
    published = ("right", "solved")

    lengths_by = ("min_length", "max_length")

    min_length: int = option(3, "fewest digits")
    max_length: int = option(8, "most digits")

    def __post_init__(self) -> None:
        check_integer("min_length", self.min_length, minimum=1)
        check_integer("max_length", self.max_length, minimum=self.min_length)

    def __str__(self) -> str:
        return f"autoencode {span(self.min_length, self.max_length)} digits"

    @property
    def input_size(self) -> int:
        return NUM_SYMBOLS

    @property
    def memory_load(self) -> int:
        return self.max_length + 1

    def lessons(self) -> tuple[AutoencodingTask, ...]:
        """The largest number of digits doubles from lesson to lesson."""
        sizes = doubling(self.min_length, self.max_length)
        return tuple(replace(self, max_length=size) for size in sizes)

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
