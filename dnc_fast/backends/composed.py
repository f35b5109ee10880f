"""The memory step put together of parts, forward and hand-derived backward: for every linkage.

Where no link matrix is kept, a step is passes over the memory and over vectors, each a part that a
backend has kernels for (`plain_parts`, `cpu_parts`, `triton_parts`). Steps are taken one after
another, and back in the opposite order; what the way back needs is put away on the way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface, parse_interface, parse_interface_backward
from ..kernels.arrays import Adjoint, Step
from ..reference import Kept, StepOptions
from ..state import MemorySizes
from .cells import KeptCells, WholeCells
from .linking import Linking


class Record(NamedTuple):
    """What a step keeps of its weightings: their largest entries, if not all are kept."""

    write: Kept | None
    read: Kept | None


class Composed:
    """The primitives of a run of composed steps, as a `MemoryTape` calls them.

    Args:
        parts: a module of parts.
        linking: what the steps do with the link.
        options: of the steps.
        keep: whether there will be a way back.
    """

    def __init__(self, parts: Any, linking: Linking, options: StepOptions, keep: bool) -> None:
        self.parts = parts
        self.linking = linking
        self.options = options
        self.keep = keep
        self.cells = WholeCells(parts) if options.write_topk is None else KeptCells(keep)
        self.records: list[Record] = []

    @staticmethod
    def array(tensor: Tensor) -> Tensor:
        """What the primitives take for a tensor: itself."""
        return tensor.detach()

    def make_scratch(self, sizes: MemorySizes, dtype: torch.dtype, device: torch.device) -> None:
        """Nothing, but that the parts are ready."""
        self.parts.prepare(dtype)

    def forward(self, step: Step, scratch: None, usage_order: str) -> None:
        """Take the next step: fill step.*1 and step.reads; the link goes on too."""
        interface = _interface(step)
        self.parts.update_usage(step, interface.free_gates)
        content = self._content(interface.write_keys, interface.write_strengths, step.memory0)
        weights, _ = self.parts.write_weighting(interface, step.usage1, content, usage_order)
        write = self._cut(weights, self.options.write_topk, step.write1)
        self.cells.write(step, interface, write)
        ahead, behind = self.linking.forward(step)
        step.precedence1.copy_(reference.update_precedence(step.precedence0, step.write1))
        content = self._content(interface.read_keys, interface.read_strengths, step.memory1)
        weights = _mix(interface.read_modes, behind, content, ahead)
        read = self._cut(weights, self.options.read_topk, step.read1)
        if read is None:
            torch.matmul(step.read1, step.memory1, out=step.reads)
        else:
            step.reads.copy_(
                (read.values.unsqueeze(-2) @ _cells_of(step.memory1, read)).squeeze(-2)
            )
        if self.keep:
            self.records.append(Record(write, read))

    def rebuild(self, step: Step, scratch: None, with_link: bool) -> None:
        """Fill memory1 from memory0 and the vectors."""
        self.parts.write_memory(step, _interface(step))

    def replay(self, step: Step) -> None:
        """Fill usage1 and precedence1 from those before and the weightings."""
        self.parts.update_usage(step, _interface(step).free_gates)
        step.precedence1.copy_(reference.update_precedence(step.precedence0, step.write1))

    def _content(self, keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
        weights: Tensor = self.parts.look_up(keys, strengths, memory).weights
        return weights

    def _cut(self, weights: Tensor, count: int | None, out: Tensor) -> Kept | None:
        """Fill out with a weighting, or with its largest entries, which are returned."""
        if count is None:
            out.copy_(weights)
            return None
        kept: Kept = self.parts.keep_largest(weights, count)
        out.zero_().scatter_(-1, kept.cells, kept.values)
        return kept

    def backward(self, step: Step, adjoint: Adjoint, scratch: None, usage_order: str) -> None:
        """Take the adjoint from the last step taken to the one before, and fill adjoint.vector.

        step.reads is the gradient of the read vectors; adjoint.* are changed in place. The link,
        and memory that is written in place, go back too.
        """
        parts, interface, record = self.parts, _interface(step), self.records.pop()
        d_memory = adjoint.memory
        d_read = self._read_backward(step, adjoint, record.read)
        keys, strengths = interface.read_keys, interface.read_strengths
        found = parts.look_up(keys, strengths, step.memory1)
        Hw, R = step.write1.shape[1], step.read1.shape[1]
        behind, content, ahead = interface.read_modes.split([Hw, 1, Hw], dim=-1)
        d_content_mode = (d_read * found.weights).sum(-1, keepdim=True)
        d_read_keys, d_read_strengths = parts.look_up_backward(
            content * d_read, found, keys, strengths, step.memory1, d_memory
        )
        del found

        # x = L_t d_read and y = L_t^T d_read serve both the modes and the read weightings.
        x, y, d_write, d_precedence = self.linking.backward(step, d_read, ahead, behind)
        last = step.read0.unsqueeze(1)
        if x is None:
            nothing = d_read.new_zeros(len(d_read), R, Hw)
            d_modes = torch.cat([nothing, d_content_mode, nothing], dim=-1)
            adjoint.read.zero_()
        else:
            parts_of_modes = [(last * x).sum(-1).mT, d_content_mode, (last * y).sum(-1).mT]
            d_modes = torch.cat(parts_of_modes, dim=-1)
            torch.sum(behind.mT.unsqueeze(-1) * x + ahead.mT.unsqueeze(-1) * y, 1, out=adjoint.read)
        del x, y, d_read

        d_precedence0, d_write_precedence = reference.update_precedence_backward(
            adjoint.precedence, step.precedence0, step.write1
        )
        adjoint.precedence.copy_(
            d_precedence0 if d_precedence is None else d_precedence0 + d_precedence
        )
        d_write_memory, d_erase, d_vectors = self.cells.write_backward(step, interface, d_memory)
        d_weights = adjoint.write + d_write_precedence + d_write_memory
        if d_write is not None:
            d_weights += d_write
        if record.write is not None:
            d_weights = _cut_backward(d_weights, record.write)

        keys, strengths = interface.write_keys, interface.write_strengths
        found = parts.look_up(keys, strengths, step.memory0)
        d_allocation_gates, d_write_gates, d_usage, d_content = parts.write_weighting_backward(
            d_weights, interface, step.usage1, found.weights, usage_order
        )
        d_write_keys, d_write_strengths = parts.look_up_backward(
            d_content, found, keys, strengths, step.memory0, d_memory
        )
        adjoint.usage.add_(d_usage)
        d_free_gates = parts.update_usage_backward(
            step, interface.free_gates, adjoint.usage, adjoint.write, adjoint.read
        )
        d_interface = Interface(
            read_keys=d_read_keys,
            read_strengths=d_read_strengths,
            write_keys=d_write_keys,
            write_strengths=d_write_strengths,
            erase_vectors=d_erase,
            write_vectors=d_vectors,
            free_gates=d_free_gates,
            allocation_gates=d_allocation_gates,
            write_gates=d_write_gates,
            read_modes=d_modes,
        )
        adjoint.vector.copy_(parse_interface_backward(d_interface, interface))

    def _read_backward(self, step: Step, adjoint: Adjoint, read: Kept | None) -> Tensor:
        """The gradient of the read weightings, before they were cut; adds to adjoint.memory."""
        if read is None:
            adjoint.memory.baddbmm_(step.read1.mT, step.reads)
            return torch.baddbmm(adjoint.read, step.reads, step.memory1.mT)
        cells = _cells_of(step.memory1, read)
        d_values = (cells @ step.reads.unsqueeze(-1)).squeeze(-1)
        d_values += adjoint.read.gather(-1, read.cells)
        parts = read.values.unsqueeze(-1) * step.reads.unsqueeze(-2)
        for r, cells_of_head in enumerate(read.cells.unbind(1)):  # each has a cell only once
            index = cells_of_head.unsqueeze(-1).expand_as(parts[:, r])
            adjoint.memory.scatter_add_(1, index, parts[:, r])
        return reference.keep_largest_backward(d_values, read, step.memory1.shape[1])


def _interface(step: Step) -> Interface:
    return parse_interface(
        step.vector, step.memory0.shape[-1], step.read0.shape[1], step.write0.shape[1]
    )


def _mix(
    read_modes: Tensor, behind: Tensor | None, content: Tensor, ahead: Tensor | None
) -> Tensor:
    """`read_weighting` of directional weightings (B, Hw, R, N), or of none."""
    if behind is None or ahead is None:
        return read_modes[..., read_modes.shape[-1] // 2, None] * content
    return reference.read_weighting(
        read_modes, behind.transpose(1, 2), content, ahead.transpose(1, 2)
    )


def _cells_of(memory: Tensor, kept: Kept) -> Tensor:
    """The rows (B, heads, K, W) of the memory that were kept."""
    index = kept.cells.flatten(1).unsqueeze(-1).expand(-1, -1, memory.shape[-1])
    return memory.gather(1, index).unflatten(1, kept.cells.shape[1:])


def _cut_backward(d_weights: Tensor, kept: Kept) -> Tensor:
    """Through the cut of a weighting to its largest entries."""
    d_values = d_weights.gather(-1, kept.cells)
    return reference.keep_largest_backward(d_values, kept, d_weights.shape[-1])
