"""A memory, and the layers that write to it and read from it in turn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..cell import DNCCell
from ..config import DNCConfig
from ..engine import unroll
from ..sequences import Sequences
from ..state import DNCState
from .debug import Look, look


class Stage(nn.Module):
    """Layers around one memory; the state's `controller` is a tuple with that of each layer.

    At each time step, each layer in turn does what a DNC does in a step: it sees the output of the
    layer below and what was read last, writes and reads. With several, all use the first one's
    interface layer, since it belongs to the memory.
    """

    def __init__(self, layers: Sequence[DNCConfig], device: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DNCCell.from_config(one, device) for one in layers)
        for layer in self.cells[1:]:
            layer.interface = self.cells[0].interface

    @property
    def cells(self) -> list[DNCCell]:
        """The layers, by their type."""
        cells: Any = list(self.layers)
        return cells

    def complete_state(self, state: DNCState | None, batch_size: int) -> DNCState:
        """Check a state, and replace each None by zeros; see `DNCCell.complete_state`."""
        parts = self._of_each(state)
        full = [
            cell.complete_state(one, batch_size)
            for cell, one in zip(self.cells, parts, strict=True)
        ]
        return _joined(full)

    def _of_each(self, state: DNCState | None) -> list[DNCState | None]:
        """The state as each layer sees it."""
        if state is None or state.controller is None:
            return [state] * len(self.layers)
        return [state._replace(controller=one) for one in state.controller]

    def run(
        self,
        rows: Tensor,
        sequences: Sequences,
        state: DNCState | None,
        memory: bool,
        looks: list[Look] | None,
        place: int,
    ) -> tuple[Tensor, DNCState]:
        """Run whole sequences.

        Args:
            rows: those of the sequences, one step after another.
            sequences: how many rows each step has.
            state: complete, before the first step; None for zeros.
            memory: whether to use the memory.
            looks: if given, a look at the memory is appended after each layer of each step.
            place: which sequence to look at.

        Returns:
            outputs (rows, features), and the state of each sequence after its own last step.
        """
        if memory and (len(self.layers) > 1 or looks is not None) and len(rows):
            state = self.complete_state(state, sequences.batch_size)
            return unroll(partial(self._step, looks=looks, place=place), rows, sequences, state)
        ended = []
        for cell, one in zip(self.cells, self._of_each(state), strict=True):
            features, end = cell.run(rows, sequences, one, None, memory)
            ended.append(end)
            rows = cell.output(features)
        state = _joined(ended)
        if looks is not None:  # nothing was written
            steps = sum(size > place for size in sequences.batch_sizes) * len(ended)
            looks += [self._look(state, place)] * steps
        return rows, state

    def _step(
        self, x: Tensor, state: DNCState, looks: list[Look] | None, place: int
    ) -> tuple[Tensor, DNCState]:
        """One time step."""
        ended = []
        for cell, controller in zip(self.cells, state.controller, strict=True):
            features, state = cell.step(x, state._replace(controller=controller))
            ended.append(state)
            x = cell.output(features)
            if looks is not None and place < len(x):
                looks.append(self._look(state, place))
        return x, _joined(ended)

    def _look(self, state: DNCState, place: int) -> Look:
        one = state.slice_batch(slice(place, place + 1))
        return look(one, self.cells[0].config.read_topk)


def _joined(states: list[DNCState]) -> DNCState:
    """The state after all layers' turns, from the state after each."""
    return states[-1]._replace(controller=tuple(one.controller for one in states))
