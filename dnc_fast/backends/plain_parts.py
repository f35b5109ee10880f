"""The parts of a composed memory step in plain torch, for every device; see `composed`.

Every set of parts has these functions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface
from ..kernels.arrays import Step
from ..links import SeparableLink, SparseLink
from ..reference.sparse_linkage import (
    Entry,
    sparse_directional_weightings_backward,
    sparse_products,
    touched_rows,
    update_sparse_link,
)

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

keep_largest = reference.keep_largest
look_up = reference.look_up
separable_gradients = reference.separable_directional_weightings_backward
separable_products = reference.separable_products
write_weighting = reference.write_weighting


def write_weighting_backward(
    d_write_weights: Tensor, interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `write_weighting`: of allocation gates, write gates, usage, content."""
    _, allocation = reference.write_weighting(interface, usage, content, usage_order)
    return reference.write_weighting_backward(
        d_write_weights, interface, usage, allocation, content, usage_order
    )


def look_up_backward(
    d_weights: Tensor,
    found: reference.LookUp,
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    d_memory: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of keys and strengths; that of the memory is added to d_memory."""
    d_keys, d_strengths, d_cells = reference.content_weighting_backward(
        d_weights, found, keys, strengths, memory
    )
    d_memory += d_cells
    return d_keys, d_strengths


def write_memory(step: Step, interface: Interface) -> None:
    """Fill step.memory1."""
    memory = reference.write_memory(
        step.memory0, step.write1, interface.erase_vectors, interface.write_vectors
    )
    step.memory1.copy_(memory)


def write_memory_backward(
    step: Step, interface: Interface, d_memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of write weightings, erase and write vectors; d_memory goes from M_t to M_{t-1}."""
    d_before, d_write, d_erase, d_vectors = reference.write_memory_backward(
        d_memory, step.memory0, step.write1, interface.erase_vectors, interface.write_vectors
    )
    d_memory.copy_(d_before)
    return d_write, d_erase, d_vectors


def update_sparse_link_(
    link: SparseLink, entry: Entry, threshold: float | None
) -> tuple[Tensor, SparseLink]:
    """Take a sparse link from step t - 1 to step t, in place.

    Returns:
        the rows that may have changed (n, 3), and what they were before, (n, K) each.
    """
    rows = touched_rows(link, entry, threshold)
    before = SparseLink(*(tensor[tuple(rows.T)] for tensor in link))
    for tensor, new in zip(link, update_sparse_link(link, entry, threshold), strict=True):
        tensor.copy_(new)
    return rows, before


def sparse_backward(
    d_values: Tensor,
    link: SparseLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """Add to d_values what both directional weightings add to the gradient of a sparse link.

    Args:
        d_values: (B, Hw, N, K).
        link: of step t.
        d_read: (B, R, N), gradient of the read weightings of step t.
        last: (B, R, N), those of step t - 1.
        modes_ahead, modes_behind: (B, R, Hw).
    """
    d_read = d_read.unsqueeze(2)
    d_ahead, d_behind = modes_ahead.unsqueeze(-1) * d_read, modes_behind.unsqueeze(-1) * d_read
    d_values += sparse_directional_weightings_backward(d_ahead, d_behind, link, last)


def separable_backward(
    gradient: SeparableLink,
    link: SeparableLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """Likewise of a separable link: add to the gradients of its writes, (B, Hw, S, N) each."""
    add_separable_gradients(
        *(separable_gradients, gradient, link, d_read, last, modes_ahead, modes_behind)
    )


def add_separable_gradients(
    gradients: Callable[..., tuple[Tensor, Tensor]],
    gradient: SeparableLink,
    link: SeparableLink,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """`separable_backward` by a function that gives the gradients of a step."""
    d_ahead, d_behind = (
        modes.unsqueeze(-1) * d_read.unsqueeze(2) for modes in (modes_ahead, modes_behind)
    )
    for tensor, part in zip(gradient, gradients(d_ahead, d_behind, link, last), strict=True):
        tensor += part


def update_usage(step: Step, free_gates: Tensor) -> None:
    """Fill step.usage1."""
    psi = reference.retention(free_gates, step.read0)
    step.usage1.copy_(reference.update_usage(step.usage0, step.write0, psi))


def update_usage_backward(
    step: Step, free_gates: Tensor, d_usage: Tensor, d_write: Tensor, d_read: Tensor
) -> Tensor:
    """Gradient of the free gates; d_usage goes to the step before.

    d_write is filled with the gradient of the write weightings of the step before, to d_read that
    of its read weightings is added.
    """
    psi = reference.retention(free_gates, step.read0)
    d_before, d_last_write, d_psi = reference.update_usage_backward(
        d_usage, step.usage0, step.write0, psi
    )
    d_free_gates, d_last_read = reference.retention_backward(d_psi, free_gates, step.read0)
    d_usage.copy_(d_before)
    d_write.copy_(d_last_write)
    d_read += d_last_read
    return d_free_gates


def prepare(dtype: torch.dtype) -> None:
    """Nothing to do."""
