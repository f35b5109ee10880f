"""Copy: see a sequence of random bit vectors, then repeat it (Graves et al. 2014, 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checks import check_integer
from ..options import option
from .base import VectorTask, doubling, random_bits, span, uniform
from .batch import Batch


@dataclass(frozen=True)
class CopyTask(VectorTask):
    """An episode is `num_sequences` rounds of: start cue, vectors, recall cue, answers.

    The input has `num_bits` bits and two cue channels, start and recall. A round of length l takes
    2 l + 2 steps; on its last l steps the input is blank and the target is the round's vectors in
    order. The length of each round is uniform in [min_length, max_length].
    """

    lengths_by = ("min_length", "max_length")

    min_length: int = option(1, "shortest sequence, in vectors")
    max_length: int = option(8, "longest sequence, in vectors")
    num_bits: int = option(6, "bits in a vector")
    num_sequences: int = option(1, "sequences copied one after another in an episode")

    def __post_init__(self) -> None:
        for name in ("min_length", "num_bits", "num_sequences"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("max_length", self.max_length, minimum=self.min_length)

    def __str__(self) -> str:
        again = f", {self.num_sequences} times" if self.num_sequences > 1 else ""
        return (
            f"copy {span(self.min_length, self.max_length)} vectors of {self.num_bits} bits{again}"
        )

    @property
    def memory_load(self) -> int:
        return self.max_length

    def lessons(self) -> tuple[CopyTask, ...]:
        """The longest sequence doubles from lesson to lesson."""
        sizes = doubling(self.min_length, self.max_length)
        return tuple(replace(self, max_length=size) for size in sizes)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        shape = (batch_size, self.num_sequences)
        rounds = uniform(self.min_length, self.max_length, shape, generator)
        ends = (2 * rounds + 2).cumsum(1)
        lengths = ends[:, -1]
        steps = int(lengths.max())

        # For each step (T, B): its round, and how far into it the step is.
        clock = torch.arange(steps, device=rounds.device).unsqueeze(1)
        number = (clock.unsqueeze(-1) >= ends).sum(-1)
        inside = number < self.num_sequences
        number = number.clamp(max=self.num_sequences - 1)
        places = torch.arange(batch_size, device=rounds.device)
        length = rounds[places, number]
        into = clock - (ends[places, number] - (2 * length + 2))

        start = inside & (into == 0)
        hear = inside & (into >= 1) & (into <= length)
        recall = inside & (into == length + 1)
        answer = inside & (into >= length + 2)

        bits = random_bits(
            (self.num_sequences, self.max_length, batch_size, self.num_bits), generator
        )
        item = torch.where(answer, into - length - 2, into - 1).clamp(0, self.max_length - 1)
        vectors = bits[number, item, places]

        heard = vectors * hear.unsqueeze(-1)
        cues = torch.stack([start, recall], dim=-1)
        return Batch(
            inputs=torch.cat([heard, cues.float()], dim=-1),
            targets=vectors * answer.unsqueeze(-1),
            mask=answer,
            lengths=lengths,
        )
