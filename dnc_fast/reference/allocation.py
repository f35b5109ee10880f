"""Dynamic memory allocation (Graves et al. 2016, Methods, "Dynamic memory allocation")."""

from __future__ import annotations

import torch
from torch import Tensor

from ..portable import cumulative_product, stable_order
from ..step_options import StepOptions
from .heads import product_over_heads, products_of_others

softmax_backward = torch.ops.aten._softmax_backward_data

EPSILON = 1e-6
"""Keeps usages above zero: u' = e + (1 - e) u."""

ROBUST_GRID = 2.0**-8
"""Usages that round to the same multiple of this count as equal in the robust order."""


def retention(free_gates: Tensor, read_weights: Tensor) -> Tensor:
    """How much of each cell's usage the read heads retain: psi = prod_r (1 - f_r wr_r).

    Equation (4) of docs/primer.md.

    Args:
        free_gates: (B, R), in [0, 1].
        read_weights: (B, R, N), of the previous step.

    Returns:
        (B, N), in [0, 1].
    """
    return product_over_heads(1 - free_gates.unsqueeze(-1) * read_weights)


def update_usage(usage: Tensor, write_weights: Tensor, retention: Tensor) -> Tensor:
    """u_t = (u + (1 - u) (1 - prod_h (1 - ww_h))) psi; with one head (u + ww - u ww) psi.

    Equation (5) of docs/primer.md.

    Args:
        usage: (B, N), of the previous step.
        write_weights: (B, Hw, N), of the previous step.
        retention: (B, N).

    Returns:
        (B, N), in [0, 1].
    """
    written = 1 - product_over_heads(1 - write_weights)
    return (usage + (1 - usage) * written) * retention


def usage_order(usage: Tensor, order: str = "exact") -> Tensor:
    """The free list: cells from the least used to the most used, ties by index.

    Args:
        usage: (B, N), in [0, 1].
        order: one of `USAGE_ORDERS`. A few steps after the zero state, the usages of unwritten
            cells differ only in their last bits; "robust" ignores those bits.

    Returns:
        (B, N) int64: the cell at each position of the order. No gradient.
    """
    keys = usage.detach()
    if order == "robust":
        keys = torch.round(keys / ROBUST_GRID)
    return stable_order(keys)


def allocation_weighting(usage: Tensor, order: str = "exact") -> Tensor:
    """Where new content goes: to the freest cell first, then to the next as that one fills up.

        u' = e + (1 - e) u;  a[i] = (1 - u'_i) prod over j before i of u'_j

    The order is discontinuous and passes no gradient; the values do.

    Equation (6) of docs/primer.md.

    Args:
        usage: (B, N), in [0, 1].
        order: one of `USAGE_ORDERS`.

    Returns:
        (B, N), in [0, 1], sums to at most 1.
    """
    usage = EPSILON + (1 - EPSILON) * usage
    free_list = usage_order(usage, order)
    ordered = usage.gather(-1, free_list)
    before = torch.cat([torch.ones_like(ordered[:, :1]), ordered[:, :-1]], dim=-1)
    allocated = (1 - ordered) * cumulative_product(before, dim=-1)
    return torch.zeros_like(usage).scatter(-1, free_list, allocated)


def smooth_allocation_weighting(usage: Tensor, options: StepOptions) -> Tensor:
    """Where new content goes: to all cells, to free ones more; differentiable everywhere.

        a = (1 - prod_j u'_j) softmax(l),  u' = e + (1 - e) u
        l_i = p log f_i ("proportional"), or f_i / temperature ("softmax")
        f_i = (1 - u'_i + e) (1 - i / 2N),  i from 0

    The total is that of `allocation_weighting`, so a full memory allocates nothing. Of cells that
    are equally free the first gets most: otherwise all cells of an empty memory would get the same,
    become the same, and stay the same.

    Args:
        usage: (B, N), in [0, 1].
        options: with allocation and allocation_power or allocation_temperature.

    Returns:
        (B, N), in [0, 1], sums to at most 1.
    """
    usage = EPSILON + (1 - EPSILON) * usage
    total = 1 - usage.prod(-1, keepdim=True)
    return total * torch.softmax(_preference(usage, options), dim=-1)


def _preference(lifted: Tensor, options: StepOptions) -> Tensor:
    """l (B, N) of `smooth_allocation_weighting`, from u'."""
    free = (1 - lifted + EPSILON) * _first_come(lifted)
    if options.allocation == "proportional":
        return options.allocation_power * free.log()
    return free / options.allocation_temperature


