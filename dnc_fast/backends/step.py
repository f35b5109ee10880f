"""Memory steps with hand-derived gradients: fused if the backend can, otherwise composed of parts.

Steps run one after another, and backward in reverse order. The forward pass keeps what the backward
pass needs besides the arrays of the steps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface, parse_interface, parse_interface_backward
from ..kernels.arrays import Adjoint, Step
from ..linkages import LinkGradients, LinkRun, linkage_of
from ..linkages.selection import Kept, keep_largest_backward
from ..reference import LookUp
from ..state import MemoryState
from ..step_options import StepOptions
from .parts import Parts, StepRun
from .writing import KeptCells, WholeCells

LINK = MemoryState._fields.index("link")

Query = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""What is looked up: keys, strengths, memory, masks."""


def step_run(
    backend: Parts,
    state: MemoryState,
    options: StepOptions,
    *,
    steps: int,
    keep: bool,
    in_place: bool = False,
) -> StepRun:
    """Create what runs the memory's steps.

    Args:
        backend: provides the kernels.
        state: before the first step; its link determines the linkage.
        options: of the steps.
        steps: T.
        keep: whether there will be a backward pass.
        in_place: whether each step writes to few cells, in place in a single memory.

    Raises:
        ValueError: a separable link has no room for that many writes.
    """
    linkage = linkage_of(state.link)
    if options.fusible(linkage.is_matrix):
        dtype, device = state.memory.dtype, state.memory.device
        fused = backend.fused_step(state.sizes, dtype, device, options.usage_order, keep)
        if fused is not None:
            return fused
    dtype, N = state.memory.dtype, state.memory.shape[1]
    backend.prepare(dtype, N, linkage.name, keep, options.varied_look_up)
    link = linkage.run(state.link, options, steps, keep, backend.link_runs)
    return ComposedRun(backend, link, options, keep, in_place)


class KeptWeights(NamedTuple):
    """The entries that a step kept of its weightings, if it did not keep all."""

    write: Kept | None = None
    read: Kept | None = None


class ComposedRun(StepRun):
    """Steps composed of a backend's parts and a link's run.

    Args:
        backend: provides the parts.
        link: the run of the link.
        options: of the steps.
        keep: whether there will be a backward pass.
        in_place: whether each step writes to few cells, in place in a single memory.
    """

    def __init__(
        self, backend: Parts, link: LinkRun, options: StepOptions, keep: bool, in_place: bool
    ) -> None:
        self.backend = backend
        self.link = link
        self.options = options
        self.keep = keep
        self.cells = KeptCells(keep) if in_place else WholeCells(backend)
        self.kept: list[KeptWeights] = []

    def forward(self, step: Step) -> None:
        interface = _interface(step)
        self.backend.update_usage(step, interface.free_gates)
        content = self._look_up(_write_query(interface, step)).weights
        weights = self.backend.write_weighting(interface, step.usage1, content, self.options)
        write = self._cut(weights, self.options.write_topk, step.write1)
        self.cells.write(step, interface, write)
        linked = self.link.forward(step)
        step.precedence1.copy_(reference.update_precedence(step.precedence0, step.write1))
        content = self._look_up(_read_query(interface, step)).weights
        weights = _mix(interface.read_modes, content, linked)
        read = self._cut(weights, self.options.read_topk, step.read1)
        if read is None:
            torch.matmul(step.read1, step.memory1, out=step.reads)
        else:
            step.reads.copy_(
                (read.values.unsqueeze(-2) @ _cells_of(step.memory1, read)).squeeze(-2)
            )
        if self.keep and self.options.cut_weightings:
            self.kept.append(KeptWeights(write, read))

    def rebuild(self, step: Step, with_link: bool) -> None:
        self.cells.write(step, _interface(step), None)
        if with_link:
            self.link.rebuild(step)

    def rebuild_usage(self, step: Step) -> None:
        """Fill usage1 and precedence1 from usage0, precedence0 and the weightings."""
        self.backend.update_usage(step, _interface(step).free_gates)
        step.precedence1.copy_(reference.update_precedence(step.precedence0, step.write1))

    def link_matrix(self, state: MemoryState) -> Tensor:
        return self.link.matrix(state.link, state.precedence)

    def final_link(self, matrix: Tensor) -> Any:
        return self.link.final(matrix)

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        return self.link.begin_backward(d_final)

    def link_gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        return self.link.gradient(d_matrix)

    def _look_up(self, query: Query) -> LookUp:
        return self.backend.look_up(*query, similarity=self.options.similarity)

    def _cut(self, weights: Tensor, count: int | None, out: Tensor) -> Kept | None:
        """Fill `out` with a weighting, or with its largest entries and return those."""
        if count is None:
            out.copy_(weights)
            return None
        kept = self.backend.keep_largest(weights, count)
        out.zero_().scatter_(-1, kept.cells, kept.values)
        return kept

    def backward(self, step: Step, adjoint: Adjoint) -> None:
        """See `StepRun`; also restores the link, and memory that is written in place."""
        backend, interface = self.backend, _interface(step)
        kept = self.kept.pop() if self.options.cut_weightings else KeptWeights()
        d_read = self._read_backward(step, adjoint, kept.read)
        query, similarity = _read_query(interface, step), self.options.similarity
        found = self._look_up(query)
        Hw = step.write1.shape[1]
        behind, content, ahead = interface.read_modes.split([Hw, 1, Hw], dim=-1)
        d_content_mode = (d_read * found.weights).sum(-1, keepdim=True)
        d_read_keys, d_read_strengths, _ = backend.look_up_backward(
            content * d_read, found, adjoint.memory, *query, similarity
        )
        del found  # free its large arrays

        linked = self.link.backward(step, adjoint.link, d_read, ahead, behind)
        d_modes = _modes_backward(step, adjoint, linked, d_content_mode, ahead, behind)
        del d_read
        d_precedence, d_weights = reference.update_precedence_backward(
            adjoint.precedence, step.precedence0, step.write1
        )
        d_weights += adjoint.write
        if linked is not None:
            d_precedence += linked.precedence
            d_weights += linked.write_weights
        adjoint.precedence.copy_(d_precedence)
        d_write, d_erase, d_vectors = self.cells.write_backward(step, interface, adjoint.memory)
        d_weights += d_write
        if kept.write is not None:
            d_weights = _cut_backward(d_weights, kept.write)

        query = _write_query(interface, step)
        found = self._look_up(query)
        d_allocation_gates, d_write_gates, d_usage, d_content = backend.write_weighting_backward(
            d_weights, interface, step.usage1, found.weights, self.options
        )
        d_write_keys, d_write_strengths, _ = backend.look_up_backward(
            d_content, found, adjoint.memory, *query, similarity
        )
        adjoint.usage.add_(d_usage)
        d_free_gates = backend.update_usage_backward(step, interface.free_gates, adjoint)
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
        """Gradient of the read weightings before they were cut; adds to adjoint.memory."""
        if read is None:
            adjoint.memory.baddbmm_(step.read1.mT, step.reads)
            return torch.baddbmm(adjoint.read, step.reads, step.memory1.mT)
        cells = _cells_of(step.memory1, read)
        d_values = (cells @ step.reads.unsqueeze(-1)).squeeze(-1)
        d_values += adjoint.read.gather(-1, read.cells)
        parts = read.values.unsqueeze(-1) * step.reads.unsqueeze(-2)
        for r, cells_of_head in enumerate(read.cells.unbind(1)):  # no cell twice in a head
            index = cells_of_head.unsqueeze(-1).expand_as(parts[:, r])
            adjoint.memory.scatter_add_(1, index, parts[:, r])
        return keep_largest_backward(d_values, read, step.memory1.shape[1])


