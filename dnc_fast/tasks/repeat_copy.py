"""Repeat copy: hear a sequence and a number, say it that often (Graves et al. 2014, 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..checks import check_integer
from .base import Batch, VectorTask, decaying, doubling, random_bits, uniform

REPEATS_SCALE = 10
"""The number of repeats is shown divided by this, as in google-deepmind/dnc, so that numbers beyond
the trained ones can be asked for."""


@dataclass(frozen=True)
class RepeatCopyTask(VectorTask):
    """A start cue, l vectors, the number of repeats r, then the vectors r times and an end mark.

    As in google-deepmind/dnc: the input has `num_bits` bits, the start cue and a channel that shows
    r / 10 once; the answer has `num_bits` bits and the end mark. An episode takes l (r + 1) + 3
    steps, its last l r + 1 are the answer, with a blank input. l and r are uniform in their ranges.
    The defaults are that code's size; the NTM paper's is 1 to 10 vectors of 8 bits, 1 to 10 times.
    """

    min_length: int = field(default=1, metadata={"help": "shortest sequence, in vectors"})
    max_length: int = field(default=2, metadata={"help": "longest sequence, in vectors"})
    min_repeats: int = field(default=1, metadata={"help": "fewest repeats"})
    max_repeats: int = field(default=2, metadata={"help": "most repeats"})
    num_bits: int = field(default=4, metadata={"help": "bits in a vector"})

    def __post_init__(self) -> None:
        for name in ("min_length", "min_repeats", "num_bits"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("max_length", self.max_length, minimum=self.min_length)
        check_integer("max_repeats", self.max_repeats, minimum=self.min_repeats)

    def __str__(self) -> str:
        return (
            f"repeat {self.min_length} to {self.max_length} vectors of {self.num_bits} bits "
            f"{self.min_repeats} to {self.max_repeats} times"
        )

    @property
    def output_size(self) -> int:
        return self.num_bits + 1

    def lessons(self) -> tuple[RepeatCopyTask, ...]:
        """The longest sequence and the most repeats double together from lesson to lesson."""
        lengths = doubling(self.min_length, self.max_length)
        repeats = doubling(self.min_repeats, self.max_repeats)
        count = max(len(lengths), len(repeats))
        lengths += [self.max_length] * (count - len(lengths))
        repeats += [self.max_repeats] * (count - len(repeats))
        return tuple(
            replace(self, max_length=length, max_repeats=repeat)
            for length, repeat in zip(lengths, repeats, strict=True)
        )

    def model_preset(self) -> dict[str, Any]:
        """Room for the longest sequence and as much again, at least the official code's 16."""
        return {**super().model_preset(), "num_cells": max(2 * self.max_length, 16)}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Lessons, where there are more than two of them."""
        return {**decaying(30_000), "curriculum": "on" if len(self.lessons()) > 2 else "off"}

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        length = uniform(self.min_length, self.max_length, (batch_size,), generator)
        repeats = uniform(self.min_repeats, self.max_repeats, (batch_size,), generator)
        vectors = random_bits((self.max_length, batch_size, self.num_bits), generator)
        lengths = length * (repeats + 1) + 3

        clock = torch.arange(int(lengths.max()), device=length.device).unsqueeze(1)
        into = clock - (length + 2)  # steps into the answer
        hear = (clock >= 1) & (clock <= length)
        say = (into >= 0) & (into < length * repeats)
        end = into == length * repeats

        item = torch.where(say, into % length, clock - 1).clamp(0, self.max_length - 1)
        shown = vectors[item, torch.arange(batch_size, device=length.device)]
        start = (clock == 0).expand_as(hear).float()
        number = (clock == length + 1) * (repeats.float() / REPEATS_SCALE)
        return Batch(
            inputs=torch.cat([shown * hear.unsqueeze(-1), torch.stack([start, number], -1)], -1),
            targets=torch.cat([shown * say.unsqueeze(-1), end.unsqueeze(-1).float()], -1),
            mask=say | end,
            lengths=lengths,
        )
