"""Repeat copy: see a sequence and a number, repeat it that often (Graves et al. 2014, 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checks import check_integer
from ..options import option
from .base import VectorTask, doubling, random_bits, span, uniform
from .batch import Batch

REPEATS_SCALE = 10
"""The number of repeats is shown divided by this, as in google-deepmind/dnc, so that more repeats
than were trained can be asked for."""


@dataclass(frozen=True)
class RepeatCopyTask(VectorTask):
    """A start cue, l vectors, the number of repeats r, then the vectors r times and an end mark.

    As in google-deepmind/dnc, the input has `num_bits` bits, the start cue and a channel that shows
    r / 10 once; the answer has `num_bits` bits and the end mark. An episode has l (r + 1) + 3
    steps; the last l r + 1 are the answer, with a blank input. l and r are uniform in their ranges.
    The default sizes are that code's; the NTM paper has 1 to 10 vectors of 8 bits, 1 to 10 times.
    """

    lengths_by = ("min_length", "max_length")

    min_length: int = option(1, "shortest sequence, in vectors")
    max_length: int = option(2, "longest sequence, in vectors")
    min_repeats: int = option(1, "fewest repeats")
    max_repeats: int = option(2, "most repeats")
    num_bits: int = option(4, "bits in a vector")

    def __post_init__(self) -> None:
        for name in ("min_length", "min_repeats", "num_bits"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("max_length", self.max_length, minimum=self.min_length)
        check_integer("max_repeats", self.max_repeats, minimum=self.min_repeats)

    def __str__(self) -> str:
        return (
            f"repeat {span(self.min_length, self.max_length)} vectors of {self.num_bits} bits "
            f"{span(self.min_repeats, self.max_repeats)} times"
        )

    @property
    def output_size(self) -> int:
        return self.num_bits + 1

    @property
    def memory_load(self) -> int:
        return self.max_length

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
