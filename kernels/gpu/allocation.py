"""Dynamic memory allocation as an op: the allocation weighting of any number of cells."""

from __future__ import annotations

import torch
from torch import Tensor

from . import allocation_in_order, launch, ops
from .allocation_backward import launch_backward
from .allocation_forward import launch_forward


def allocate(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The allocation weighting, and what its gradient needs.

    Args:
        usage: (B, N), in [0, 1].
        robust: whether usages that round to the same multiple of 2^-8 count as equal.

    Returns:
        a (B, N); P (B, N), float32 or float64; the order (B, N), int32: the cell at each place. P
        is that of each cell, or, of more cells than launch.MERGED_CELLS, of each place.
    """
    if usage.shape[1] > launch.MERGED_CELLS:
        return allocation_in_order.allocate(usage, robust)
    usage = usage.contiguous()
    allocation, products = torch.empty_like(usage), launch.new_like(usage, *usage.shape)
    order = torch.empty_like(usage, dtype=torch.int32)
    filled = products.unsqueeze(1), allocation.unsqueeze(1), order.unsqueeze(1)
    launch_forward(usage, None, *filled, robust)
    return allocation, products, order


def allocate_backward(
    d_allocation: Tensor, usage: Tensor, products: Tensor, order: Tensor
) -> Tensor:
    """Gradient of usage (B, N); `products` and `order` are what `allocate` returned."""
    d_allocation, usage, products, order = launch.contiguous(d_allocation, usage, products, order)
    if usage.shape[1] > launch.MERGED_CELLS:
        return allocation_in_order.allocate_backward(d_allocation, usage, products, order)
    d_usage = torch.empty_like(usage)
    given = products.unsqueeze(1), order.unsqueeze(1), d_allocation.unsqueeze(1)
    launch_backward(usage, None, *given, d_usage)
    return d_usage


@torch.library.custom_op("dnc_fast::allocation_weighting", mutates_args=())
def allocation_and_kept(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `allocate`; only a has a gradient."""
    return allocate(usage, robust)


@allocation_and_kept.register_fake
def _(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor, Tensor]:
    order = usage.new_empty(usage.shape, dtype=torch.int32)
    return usage.new_empty(usage.shape), launch.new_like(usage, *usage.shape), order


@torch.library.custom_op("dnc_fast::allocation_weighting_backward", mutates_args=())
def allocation_weighting_backward(
    d_allocation: Tensor, usage: Tensor, products: Tensor, order: Tensor
) -> Tensor:
    """See `allocate_backward`."""
    return allocate_backward(d_allocation, usage, products, order)


@allocation_weighting_backward.register_fake
def _(d_allocation: Tensor, usage: Tensor, products: Tensor, order: Tensor) -> Tensor:
    return usage.new_empty(usage.shape)


def _setup(ctx, inputs, output):
    _, *kept = output
    ctx.mark_non_differentiable(*kept)
    ctx.save_for_backward(inputs[0], *kept)


def _backward(ctx, d_allocation, *_):
    return allocation_weighting_backward(d_allocation, *ctx.saved_tensors), None


allocation_and_kept.register_autograd(_backward, setup_context=_setup)
ops.refuse_second_gradient(allocation_weighting_backward)


def allocation_weighting(usage: Tensor, robust: bool = False) -> Tensor:
    """(B, N): where new content is written, the least used cell first; see `allocate`."""
    return allocation_and_kept(usage, robust)[0]
