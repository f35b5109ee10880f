"""The parts of a composed memory step by the compiled CPU kernels; see `composed`, `plain_parts`.

Passes over the memory and over long vectors are shared out by strips of cells, in fixed strips, so
that results do not depend on the number of threads. What is small is left to plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import reference
from ..interface import Interface
from ..kernels.arrays import Step
from ..kernels.cpu import allocation, selection, separable_linkage, sparse_linkage, strips
from ..links import SeparableLink, SparseLink
from ..reference import Kept, LookUp
from ..reference.sparse_linkage import Entry
from . import plain_parts
from .cpu import array, compile_once
from .team import ranges_of, run_ranges

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

FEW = 4096
"""Cells up to which plain torch sorts as fast as a pass over them chooses."""

REACHED = 64
"""Cells that allocation is first tried with."""


def prepare(dtype: torch.dtype) -> None:
    """Have the kernels of a dtype compiled and loaded."""
    compile_once(dtype, "step")
    compile_once(dtype, "composed")


def _run(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """A kernel on so many strips, shared out over torch's threads."""
    run_ranges(ranges_of(count, torch.get_num_threads()), function, *arguments)


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [array(tensor.contiguous()) for tensor in tensors]


# The memory


def look_up(keys: Tensor, strengths: Tensor, memory: Tensor) -> LookUp:
    """See `reference.look_up`; the field `scale` is not filled."""
    B, heads, _ = keys.shape
    N = memory.shape[1]
    count = strips.num_strips(N)
    key_norms = (keys.square().sum(-1) + reference.content.EPSILON).sqrt()
    cell_norms, parts = memory.new_empty(B, N), memory.new_empty(B, count, heads, 2)
    similarity, weights = (memory.new_empty(B, heads, N) for _ in range(2))
    _run(
        B * count,
        strips.look_up,
        *_arrays(keys, strengths, memory, key_norms, cell_norms, similarity, weights, parts),
    )
    highest, totals = parts.unbind(-1)
    factors = (strengths.unsqueeze(1) * (highest - highest.amax(1, keepdim=True))).exp()
    factors = factors / (totals * factors).sum(1, keepdim=True)
    _run(B * count, strips.scale, *_arrays(factors, weights))
    return LookUp(weights, similarity, key_norms, cell_norms, weights)


def look_up_backward(
    d_weights: Tensor,
    found: LookUp,
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    d_memory: Tensor,
) -> tuple[Tensor, Tensor]:
    """As in `plain_parts`; d_weights and found.similarity are used up."""
    B, heads, W = keys.shape
    count = strips.num_strips(memory.shape[1])
    d_weights = d_weights.contiguous()
    parts = memory.new_empty(B, count, heads)
    _run(B * count, strips.means, *_arrays(found.weights, d_weights, parts))
    d_keys, sums = memory.new_empty(B, count, heads, W), memory.new_empty(B, count, heads, 2)
    _run(
        B * count,
        strips.look_up_backward,
        *_arrays(parts.sum(1), d_weights, found.weights, found.similarity, keys, strengths),
        *_arrays(memory, found.key_norms, found.cell_norms, d_keys, sums, d_memory),
    )
    d_strengths, d_norms = sums.sum(1).unbind(-1)
    return d_keys.sum(1) + (d_norms / found.key_norms).unsqueeze(-1) * keys, d_strengths


def write_memory(step: Step, interface: Interface) -> None:
    """Fill step.memory1."""
    B, N, _ = step.memory0.shape
    _run(
        B * strips.num_strips(N),
        strips.write_memory,
        *_arrays(step.memory0, step.write1, interface.erase_vectors, interface.write_vectors),
        array(step.memory1),
    )


