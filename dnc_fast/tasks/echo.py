"""Echo: repeat a stream of bits some steps later, in chunks with the state carried over."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checks import check_integer
from ..options import option
from .base import BitTask, random_bits
from .batch import Batch


@dataclass(frozen=True)
class EchoTask(BitTask):
    """A stream of fair bits, one a step; from step `delay` on the answer is the bit `delay` ago.

    A stream has num_chunks x chunk_length steps. Training takes one chunk at a time and carries the
    state from chunk to chunk; the score is of the whole stream. Steps before the first echo do not
    count.
    """

    goal = "right"
    published = ("right",)

    delay: int = option(5, "steps between a bit and its echo")
    chunk_length: int = option(10, "steps in a chunk: how far a training step backpropagates")
    num_chunks: int = option(20, "chunks in a stream")

    def __post_init__(self) -> None:
        for name in ("delay", "chunk_length", "num_chunks"):
            check_integer(name, getattr(self, name), minimum=1)
        if self.chunk_length * self.num_chunks <= self.delay:
            raise ValueError(
                f"delay must be less than the {self.chunk_length * self.num_chunks} steps of a "
                f"stream (chunk_length x num_chunks), got {self.delay}"
            )

    def __str__(self) -> str:
        return f"echo after {self.delay} steps, {self.num_chunks} chunks of {self.chunk_length}"

    @property
    def input_size(self) -> int:
        return 1

    @property
    def memory_load(self) -> int:
        return self.delay

    def lessons(self) -> tuple[EchoTask, ...]:
        """The delay grows by one from lesson to lesson."""
        return tuple(replace(self, delay=delay) for delay in range(1, self.delay + 1))

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B streams, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        steps = self.chunk_length * self.num_chunks
        bits = random_bits((steps, batch_size, 1), generator)
        targets = torch.zeros_like(bits)
        targets[self.delay :] = bits[: -self.delay]
        mask = torch.ones(steps, batch_size, dtype=torch.bool, device=bits.device)
        mask[: self.delay] = False
        lengths = torch.full((batch_size,), steps, device=bits.device)
        return Batch(bits, targets, mask, lengths)
