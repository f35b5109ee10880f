"""The parts of a composed memory step by the Triton kernels; see `composed`.

Each does what it does in `plain_parts`; what is a few passes over vectors of cells stays in torch,
as good at that. Everything here gives the same bits every time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface
from ..kernels.arrays import Step
from ..kernels.gpu import (
    allocation_in_order,
    content,
    memory,
    selection,
    separable_linkage,
    sparse_linkage,
)
from ..links import SeparableLink, SparseLink
from ..reference import Kept
from ..reference.allocation import EPSILON, usage_order
from ..reference.sparse_linkage import Entry
from . import plain_parts
from .plain_parts import update_usage, update_usage_backward

__all__ = [
    "keep_largest",
    "look_up",
    "look_up_backward",
    "prepare",
    "separable_backward",
    "separable_products",
    "sparse_backward",
    "sparse_products",
    "update_sparse_link_",
    "update_usage",
    "update_usage_backward",
    "write_memory",
    "write_memory_backward",
    "write_weighting",
    "write_weighting_backward",
]


class LookUp(NamedTuple):
    """What a look-up by content found: (B, heads, N). Its gradient needs no more."""

    weights: Tensor


class Allocated(NamedTuple):
    """What a write head allocated, and what it saw; each (B, N).

    | field    | what                                          |
    |----------|-----------------------------------------------|
    | weights  | the allocation weighting                      |
    | usage    | that the head saw                             |
    | lifted   | the same off zero, u'                         |
    | order    | int64, the cell at each place of the order    |
    | products | of the u' before, at each place               |
    """

    weights: Tensor
    usage: Tensor
    lifted: Tensor
    order: Tensor
    products: Tensor


def look_up(keys: Tensor, strengths: Tensor, memory: Tensor) -> LookUp:
    """Content weightings of keys (B, heads, W) on a memory."""
    weights = memory.new_empty(*keys.shape[:2], memory.shape[1])
    content.launch_look_up(keys.contiguous(), strengths.contiguous(), memory, weights)
    return LookUp(weights)


def look_up_backward(
    d_weights: Tensor,
    found: LookUp,
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    d_memory: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and strengths; that of the memory is added to d_memory."""
    keys, strengths, d_weights = (tensor.contiguous() for tensor in (keys, strengths, d_weights))
    return content.launch_look_up_backward(
        d_weights, found.weights, keys, strengths, memory, d_memory, add=True
    )


def _written(step: Step, interface: Interface) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the kernels of the write are given: memory, weightings, erase and write vectors."""
    vectors = interface.erase_vectors.contiguous(), interface.write_vectors.contiguous()
    return step.memory0, step.write1, *vectors


def write_memory(step: Step, interface: Interface) -> None:
    """Fill step.memory1."""
    memory.launch_write(*_written(step, interface), step.memory1)


def write_memory_backward(
    step: Step, interface: Interface, d_memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of write weightings, erase and write vectors; d_memory goes from M_t to M_{t-1}."""
    return memory.launch_write_backward(d_memory, *_written(step, interface), d_memory)


def _allocate(usage: Tensor, order: str) -> Allocated:
    """What a write head allocates on a usage (B, N)."""
    lifted = EPSILON + (1 - EPSILON) * usage
    cells = usage_order(lifted, order)
    weights, products = allocation_in_order.allocate(lifted, cells)
    return Allocated(weights, usage, lifted, cells, products)


def _allocations(interface: Interface, usage: Tensor, order: str) -> list[Allocated]:
    """What the write heads allocate, one after another."""
    shares = interface.write_gates * interface.allocation_gates
    found = [_allocate(usage, order)]
    for share in shares[:, :-1].unbind(1):
        weights, usage = found[-1][:2]
        found.append(_allocate(usage + (1 - usage) * share.unsqueeze(-1) * weights, order))
    return found


def _mixed(interface: Interface, allocation: Tensor, content: Tensor) -> Tensor:
    """c + g_a (a - c) of all heads, (B, Hw, N)."""
    return torch.lerp(content, allocation, interface.allocation_gates.unsqueeze(-1))


def write_weighting(
    interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor]:
    """Write weightings and allocation weightings, each (B, Hw, N)."""
    allocated = _allocations(interface, usage, usage_order)
    allocation = torch.stack([head.weights for head in allocated], dim=1)
    mixed = _mixed(interface, allocation, content)
    return interface.write_gates.unsqueeze(-1) * mixed, allocation