def write_memory_backward(
    step: Step, interface: Interface, d_memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See `plain_parts`."""
    B, N, W = step.memory0.shape
    count, Hw = strips.num_strips(N), step.write1.shape[1]
    d_write = torch.zeros_like(step.write1)
    d_erase, d_vectors = (d_memory.new_empty(B, count, Hw, W) for _ in range(2))
    _run(
        B * count,
        strips.write_memory_backward,
        *_arrays(step.memory0, step.write1, interface.erase_vectors, interface.write_vectors),
        *_arrays(d_memory, d_write, d_erase, d_vectors, d_memory.new_empty(B, count, W)),
    )
    return d_write, d_erase.sum(1), d_vectors.sum(1)


# Usage and allocation


def update_usage(step: Step, free_gates: Tensor) -> None:
    """Fill step.usage1."""
    B, N = step.usage0.shape
    _run(
        B * strips.num_strips(N),
        strips.usage,
        *_arrays(free_gates, step.usage0, step.write0, step.read0, step.usage1),
    )


def update_usage_backward(
    step: Step, free_gates: Tensor, d_usage: Tensor, d_write: Tensor, d_read: Tensor
) -> Tensor:
    """See `plain_parts`."""
    B, N = step.usage0.shape
    count = strips.num_strips(N)
    d_gates = d_usage.new_empty(B, count, free_gates.shape[1])
    _run(
        B * count,
        strips.usage_backward,
        *_arrays(free_gates, step.usage0, step.write0, step.read0),
        *_arrays(d_usage, d_write, d_read, d_gates),
    )
    return d_gates.sum(1)


class _Reached:
    """The cells of a batch element that allocation reaches before all of it is given out.

    Those behind them in the order of usage get less than the least normal number, and count as 0.

    Args:
        usage: (N).
        robust: whether the order is by rounded usage.
    """

    def __init__(self, usage: np.ndarray, robust: bool) -> None:
        kind = usage.dtype
        lifted = np.empty_like(usage)
        allocation.lifted_usage(usage, lifted)
        keys = np.rint(lifted * kind.type(1 / allocation.GRID)) if robust else lifted
        count = REACHED
        while True:
            count = min(count, len(usage))
            self.cells = _largest(keys, -1, count)
            self.lifted = lifted[self.cells]
            self.order = np.empty(count, np.int64)
            allocation.free_list(
                self.lifted,
                robust,
                self.order,
                np.empty(count, kind),
                np.empty(count, np.float64),
                np.empty(count, np.int64),
                np.empty(allocation.COUNTS, np.int64),
            )
            product = self.lifted.prod(dtype=np.float64)
            if count == len(usage) or product < np.finfo(kind).tiny:
                break
            count *= 8
        self.weights = np.empty_like(self.lifted)
        allocation.allocation_weighting(self.lifted, self.order, self.weights)

    def backward(self, d_weights: np.ndarray) -> np.ndarray:
        """Gradient of the usage of these cells."""
        d_usage = np.zeros_like(self.lifted)
        allocation.allocation_weighting_backward(
            d_weights, self.lifted, self.order, np.empty_like(self.lifted), d_usage
        )
        return d_usage


def _largest(weights: np.ndarray, sign: int, count: int) -> np.ndarray:
    """The cells of the `count` largest of sign * weights, ties by cell, in rising order."""
    if count == len(weights):
        return np.arange(count)
    room = 2 * count + 1
    cells = np.empty(room, np.int64)
    selection.largest(
        weights,
        weights.dtype.type(sign),
        count,
        np.empty(room, weights.dtype),
        cells,
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )
    return cells[:count]


def _reached(
    interface: Interface, usage: Tensor, usage_order: str
) -> tuple[list[list[_Reached]], np.ndarray]:
    """What each write head reaches in each batch element, and the usages that they see.

    Heads allocate one after another, each on a usage that counts what those before it allocate.
    """
    gates, shares = array(interface.write_gates), array(interface.allocation_gates)
    Hw, robust = gates.shape[1], usage_order == "robust"
    found = []
    for b, seen in enumerate(array(usage)):
        found.append([_Reached(seen, robust)])
        for head in range(Hw - 1):
            last = found[b][head]
            seen = seen.copy()
            seen[last.cells] += (
                (1 - seen[last.cells]) * gates[b, head] * shares[b, head] * last.weights
            )
            found[b].append(_Reached(seen, robust))
    return found, gates * shares


def write_weighting(
    interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor]:
    """See `reference.write_weighting`; content is used up, and the second result is empty."""
    if usage.shape[-1] <= FEW:
        return plain_parts.write_weighting(interface, usage, content, usage_order)
    gates, allocation_gates = interface.write_gates, interface.allocation_gates
    weights = content.mul_((gates * (1 - allocation_gates)).unsqueeze(-1))
    found, shares = _reached(interface, usage, usage_order)
    values = array(weights)
    for b, heads in enumerate(found):
        for head, reached in enumerate(heads):
            values[b, head, reached.cells] += shares[b, head] * reached.weights
    return weights, weights


def write_weighting_backward(
    d_write_weights: Tensor, interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `plain_parts`."""
    if usage.shape[-1] <= FEW:
        return plain_parts.write_weighting_backward(
            d_write_weights, interface, usage, content, usage_order
        )
    gates, allocation_gates = interface.write_gates, interface.allocation_gates
    found, shares = _reached(interface, usage, usage_order)
    d_content = (d_write_weights * content).sum(-1)
    d_allocation = torch.zeros_like(gates)
    d_shares = torch.zeros_like(gates)
    d_usage = torch.zeros_like(usage)
    d_weights, d_shares_array = array(d_write_weights), array(d_shares)
    for b, heads in enumerate(found):
        d_seen, before = array(d_usage[b]), array(usage[b])
        for head in reversed(range(len(heads))):
            reached, share = heads[head], shares[b, head]
            cells = reached.cells
            direct = d_weights[b, head, cells]
            d_allocation[b, head] = float(direct @ reached.weights)
            d_found = share * direct
            if head + 1 < len(heads):
                seen = before[cells]  # what this head saw
                for last, other in zip(heads[:head], shares[b], strict=False):
                    places, mine, theirs = np.intersect1d(
                        cells, last.cells, assume_unique=True, return_indices=True
                    )
                    del places
                    seen[mine] += (1 - seen[mine]) * other * last.weights[theirs]
                free = d_seen[cells] * (1 - seen)
                d_shares_array[b, head] = free @ reached.weights
                d_found = d_found + free * share
                d_seen[cells] *= 1 - share * reached.weights
            d_seen[cells] += reached.backward(d_found.astype(d_weights.dtype))
    d_gates = allocation_gates * d_allocation + (1 - allocation_gates) * d_content
    d_allocation_gates = gates * (d_allocation - d_content)
    return (
        d_allocation_gates + d_shares * gates,
        d_gates + d_shares * allocation_gates,
        d_usage,
        (gates * (1 - allocation_gates)).unsqueeze(-1) * d_write_weights,
    )


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """See `reference.keep_largest`."""
    if weights.shape[-1] <= FEW or count >= weights.shape[-1]:
        return plain_parts.keep_largest(weights, count, unit_sums)
    rows = array(weights.contiguous()).reshape(-1, weights.shape[-1])
    found = [torch.from_numpy(_largest(row, 1, count)) for row in rows]
    cells = torch.stack(found).view(*weights.shape[:-1], count)
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)