def _write_query(interface: Interface, step: Step) -> Query:
    """What the write heads look up."""
    return interface.write_keys, interface.write_strengths, step.memory0, None


def _read_query(interface: Interface, step: Step) -> Query:
    """What the read heads look up."""
    return interface.read_keys, interface.read_strengths, step.memory1, None


def _interface(step: Step) -> Interface:
    return parse_interface(
        step.vector, step.memory0.shape[-1], step.read0.shape[1], step.write0.shape[1]
    )


def _mix(read_modes: Tensor, content: Tensor, linked: tuple[Tensor, Tensor] | None) -> Tensor:
    """`read_weighting` with forward and backward weightings (B, Hw, R, N), or with none."""
    if linked is None:
        return read_modes[..., read_modes.shape[-1] // 2, None] * content
    ahead, behind = (part.transpose(1, 2) for part in linked)
    return reference.read_weighting(read_modes, behind, content, ahead)


def _modes_backward(
    step: Step,
    adjoint: Adjoint,
    linked: LinkGradients | None,
    d_content_mode: Tensor,
    ahead: Tensor,
    behind: Tensor,
) -> Tensor:
    """Gradient of the read modes; fills adjoint.read with that of the last read weightings.

    L_t d and L_t^T d give both.
    """
    if linked is None:
        adjoint.read.zero_()
        nothing = torch.zeros_like(ahead)
        return torch.cat([nothing, d_content_mode, nothing], dim=-1)
    last, x, y = step.read0.unsqueeze(1), linked.ahead, linked.behind
    torch.sum(behind.mT.unsqueeze(-1) * x + ahead.mT.unsqueeze(-1) * y, 1, out=adjoint.read)
    parts = [(last * x).sum(-1).mT, d_content_mode, (last * y).sum(-1).mT]
    return torch.cat(parts, dim=-1)


def _cells_of(memory: Tensor, kept: Kept) -> Tensor:
    """The kept cells' contents, (B, heads, K, W)."""
    index = kept.cells.flatten(1).unsqueeze(-1).expand(-1, -1, memory.shape[-1])
    return memory.gather(1, index).unflatten(1, kept.cells.shape[1:])


def _cut_backward(d_weights: Tensor, kept: Kept) -> Tensor:
    """The gradient of a weighting before it was cut to its largest entries."""
    d_values = d_weights.gather(-1, kept.cells)
    return keep_largest_backward(d_values, kept, d_weights.shape[-1])


def final_gradients(given: list[Tensor | None], run: StepRun, like: MemoryState) -> MemoryState:
    """Gradients of the final state, from which a backward pass starts; it changes them in place.

    Args:
        given: those of the final state's tensors; None means zeros.
        run: the steps.
        like: a state whose link is a matrix, for the shapes.
    """
    after = len(given) - (len(MemoryState._fields) - LINK - 1)
    d_matrix = run.begin_backward(given[LINK:after])
    parts = zip([*given[:LINK], d_matrix, *given[after:]], like, strict=True)
    return MemoryState(
        *(
            torch.zeros_like(tensor)
            if part is None
            else part.clone(memory_format=torch.contiguous_format)
            for part, tensor in parts
        )
    )


def first_gradients(
    gradient: MemoryState, run: StepRun, initial: MemoryState
) -> list[Tensor | None]:
    """Gradients of the initial state's tensors, from those at the end of a backward pass."""
    run.finish_backward(initial.memory, gradient.memory)
    return [*gradient[:LINK], *run.link_gradient(gradient.link), *gradient[LINK + 1 :]]