def _first_come(usage: Tensor) -> Tensor:
    """(N): 1 - i / 2N."""
    N = usage.shape[-1]
    return 1 - torch.arange(N, dtype=usage.dtype, device=usage.device) / (2 * N)


def allocate(usage: Tensor, options: StepOptions) -> Tensor:
    """The allocation weighting (B, N) of a usage (B, N), of the kind that the options name."""
    if options.allocation == "sorted":
        return allocation_weighting(usage, options.usage_order)
    return smooth_allocation_weighting(usage, options)


def allocate_backward(d_allocation: Tensor, usage: Tensor, options: StepOptions) -> Tensor:
    """Gradient of usage (B, N) through `allocate`."""
    if options.allocation == "sorted":
        return allocation_weighting_backward(d_allocation, usage, options.usage_order)
    return smooth_allocation_weighting_backward(d_allocation, usage, options)


def retention_backward(
    d_retention: Tensor, free_gates: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `retention`: of free_gates (B, R) and read_weights (B, R, N)."""
    factors = 1 - free_gates.unsqueeze(-1) * read_weights
    d_factors = d_retention.unsqueeze(1) * products_of_others(factors)
    return -(d_factors * read_weights).sum(-1), -d_factors * free_gates.unsqueeze(-1)


def update_usage_backward(
    d_usage: Tensor, usage: Tensor, write_weights: Tensor, retention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `update_usage`: of usage (B, N), write_weights (B, Hw, N), retention (B, N)."""
    kept = 1 - write_weights
    unwritten = product_over_heads(kept)
    d_retention = d_usage * (usage + (1 - usage) * (1 - unwritten))
    d_filled = d_usage * retention
    d_write_weights = (d_filled * (1 - usage)).unsqueeze(1) * products_of_others(kept)
    return d_filled * unwritten, d_write_weights, d_retention


def allocation_weighting_backward(
    d_allocation: Tensor, usage: Tensor, order: str = "exact"
) -> Tensor:
    """Hand-derived gradient of `allocation_weighting`.

    With P_i the product of u' over the cells before i, so that a_i = (1 - u'_i) P_i:

        du'_i = (sum over k after i of da_k a_k) / u'_i - P_i da_i;  du = (1 - e) du'

    Safe at usage 0 (u' is e there) and at usage 1 (P is kept instead of a / (1 - u')).

    Args:
        d_allocation: (B, N), gradient of the weighting.
        usage, order: the arguments of `allocation_weighting`.

    Returns:
        gradient of usage (B, N).
    """
    usage = EPSILON + (1 - EPSILON) * usage
    free_list = usage_order(usage, order)
    ordered = usage.gather(-1, free_list)
    d_ordered = d_allocation.gather(-1, free_list)
    none = torch.zeros_like(ordered[:, :1])
    products = torch.cat([none + 1, ordered[:, :-1]], dim=-1).cumprod(-1)
    terms = d_ordered * (1 - ordered) * products
    after = torch.cat([terms[:, 1:], none], dim=-1).flip(-1).cumsum(-1).flip(-1)
    d_usage = (after / ordered - products * d_ordered) * (1 - EPSILON)
    return torch.zeros_like(usage).scatter(-1, free_list, d_usage)


def smooth_allocation_weighting_backward(
    d_allocation: Tensor, usage: Tensor, options: StepOptions
) -> Tensor:
    """Hand-derived gradient of `smooth_allocation_weighting`.

    With q the softmax and S the total:

        dl = S q (da - q.da);  dS = q.da;  dS/du'_i = -prod_j u'_j / u'_i
        dl_i/du'_i = -p / (1 - u'_i + e), or -(1 - i / 2N) / temperature

    u' is at least e.

    Args:
        d_allocation: (B, N), gradient of the weighting.
        usage, options: the arguments of `smooth_allocation_weighting`.

    Returns:
        gradient of usage (B, N).
    """
    usage = EPSILON + (1 - EPSILON) * usage
    product = usage.prod(-1, keepdim=True)
    shares = torch.softmax(_preference(usage, options), dim=-1)
    d_total = (d_allocation * shares).sum(-1, keepdim=True)
    d_preference = softmax_backward((1 - product) * d_allocation, shares, -1, shares.dtype)
    if options.allocation == "proportional":
        d_usage = -options.allocation_power * d_preference / (1 - usage + EPSILON)
    else:
        d_usage = -d_preference * _first_come(usage) / options.allocation_temperature
    return (1 - EPSILON) * (d_usage - d_total * product / usage)
