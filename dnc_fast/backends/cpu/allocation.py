"""Allocation in large memories: only the cells that it reaches are sorted."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...interface import Interface
from ...kernels.cpu import allocation
from .arrays import array, arrays
from .selection import largest

REACHED = 64
"""The number of cells to try first."""


class _Reached:
    """The cells of a batch element that allocation reaches before nothing is left of it.

    Later cells in the usage order would get less than the smallest normal number; they get 0.

    Args:
        usage: (N).
        robust: whether to order by rounded usage.
    """

    def __init__(self, usage: np.ndarray, robust: bool) -> None:
        kind = usage.dtype
        lifted = np.empty_like(usage)
        allocation.lifted_usage(usage, lifted)
        keys = np.rint(lifted * kind.type(1 / allocation.GRID)) if robust else lifted
        count = REACHED
        while True:
            count = min(count, len(usage))
            self.cells = largest(keys, -1, count)
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


def _reached(
    interface: Interface, usage: Tensor, usage_order: str
) -> tuple[list[list[_Reached]], np.ndarray]:
    """What each write head reaches in each batch element, and the product of the gates (B, Hw).

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
) -> Tensor:
    """See `Parts.write_weighting`."""
    gates, allocation_gates = interface.write_gates, interface.allocation_gates
    weights = content.mul_((gates * (1 - allocation_gates)).unsqueeze(-1))
    found, shares = _reached(interface, usage, usage_order)
    values = array(weights)
    for b, heads in enumerate(found):
        for head, reached in enumerate(heads):
            values[b, head, reached.cells] += shares[b, head] * reached.weights
    return weights


def write_weighting_backward(
    d_write_weights: Tensor, interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `Parts.write_weighting_backward`."""
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


def allocate(usage: Tensor, usage_order: str) -> Tensor:
    """See `Parts.allocate`."""
    weights = torch.zeros_like(usage, memory_format=torch.contiguous_format)
    for seen, out in zip(*arrays(usage, weights), strict=True):
        reached = _Reached(seen, usage_order == "robust")
        out[reached.cells] = reached.weights
    return weights


def allocate_backward(d_weights: Tensor, usage: Tensor, usage_order: str) -> Tensor:
    """See `Parts.allocate_backward`."""
    d_usage = torch.zeros_like(usage, memory_format=torch.contiguous_format)
    for d, seen, out in zip(*arrays(d_weights, usage, d_usage), strict=True):
        reached = _Reached(seen, usage_order == "robust")
        out[reached.cells] = reached.backward(d[reached.cells])
    return d_usage