# The sparse link


def update_sparse_link_(
    link: SparseLink, entry: Entry, threshold: float | None
) -> tuple[Tensor, SparseLink]:
    """See `plain_parts`."""
    B, Hw, N, K = link.values.shape
    values, columns = (array(tensor).reshape(B * Hw, N, K) for tensor in link)
    marked = np.zeros((B * Hw, N), np.uint8)
    cells = array(entry.rows.cells).reshape(B * Hw, -1)
    np.put_along_axis(marked, cells, np.uint8(sparse_linkage.WRITTEN), axis=1)
    least = values.dtype.type(1 / K if threshold is None else threshold)
    count = B * Hw * sparse_linkage.num_strips(N)
    _run(count, sparse_linkage.touch, values, columns, marked, least)
    heads, rows = np.nonzero(marked)
    before = SparseLink(
        torch.from_numpy(values[heads, rows]), torch.from_numpy(columns[heads, rows])
    )
    _run(
        len(rows),
        sparse_linkage.update,
        *(heads, rows, values, columns, marked),
        array(entry.written).reshape(B * Hw, N),
        array(entry.columns.cells).reshape(B * Hw, -1),
        array(entry.columns.values.contiguous()).reshape(B * Hw, -1),
        least,
        np.empty((len(rows), 2 * K), values.dtype),
        np.empty((len(rows), 2 * K), columns.dtype),
    )
    return torch.from_numpy(np.stack([heads // Hw, heads % Hw, rows], axis=1)), before


def sparse_products(link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.sparse_linkage.sparse_products`."""
    B, Hw, N, K = link.values.shape
    R = vectors.shape[1]
    ahead, behind = (vectors.new_empty(B, Hw, R, N) for _ in range(2))
    _run(
        B * Hw * R,
        sparse_linkage.products,
        *(array(tensor).reshape(B * Hw, N, K) for tensor in link),
        *_arrays(vectors),
        *(array(out).reshape(B * Hw, R, N) for out in (ahead, behind)),
    )
    return ahead, behind


def sparse_backward(
    d_values: Tensor,
    link: SparseLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """See `plain_parts`."""
    B, Hw, N, K = d_values.shape
    _run(
        B * Hw * sparse_linkage.num_strips(N),
        sparse_linkage.gradient,
        array(link.columns).reshape(B * Hw, N, K),
        *_arrays(d_read, last, _modes(modes_ahead, modes_behind).flatten(0, 1)),
        array(d_values).reshape(B * Hw, N, K),
    )


def _modes(ahead: Tensor, behind: Tensor) -> Tensor:
    """(B, Hw, R, 2): read modes forward and backward."""
    return torch.stack([ahead, behind], dim=-1).transpose(1, 2)


# The separable link


def _history(link: SeparableLink) -> list[np.ndarray]:
    """The writes as (S, B, Hw, N), as `linking` keeps them."""
    return _arrays(*(tensor.permute(2, 0, 1, 3) for tensor in link))


def _dots(history: list[np.ndarray], vectors: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(B Hw, S, R, 2): C_s.v and A_s.v."""
    S, B, Hw, N = history[0].shape
    count = separable_linkage.num_strips(N)
    parts = np.empty((B * Hw * count, S, vectors.shape[1], 2), vectors.dtype)
    _run(B * Hw * count, separable_linkage.dots, *history, vectors, left, parts)
    return parts.reshape(B * Hw, count, *parts.shape[1:]).sum(1)


def separable_products(link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """See `reference.separable_products`."""
    history, (of,) = _history(link), _arrays(vectors)
    _, B, Hw, N = history[0].shape
    count = B * Hw * separable_linkage.num_strips(N)
    left, diagonal = (np.empty((count, separable_linkage.STRIP), of.dtype) for _ in range(2))
    ahead, behind = (vectors.new_empty(B, Hw, vectors.shape[1], N) for _ in range(2))
    sums = _dots(history, of, left)
    _run(
        count,
        separable_linkage.combine,
        *(*history, of, sums, left, diagonal, array(ahead), array(behind)),
    )
    return ahead, behind


def separable_backward(
    gradient: SeparableLink,
    link: SeparableLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """See `plain_parts`."""
    history, (change, before) = _history(link), _arrays(d_read, last)
    S, B, Hw, N = history[0].shape
    count = B * Hw * separable_linkage.num_strips(N)
    left = np.empty((count, separable_linkage.STRIP), change.dtype)
    sums, d_sums = (_dots(history, vectors, left) for vectors in (before, change))
    ranges = ranges_of(count, torch.get_num_threads())
    shape = (len(ranges), 4, separable_linkage.STRIP)
    found = [tensor.permute(2, 0, 1, 3) for tensor in gradient]
    whole = [tensor.contiguous() for tensor in found]
    run_ranges(
        ranges,
        separable_linkage.gradients,
        np.array([first for first, _ in ranges]),
        *(*history, change, before),
        *_arrays(_modes(modes_ahead, modes_behind)),
        *(sums, d_sums),
        np.empty((len(ranges), S, separable_linkage.STRIP), change.dtype),
        np.empty(shape, change.dtype),
        *map(array, whole),
    )
    for tensor, result in zip(found, whole, strict=True):
        if result is not tensor:
            tensor.copy_(result)
