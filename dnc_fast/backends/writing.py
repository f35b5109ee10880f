"""How composed steps write to the memory: to all of its cells, or to a few, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface
from ..kernels.arrays import Step
from ..linkages.selection import Kept
from .parts import Parts


class WholeCells:
    """Every cell may change; a step writes from one memory to another.

    Args:
        backend: provides the parts.
        deallocate: whether freed cells are erased before the write.
    """

    def __init__(self, backend: Parts, deallocate: bool) -> None:
        self._backend = backend
        self._deallocate = deallocate

    def write(self, step: Step, interface: Interface, kept: Kept | None) -> None:
        """Fill step.memory1."""
        vectors = interface.erase_vectors, interface.write_vectors
        before = step.memory0
        if self._deallocate:
            before = reference.deallocate(before, _retention(step, interface))
        self._backend.write(before, step.write1, *vectors, step.memory1)

    def write_backward(
        self, step: Step, interface: Interface, d_memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Gradients of write weightings, both vectors, and retention if it erases.

        d_memory becomes that of M_{t-1}.
        """
        vectors = interface.erase_vectors, interface.write_vectors
        if not self._deallocate:
            found = self._backend.write_backward(d_memory, step.memory0, step.write1, *vectors)
            return *found, None
        psi = _retention(step, interface)
        before = reference.deallocate(step.memory0, psi)
        found = self._backend.write_backward(d_memory, before, step.write1, *vectors)
        d_before, d_psi = reference.deallocate_backward(d_memory, step.memory0, psi)
        d_memory.copy_(d_before)
        return *found, d_psi


class KeptCells:
    """Few cells change, in a single memory for all steps; their old contents are kept.

    Args:
        keep: whether there will be a backward pass.
    """

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self._before: list[tuple[Tensor, Tensor]] = []

    def write(self, step: Step, interface: Interface, kept: Kept | None) -> None:
        """Write to step.memory1, which is step.memory0."""
        assert kept is not None
        cells = kept.cells.flatten(1).sort(-1).values
        index = cells.unsqueeze(-1).expand(-1, -1, step.memory0.shape[-1])
        before = step.memory0.gather(1, index)
        weights = step.write1.gather(-1, cells.unsqueeze(1).expand(-1, step.write1.shape[1], -1))
        after = reference.write_memory(
            before, weights, interface.erase_vectors, interface.write_vectors
        )
        step.memory1.scatter_(1, index, after)  # a cell that two heads write gets one value twice
        if self._keep:
            self._before.append((cells, before))

    def write_backward(
        self, step: Step, interface: Interface, d_memory: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """See `WholeCells`; also restores the memory to what it was before the step."""
        cells, before = self._before.pop()
        index = cells.unsqueeze(-1).expand_as(before)
        heads = cells.unsqueeze(1).expand(-1, step.write1.shape[1], -1)
        d_before, d_weights, d_erase, d_vectors = reference.write_memory_backward(
            d_memory.gather(1, index) * _first_of_each(cells).unsqueeze(-1),
            before,
            step.write1.gather(-1, heads),
            interface.erase_vectors,
            interface.write_vectors,
        )
        step.memory0.scatter_(1, index, before)
        d_memory.scatter_(1, index, 0.0).scatter_add_(1, index, d_before)
        d_write = torch.zeros_like(step.write1).scatter_add_(-1, heads, d_weights)
        return d_write, d_erase, d_vectors, None


def _retention(step: Step, interface: Interface) -> Tensor:
    """psi (B, N) of a step."""
    return reference.retention(interface.free_gates, step.read0)


def _first_of_each(cells: Tensor) -> Tensor:
    """(B, n) bool: whether a cell differs from the one before it; cells increase."""
    first = torch.ones_like(cells, dtype=torch.bool)
    first[:, 1:] = cells[:, 1:] != cells[:, :-1]
    return first
