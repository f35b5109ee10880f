"""Temporal order: X or Y at two places in noise; say which (Hochreiter, Schmidhuber 1997)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..checks import check_choice, check_integer
from ..options import option
from .base import ClassTask, uniform
from .batch import Batch

SYMBOLS = "abcdBEXY"
"""Noise, begin, end, and the two that matter; each is one-hot at its place here."""

CLASSES = "QRSU"
"""The answers to XX, XY, YX and YY."""


class Ranges(NamedTuple):
    """First and last value, both included; first and second are positions in the sequence."""

    length: tuple[int, int]
    first: tuple[int, int]
    second: tuple[int, int]


DIFFICULTIES = {
    "easy": Ranges(length=(7, 9), first=(1, 2), second=(4, 5)),
    "moderate": Ranges(length=(60, 80), first=(10, 20), second=(45, 54)),
    "hard": Ranges(length=(100, 110), first=(10, 20), second=(50, 60)),
}
""""hard" is the paper's task 6a; the others are from a university course (NYU-DLSP20)."""


@dataclass(frozen=True)
class TemporalOrderTask(ClassTask):
    """A sequence of one-hot symbols; the class is asked for on its last step.

    A sequence is B, noise of a, b, c and d, and E at the end, with X or Y at two places. Zeros
    before it make all sequences end together at the greatest length of the difficulty. Length,
    places and class are uniform.
    """

    published = ("solved",)

    difficulty: str = option("easy", "length of the sequences", tuple(DIFFICULTIES))

    def __post_init__(self) -> None:
        check_choice("difficulty", self.difficulty, DIFFICULTIES)

    def __str__(self) -> str:
        shortest, longest = DIFFICULTIES[self.difficulty].length
        return f"temporal order, {self.difficulty}: {shortest} to {longest} symbols"

    @property
    def input_size(self) -> int:
        return len(SYMBOLS)

    @property
    def output_size(self) -> int:
        return len(CLASSES)

    def lessons(self) -> tuple[TemporalOrderTask, ...]:
        """The easier difficulties first."""
        names = list(DIFFICULTIES)
        return tuple(
            replace(self, difficulty=name) for name in names[: names.index(self.difficulty) + 1]
        )

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        device = generator.device
        ranges = DIFFICULTIES[self.difficulty]
        length, first, second = (uniform(*pair, (batch_size,), generator) for pair in ranges)
        marks = uniform(0, 1, (2, batch_size), generator)  # 0 for X, 1 for Y
        steps = ranges.length[1]
        symbols = uniform(0, 3, (steps, batch_size), generator)

        into = torch.arange(steps, device=device).unsqueeze(1) - (steps - length)
        for place, symbol in (
            (torch.zeros_like(length), SYMBOLS.index("B")),
            (length - 1, SYMBOLS.index("E")),
            (first, SYMBOLS.index("X") + marks[0]),
            (second, SYMBOLS.index("X") + marks[1]),
        ):
            symbols = torch.where(into == place, symbol, symbols)
        answer = F.one_hot(2 * marks[0] + marks[1], len(CLASSES)).float()
        last = into == length - 1
        return Batch(
            inputs=F.one_hot(symbols, len(SYMBOLS)).float() * (into >= 0).unsqueeze(-1),
            targets=answer * last.unsqueeze(-1),
            mask=last,
            lengths=torch.full((batch_size,), steps, device=device),
        )
