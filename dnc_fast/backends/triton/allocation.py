"""Write weightings of a composed step, with the allocation of the Triton kernels.

Everything here gives the same bits every time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...interface import Interface
from ...kernels.gpu import allocation


class Allocated(NamedTuple):
    """What a write head allocated, and on which usage; each (B, N).

    | field    | what                                           |
    |----------|------------------------------------------------|
    | weights  | the allocation weighting                       |
    | usage    | the usage that the head saw                    |
    | products | for the gradient, see `kernels.gpu.allocation` |
    | order    | likewise                                       |
    """

    weights: Tensor
    usage: Tensor
    products: Tensor
    order: Tensor


def _allocate(usage: Tensor, order: str) -> Allocated:
    """What a write head allocates on a usage (B, N)."""
    weights, *kept = allocation.allocate(usage, order == "robust")
    return Allocated(weights, usage, *kept)


def _allocations(interface: Interface, usage: Tensor, order: str) -> list[Allocated]:
    """What the write heads allocate, one after another."""
    shares = interface.write_gates * interface.allocation_gates
    found = [_allocate(usage, order)]
    for share in shares[:, :-1].unbind(1):
        weights, usage, *_ = found[-1]
        found.append(_allocate(usage + (1 - usage) * share.unsqueeze(-1) * weights, order))
    return found


def _mixed(interface: Interface, allocated: list[Allocated], content: Tensor) -> Tensor:
    """c + g_a (a - c) of all heads, (B, Hw, N)."""
    weights = torch.stack([head.weights for head in allocated], dim=1)
    return torch.lerp(content, weights, interface.allocation_gates.unsqueeze(-1))


def write_weighting(
    interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> Tensor:
    """See `Parts.write_weighting`."""
    allocated = _allocations(interface, usage, usage_order)
    mixed = _mixed(interface, allocated, content)
    return interface.write_gates.unsqueeze(-1) * mixed


def write_weighting_backward(
    d_write_weights: Tensor, interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `Parts.write_weighting_backward`.

    Cells are sorted again, which is cheaper than keeping the orders of all steps.
    """
    allocated = _allocations(interface, usage, usage_order)
    allocation_gates, write_gates = interface.allocation_gates, interface.write_gates
    mixed = _mixed(interface, allocated, content)
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
        d_usage = d_usage + allocation.allocate_backward(d_allocation, *own[1:])
    return (
        d_gates + d_shares * write_gates,
        d_write_gates + d_shares * allocation_gates,
        d_usage,
        (1 - allocation_gates.unsqueeze(-1)) * d_mixed,
    )
