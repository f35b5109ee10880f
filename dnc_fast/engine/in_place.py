"""The memory over the steps of a batch where steps write to few cells: one memory for all of them.

Composed steps put away what the cells held and put it back on the way back, see `cells`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .memory_tape import MemoryPlayback, MemoryTape


class InPlaceTape(MemoryTape):
    """A `MemoryTape` whose memory is the same before and after every step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.final.memory.copy_(self.initial.memory)

    def matrices(self, t: int) -> tuple[Tensor, Tensor]:
        """The memory, and the link matrix that is not there."""
        return self.final.memory, self.final.link


class InPlacePlayback(MemoryPlayback):
    """A `MemoryPlayback` of an `InPlaceTape`; the final state stays as it is."""

    def __init__(self, tape: MemoryTape, d_final: list[Tensor | None], d_reads: Tensor) -> None:
        super().__init__(tape, d_final, d_reads)
        self._memory = tape.final.memory.clone()

    def segment(self, last: int) -> list[tuple[Tensor, Tensor]]:
        """As of `MemoryPlayback`."""
        steps = last - last % self.tape.interval
        return [(self._memory, self.tape.final.link)] * (last - steps + 2)

    def kept(self, t: int) -> bool:
        """Nothing is made anew."""
        return True
