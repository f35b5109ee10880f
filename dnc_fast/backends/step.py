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
    dtype, N = state.memory.dtype, state.memory.shape[1]
    if backend.fuses(options, linkage.is_matrix):
        fused = backend.fused_step(state.sizes, dtype, state.memory.device, options, keep)
        if fused is not None:
            return fused
    backend.prepare(dtype, N, linkage.name, keep, options.varied_look_up)
    link = linkage.run(state.link, options, steps, keep, backend.link_runs)
    return ComposedRun(backend, link, options, keep, in_place)


class KeptWeights(NamedTuple):
    """What a step keeps of its weightings for its backward pass, besides the arrays of the step.

    | field  | what                                                                             |
    |--------|----------------------------------------------------------------------------------|
    | write  | the kept entries of the write weightings, if not all                             |
    | read   | those of the read weightings, likewise                                           |
    | linked | forward and backward weightings (B, Hw, R, N), before they were sharpened        |
    """

    write: Kept | None = None
    read: Kept | None = None
    linked: tuple[Tensor, Tensor] | None = None


class LinkedGradients(NamedTuple):
    """What comes back through forward and backward weightings.

    | field                                 | what                                                |
    |---------------------------------------|-----------------------------------------------------|
    | ahead, behind                         | (B, R, Hw), gradients of the read modes             |
    | forward_sharpness, backward_sharpness | (B, R, Hw), of the interface's, if there are any    |
    | gradients                             | the link's; None if nothing is linked               |
    """

    ahead: Tensor
    behind: Tensor
    forward_sharpness: Tensor | None = None
    backward_sharpness: Tensor | None = None
    gradients: LinkGradients | None = None


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
        self.cells: KeptCells | WholeCells = WholeCells(backend, options.deallocate)
        if in_place:
            self.cells = KeptCells(keep)
        self.kept: list[KeptWeights] = []

    def forward(self, step: Step) -> None:
        interface = self._interface(step)
        self.backend.update_usage(step, interface.free_gates)
        content = self._look_up(_write_query(interface, step)).weights
        weights = self.backend.write_weighting(interface, step.usage1, content, self.options)
        write = self._cut(weights, self.options.write_topk, step.write1)
        self.cells.write(step, interface, write)
        linked = plain = self.link.forward(step)
        if self.options.link_sharpness:
            linked = _sharpen(interface, plain)
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
        if self.keep and self._keeps:
            self.kept.append(KeptWeights(write, read, plain if linked is not plain else None))

    @property
    def _keeps(self) -> bool:
        """Whether steps keep anything of their weightings."""
        return self.options.cut_weightings or self.options.link_sharpness

    def rebuild(self, step: Step, with_link: bool) -> None:
        self.cells.write(step, self._interface(step), None)
        if with_link:
            self.link.rebuild(step)

    def rebuild_usage(self, step: Step) -> None:
        """Fill usage1 and precedence1 from usage0, precedence0 and the weightings."""
        self.backend.update_usage(step, self._interface(step).free_gates)
        step.precedence1.copy_(reference.update_precedence(step.precedence0, step.write1))

    def link_matrix(self, state: MemoryState) -> Tensor:
        return self.link.matrix(state.link, state.precedence)

    def final_link(self, matrix: Tensor) -> Any:
        return self.link.final(matrix)

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        return self.link.begin_backward(d_final)

    def link_gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        return self.link.gradient(d_matrix)

    def _interface(self, step: Step) -> Interface:
        sizes = step.memory0.shape[-1], step.read0.shape[1], step.write0.shape[1]
        return parse_interface(step.vector, *sizes, self.options.strengths, self.options.extras)

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
        backend, interface = self.backend, self._interface(step)
        kept = self.kept.pop() if self._keeps else KeptWeights()
        d_read = self._read_backward(step, adjoint, kept.read)
        query, similarity = _read_query(interface, step), self.options.similarity
        found = self._look_up(query)
        Hw = step.write1.shape[1]
        content = interface.read_modes[..., Hw, None]
        d_content_mode = (d_read * found.weights).sum(-1, keepdim=True)
        d_read_keys, d_read_strengths, d_read_masks = backend.look_up_backward(
            content * d_read, found, adjoint.memory, *query, similarity
        )
        del found  # free its large arrays

        linked = self._links_backward(step, adjoint, interface, d_read, kept.linked)
        del d_read
        d_precedence, d_weights = reference.update_precedence_backward(
            adjoint.precedence, step.precedence0, step.write1
        )
        d_weights += adjoint.write
        if linked.gradients is not None:
            d_precedence += linked.gradients.precedence
            d_weights += linked.gradients.write_weights
        adjoint.precedence.copy_(d_precedence)
        d_write, d_erase, d_vectors, d_psi = self.cells.write_backward(
            step, interface, adjoint.memory
        )
        d_weights += d_write
        if kept.write is not None:
            d_weights = _cut_backward(d_weights, kept.write)

        query = _write_query(interface, step)
        found = self._look_up(query)
        d_allocation_gates, d_write_gates, d_usage, d_content = backend.write_weighting_backward(
            d_weights, interface, step.usage1, found.weights, self.options
        )
        d_write_keys, d_write_strengths, d_write_masks = backend.look_up_backward(
            d_content, found, adjoint.memory, *query, similarity
        )
        adjoint.usage.add_(d_usage)
        d_free_gates = backend.update_usage_backward(step, interface.free_gates, adjoint)
        if not self.options.usage_gradient:
            adjoint.write.zero_()
        if d_psi is not None:
            d_more, d_read = reference.retention_backward(d_psi, interface.free_gates, step.read0)
            d_free_gates = d_free_gates + d_more
            adjoint.read.add_(d_read)
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
            read_modes=torch.cat([linked.behind, d_content_mode, linked.ahead], dim=-1),
            read_masks=d_read_masks,
            write_masks=d_write_masks,
            forward_sharpness=linked.forward_sharpness,
            backward_sharpness=linked.backward_sharpness,
        )
        options = self.options
        adjoint.vector.copy_(
            parse_interface_backward(d_interface, interface, options.strengths, options.extras)
        )

    def _links_backward(
        self,
        step: Step,
        adjoint: Adjoint,
        interface: Interface,
        d_read: Tensor,
        plain: tuple[Tensor, Tensor] | None,
    ) -> LinkedGradients:
        """Take the links back to step t - 1; fills adjoint.read.

        Args:
            step, adjoint, interface: of step t.
            d_read: (B, R, N), gradient of the read weightings.
            plain: forward and backward weightings before they were sharpened, if they were.
        """
        Hw = step.write1.shape[1]
        behind, _, ahead = interface.read_modes.split([Hw, 1, Hw], dim=-1)
        if plain is not None:
            return self._sharp_links_backward(step, adjoint, interface, d_read, plain)
        found = self.link.backward(step, adjoint.link, d_read, ahead, behind)
        if found is None:
            adjoint.read.zero_()
            none = torch.zeros_like(ahead)
            return LinkedGradients(none, none, *_zeros_if_any(interface))
        # L_t d and L_t^T d give both modes' gradients and that of the last read weightings.
        last, x, y = step.read0.unsqueeze(1), found.ahead, found.behind
        torch.sum(behind.mT.unsqueeze(-1) * x + ahead.mT.unsqueeze(-1) * y, 1, out=adjoint.read)
        d_behind, d_ahead = ((last * part).sum(-1).mT for part in (x, y))
        return LinkedGradients(d_ahead, d_behind, gradients=found)

    def _sharp_links_backward(
        self,
        step: Step,
        adjoint: Adjoint,
        interface: Interface,
        d_read: Tensor,
        plain: tuple[Tensor, Tensor],
    ) -> LinkedGradients:
        """`_links_backward` through the sharpening."""
        Hw = step.write1.shape[1]
        behind, _, ahead = interface.read_modes.split([Hw, 1, Hw], dim=-1)
        changes, d_modes, d_plain, d_sharpness = d_read.unsqueeze(1), [], [], []
        for mode, part, sharpness in zip(
            (ahead, behind), plain, _sharpnesses(interface), strict=True
        ):
            sharp = reference.sharpen(part, sharpness)
            d_modes.append((changes * sharp).sum(-1).mT)
            d_sharp = mode.mT.unsqueeze(-1) * changes
            d_part, d_s = reference.sharpen_backward(d_sharp, sharp, part, sharpness)
            d_plain.append(d_part)
            d_sharpness.append(d_s.mT)
        d_last, found = self.link.backward_of_each(step, adjoint.link, *d_plain)
        adjoint.read.copy_(d_last)
        (d_ahead, d_behind), (d_forward, d_backward) = d_modes, d_sharpness
        return LinkedGradients(d_ahead, d_behind, d_forward, d_backward, found)

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
    return interface.write_keys, interface.write_strengths, step.memory0, interface.write_masks


