"""The memory over the steps of a batch if steps write to few cells: a single memory for all steps.

The steps save the cells' old contents and restore them in the backward pass (`backends.writing`).
Arrays that grow with N are kept for few steps only: usage and precedence of every K-th. Those of a
segment of K steps are rebuilt from them and the weightings, which are stored as their kept entries.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..backends.step import ComposedRun
from ..state import MemoryState
from .memory_tape import MemoryGradients, MemoryTape

OF_A_SEGMENT = ("usage", "precedence")
"""Vector states that are held for one segment: before each of its steps, and after the last."""


class InPlaceTape(MemoryTape):
    """A `MemoryTape` whose memory is the same before and after every step.

    Of weightings with few entries, only those around the current step are held in full.
    """

    steps: ComposedRun

    def __init__(self, steps: ComposedRun, *args: Any) -> None:
        self._cut = {"write_weights": "write"}
        if steps.options.read_topk is not None:
            self._cut["read_weights"] = "read"
        self._begins: dict[int, list[Tensor]] = {}
        super().__init__(steps, *args)
        self.final.memory.copy_(self.initial.memory)

    def alternates(self, name: str) -> bool:
        """See `MemoryTape`."""
        return name in self._cut or super().alternates(name)

    def num_rows(self, name: str) -> int:
        """See `MemoryTape`."""
        if self._of_a_segment(name):
            return (min(self.interval, self.layout.steps) + 1) * self.layout.batch_size
        return super().num_rows(name)

    def around(self, name: str, t: int) -> tuple[slice, slice]:
        """See `MemoryTape`."""
        if not self._of_a_segment(name):
            return super().around(name, t)
        B, size = self.layout.batch_size, self.layout.batch_sizes[t]
        start = t % self.interval * B
        return slice(start, start + size), slice(start + B, start + B + size)

    def _of_a_segment(self, name: str) -> bool:
        return name in OF_A_SEGMENT and self.layout.keep

    def forward(self, t: int) -> Tensor:
        """See `MemoryTape`."""
        if self.layout.keep and t > 0 and t % self.interval == 0:
            last = slice(self.interval * self.layout.batch_size, None)
            self._begins[t] = [self.vector_states[name][last].clone() for name in OF_A_SEGMENT]
            self._begin(t)
        return super().forward(t)

    def _begin(self, t: int) -> None:
        """Fill in the usage and precedence at the start of the segment of step t."""
        begins = self._begins.get(t, [getattr(self.initial, name) for name in OF_A_SEGMENT])
        for name, begin in zip(OF_A_SEGMENT, begins, strict=True):
            self.vector_states[name][: len(begin)] = begin

    def matrices(self, t: int) -> tuple[Tensor, Tensor]:
        """The memory, and an empty link matrix."""
        return self.final.memory, self.final.link

    def result(self) -> MemoryState:
        """See `MemoryTape`; a copy, because the backward pass writes to the memory."""
        memory = self.final.memory
        return self.final._replace(memory=memory.clone() if self.layout.keep else memory)

    def restore(self, t: int) -> None:
        """Rebuild the weightings before step t."""
        for name, part in self._cut.items():
            block = t % 2 * self.layout.batch_size
            weights = self.vector_states[name][block : block + self.layout.batch_size]
            if t == 0:
                weights.copy_(getattr(self.initial, name))
                continue
            kept = getattr(self.steps.kept[t - 1], part)
            cells, values = kept.cells, kept.values
            weights[: len(cells)].zero_().scatter_(-1, cells, values)

    def rebuild(self, first: int, last: int) -> None:
        """Rebuild usage and precedence of the steps of a segment."""
        self._begin(first)
        self.restore(first)
        for t in range(first, last + 1):
            self.restore(t + 1)
            size = self.layout.batch_sizes[t]
            memory, link = (matrix[:size] for matrix in self.matrices(t))
            step = self._step(t, memory, memory, link, link, self.reads[:size])
            self.steps.rebuild_usage(step)

    def begin_backward(self, d_final: list[Tensor | None], d_reads: Tensor) -> InPlaceGradients:
        return InPlaceGradients(self, d_final, d_reads)


class InPlaceGradients(MemoryGradients):
    """The `MemoryGradients` of an `InPlaceTape`."""

    tape: InPlaceTape

    def backward(self, t: int) -> Tensor:
        """See `MemoryGradients`."""
        self.tape.restore(t)
        return super().backward(t)

    def segment(self, last: int) -> list[tuple[Tensor, Tensor]]:
        """See `MemoryGradients`."""
        steps = last - last % self.tape.interval
        return [self.tape.matrices(last)] * (last - steps + 2)

    def _rebuild(self, last: int) -> None:
        """See `MemoryGradients`; the last segment need not be rebuilt."""
        if last + 1 < self.tape.layout.steps:
            self.tape.rebuild(self._first, last)