def write_weighting_backward(
    d_write_weights: Tensor, interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `write_weighting`: of allocation gates, write gates, usage, content.

    Cells are put in order anew, which takes less than keeping the orders of all steps.
    """
    allocated = _allocations(interface, usage, usage_order)
    allocation_gates, write_gates = interface.allocation_gates, interface.write_gates
    allocation = torch.stack([head.weights for head in allocated], dim=1)
    mixed = _mixed(interface, allocation, content)
    d_write_gates = (d_write_weights * mixed).sum(-1)
    d_mixed = write_gates.unsqueeze(-1) * d_write_weights
    shares, d_shares = write_gates * allocation_gates, torch.zeros_like(write_gates)
    d_gates, d_usage = torch.empty_like(allocation_gates), torch.zeros_like(usage)
    for head in reversed(range(len(allocated))):
        own, d_own = allocated[head], d_mixed[:, head]
        d_gates[:, head] = (d_own * (own.weights - content[:, head])).sum(-1)
        d_allocation = allocation_gates[:, head, None] * d_own
        if head + 1 < len(allocated):  # s + (1 - s) g_a g_w a is what the next head saw
            free, share = d_usage * (1 - own.usage), shares[:, head, None]
            d_shares[:, head] = (free * own.weights).sum(-1)
            d_allocation = d_allocation + free * share
            d_usage = d_usage * (1 - share * own.weights)
        d_usage = d_usage + allocation_in_order.allocate_backward(
            d_allocation, own.lifted, own.order, own.products
        )
    return (
        d_gates + d_shares * write_gates,
        d_write_gates + d_shares * allocation_gates,
        d_usage,
        (1 - allocation_gates.unsqueeze(-1)) * d_mixed,
    )


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """`reference.keep_largest`; in float64, which does not fit beside an index, that itself."""
    if weights.dtype == torch.float64:
        return reference.keep_largest(weights, count, unit_sums)
    cells = selection.largest_cells(weights.flatten(0, -2), count).unflatten(0, weights.shape[:-1])
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)


def update_sparse_link_(
    link: SparseLink, entry: Entry, threshold: float | None
) -> tuple[Tensor, SparseLink]:
    """Take a sparse link from step t - 1 to step t, in place.

    The host waits for the device once, for the number of rows that change: it is the length of
    what is returned.

    Returns:
        the rows that may have changed (n, 3), and what they were before, (n, K) each.
    """
    fan_out = link.values.shape[-1]
    if fan_out > sparse_linkage.MOST_ENTRIES:
        return plain_parts.update_sparse_link_(link, entry, threshold)
    threshold = 1 / fan_out if threshold is None else threshold
    marked = torch.zeros_like(entry.written, dtype=torch.int8).scatter_(-1, entry.rows.cells, 1)
    written = sparse_linkage.Entry(
        entry.written,
        marked,
        entry.columns.cells,
        entry.columns.values,
        entry.written.new_full((1,), threshold) if threshold else None,
    )
    rows = sparse_linkage.touched(*link, written).nonzero().contiguous()
    return rows, SparseLink(*sparse_linkage.merge(rows, *link, written))


def sparse_products(link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L_t v and L_t^T v of vectors (B, R, N), each (B, Hw, R, N)."""
    return sparse_linkage.products(*link, vectors)


def sparse_backward(
    d_values: Tensor,
    link: SparseLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """Add to d_values (B, Hw, N, K) what both directional weightings add to its gradient."""
    sparse_linkage.add_backward(d_values, link.columns, d_read, last, modes_ahead, modes_behind)


def separable_products(link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L_t v and L_t^T v of vectors (B, R, N), each (B, Hw, R, N)."""
    return separable_linkage.products(*link, vectors)


def separable_gradients(
    d_ahead: Tensor, d_behind: Tensor, link: SeparableLink, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of both directional weightings (B, R, Hw, N) of the link, (B, Hw, S, N) each."""
    ways = d_ahead.transpose(1, 2), d_behind.transpose(1, 2)
    return separable_linkage.products_backward(*ways, *link, read_weights)


def separable_backward(
    gradient: SeparableLink,
    link: SeparableLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """Add to the gradients of the writes, (B, Hw, S, N) each, what both weightings add."""
    plain_parts.add_separable_gradients(
        *(separable_gradients, gradient, link, d_read, last, modes_ahead, modes_behind)
    )


def prepare(dtype: torch.dtype) -> None:
    """Nothing to do."""