def _read_query(interface: Interface, step: Step) -> Query:
    """What the read heads look up."""
    return interface.read_keys, interface.read_strengths, step.memory1, interface.read_masks


def _sharpnesses(interface: Interface) -> tuple[Tensor, Tensor]:
    """(B, Hw, R): of forward and of backward weightings."""
    forward, backward = interface.forward_sharpness, interface.backward_sharpness
    assert forward is not None and backward is not None
    return forward.mT, backward.mT


def _sharpen(
    interface: Interface, linked: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor] | None:
    """Forward and backward weightings (B, Hw, R, N), sharpened; None if nothing is linked."""
    if linked is None:
        return None
    ahead, behind = map(reference.sharpen, linked, _sharpnesses(interface))
    return ahead, behind


def _zeros_if_any(interface: Interface) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of sharpnesses that had no effect."""
    forward, backward = interface.forward_sharpness, interface.backward_sharpness
    if forward is None or backward is None:
        return None, None
    return torch.zeros_like(forward), torch.zeros_like(backward)


def _mix(read_modes: Tensor, content: Tensor, linked: tuple[Tensor, Tensor] | None) -> Tensor:
    """`read_weighting` with forward and backward weightings (B, Hw, R, N), or with none."""
    if linked is None:
        return read_modes[..., read_modes.shape[-1] // 2, None] * content
    ahead, behind = (part.transpose(1, 2) for part in linked)
    return reference.read_weighting(read_modes, behind, content, ahead)


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
