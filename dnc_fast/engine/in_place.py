"""The memory over the steps of a batch where steps write to few cells: one memory for all of them.

Composed steps put away what the cells held and put it back on the way back, see `cells`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..backends.composed import Composed
from .memory_tape import MemoryPlayback, MemoryTape


class InPlaceTape(MemoryTape):
    """A `MemoryTape` whose memory is the same before and after every step.

    Of weightings that are cut, only those around the present step are held as a whole.
    """

    def __init__(self, composed: Composed, *args: Any) -> None:
        self._cut = {"write_weights": "write"}
        if composed.options.read_topk is not None:
            self._cut["read_weights"] = "read"
        super().__init__(composed, *args)
        self.final.memory.copy_(self.initial.memory)

    def alternates(self, name: str) -> bool:
        """As of `MemoryTape`."""
        return name in self._cut or super().alternates(name)

    def matrices(self, t: int) -> tuple[Tensor, Tensor]:
        """The memory, and the link matrix that is not there."""
        return self.final.memory, self.final.link

    def restore(self, t: int) -> None:
        """Make the weightings before step t whole again."""
        for name, part in self._cut.items():
            weights = self.vector_states[name][self.around(name, t)[0]]
            if t == 0:
                weights.copy_(getattr(self.initial, name)[: len(weights)])
                continue
            kept = getattr(self.primitives.records[t - 1], part)
            weights.zero_().scatter_(-1, *(x[: len(weights)] for x in (kept.cells, kept.values)))


class InPlacePlayback(MemoryPlayback):
    """A `MemoryPlayback` of an `InPlaceTape`; the final state stays as it is."""

    def __init__(self, tape: MemoryTape, d_final: list[Tensor | None], d_reads: Tensor) -> None:
        super().__init__(tape, d_final, d_reads)
        self._memory = tape.final.memory.clone()

    def backward(self, t: int) -> Tensor:
        """As of `MemoryPlayback`."""
        assert isinstance(self.tape, InPlaceTape)
        self.tape.restore(t)
        return super().backward(t)

    def segment(self, last: int) -> list[tuple[Tensor, Tensor]]:
        """As of `MemoryPlayback`."""
        steps = last - last % self.tape.interval
        return [(self._memory, self.tape.final.link)] * (last - steps + 2)

    def kept(self, t: int) -> bool:
        """Nothing is made anew."""
        return True
