"""The memory over the steps of a batch where steps write to few cells: one memory for all of them.

Composed steps put away what the cells held and put it back on the way back, see `cells`. What grows
with N is kept of few steps: usage and precedence of every K-th, from which those of a segment of K
steps are made anew by the weightings, of which only the entries that were kept are held.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..backends.composed import Composed
from ..state import MemoryState
from .memory_tape import MemoryPlayback, MemoryTape

OF_A_SEGMENT = ("usage", "precedence")
"""Vector states that are held before each step of a segment, and after its last."""


class InPlaceTape(MemoryTape):
    """A `MemoryTape` whose memory is the same before and after every step.

    Of weightings that are cut, only those around the present step are held as a whole.
    """

    def __init__(self, composed: Composed, *args: Any) -> None:
        self._cut = {"write_weights": "write"}
        if composed.options.read_topk is not None:
            self._cut["read_weights"] = "read"
        self._begins: dict[int, list[Tensor]] = {}
        super().__init__(composed, *args)
        self.final.memory.copy_(self.initial.memory)

    def alternates(self, name: str) -> bool:
        """As of `MemoryTape`."""
        return name in self._cut or super().alternates(name)

    def num_rows(self, name: str) -> int:
        """As of `MemoryTape`."""
        if self._of_a_segment(name):
            return (min(self.interval, self.rows.steps) + 1) * self.rows.batch_size
        return super().num_rows(name)

    def around(self, name: str, t: int) -> tuple[slice, slice]:
        """As of `MemoryTape`."""
        if not self._of_a_segment(name):
            return super().around(name, t)
        B, size = self.rows.batch_size, self.rows.batch_sizes[t]
        start = t % self.interval * B
        return slice(start, start + size), slice(start + B, start + B + size)

    def _of_a_segment(self, name: str) -> bool:
        return name in OF_A_SEGMENT and self.rows.keep

    def forward(self, t: int) -> Tensor:
        """As of `MemoryTape`."""
        if self.rows.keep and t > 0 and t % self.interval == 0:
            last = slice(self.interval * self.rows.batch_size, None)
            self._begins[t] = [self.vector_states[name][last].clone() for name in OF_A_SEGMENT]
            self._begin(t)
        return super().forward(t)

    def _begin(self, t: int) -> None:
        """Begin the segment of step t with the usage and precedence that it began with."""
        begins = self._begins.get(t, [getattr(self.initial, name) for name in OF_A_SEGMENT])
        for name, begin in zip(OF_A_SEGMENT, begins, strict=True):
            self.vector_states[name][: len(begin)] = begin

    def matrices(self, t: int) -> tuple[Tensor, Tensor]:
        """The memory, and the link matrix that is not there."""
        return self.final.memory, self.final.link

    def result(self) -> MemoryState:
        """As of `MemoryTape`; a copy, for the way back writes to the memory."""
        memory = self.final.memory
        return self.final._replace(memory=memory.clone() if self.rows.keep else memory)

    def restore(self, t: int) -> None:
        """Make the weightings before step t whole again."""
        for name, part in self._cut.items():
            block = t % 2 * self.rows.batch_size
            weights = self.vector_states[name][block : block + self.rows.batch_size]
            if t == 0:
                weights.copy_(getattr(self.initial, name))
                continue
            kept = getattr(self.primitives.records[t - 1], part)
            cells, values = kept.cells, kept.values
            weights[: len(cells)].zero_().scatter_(-1, cells, values)

    def replay(self, first: int, last: int) -> None:
        """Make usage and precedence of the steps of a segment anew."""
        self._begin(first)
        self.restore(first)
        for t in range(first, last + 1):
            self.restore(t + 1)
            size = self.rows.batch_sizes[t]
            memory, link = (matrix[:size] for matrix in self.matrices(t))
            step = self._step(t, memory, memory, link, link, self.reads[:size])
            self.primitives.replay(step)


class InPlacePlayback(MemoryPlayback):
    """A `MemoryPlayback` of an `InPlaceTape`."""

    tape: InPlaceTape

    def backward(self, t: int) -> Tensor:
        """As of `MemoryPlayback`."""
        self.tape.restore(t)
        return super().backward(t)

    def segment(self, last: int) -> list[tuple[Tensor, Tensor]]:
        """As of `MemoryPlayback`."""
        steps = last - last % self.tape.interval
        return [self.tape.matrices(last)] * (last - steps + 2)

    def _rebuild(self, last: int) -> None:
        """As of `MemoryPlayback`; the last segment is still there."""
        if last + 1 < self.tape.rows.steps:
            self.tape.replay(self._first, last)
