"""The smooth allocations: PROPORTIONAL and SOFTMAX, see the reference. They need no order.

    a = S q,  S = 1 - prod_j u'_j,  q = softmax_n(l),  f_i = (1 - u'_i + e) (1 - i / 2N)
    l = p log f  or  l = f / temperature; STEEPNESS is p or 1 / temperature

One program takes all cells of a batch element, a block at a time. It keeps q where the sorted
allocation keeps its products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import arrays
from . import interface
from .allocation_forward import load_share
from .arithmetic import product
from .usage_order import EPSILON, lift, load_lifted

PROPORTIONAL = tl.constexpr(arrays.PROPORTIONAL)


@triton.jit
def first_come(n, N: tl.constexpr, DTYPE: tl.constexpr):
    """1 - n / 2N."""
    return 1.0 - n.to(DTYPE) * (0.5 / N)


@triton.jit
def preferences(
    lifted, n,
    N: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """l; minus infinity outside."""
    free = (1.0 - lifted + EPSILON) * first_come(n, N, DTYPE)
    if SMOOTH == PROPORTIONAL:
        found = STEEPNESS * tl.log(free)
    else:
        found = STEEPNESS * free
    return tl.where(n < N, found, -float("inf"))


@triton.jit
def d_usage_of(
    d_allocation, mean, whole, shares, lifted, n,
    N: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of the usage of some cells.

    Args:
        d_allocation: (n).
        mean: the sum of q times d_allocation over all cells.
        whole: prod u'.
        shares, lifted: (n), q and u'.
    """
    d_preference = (1.0 - whole) * shares * (d_allocation - mean)
    if SMOOTH == PROPORTIONAL:
        slope = STEEPNESS / (1.0 - lifted + EPSILON)
    else:
        slope = STEEPNESS * first_come(n, N, DTYPE)
    found = (EPSILON - 1.0) * (slope * d_preference + mean * whole / lifted)
    return tl.where(n < N, found, 0.0)


@triton.jit
def share_row(
    lifted, n,
    N: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """q of all cells (n), 0 outside."""
    found = preferences(lifted, n, N, SMOOTH, STEEPNESS, DTYPE)
    powers = tl.exp(found - tl.max(found, 0))
    return powers / tl.sum(powers, 0)


@triton.jit
def whole_usage(lifted, n, N: tl.constexpr):
    """prod u' of all cells (n)."""
    return product(tl.where(n < N, lifted, 1.0), 0)


@triton.jit
def allocated(lifted, kept, n, N: tl.constexpr, SMOOTH: tl.constexpr):
    """An allocation weighting (n) of all cells from what is kept: q, or the products if sorted."""
    if SMOOTH:
        found = (1.0 - whole_usage(lifted, n, N)) * kept
    else:
        found = (1.0 - lifted) * kept
    return found


@triton.jit
def smooth_heads(
    usage, later_usage, shares, allocation, allocation_gates, write_gates,
    N: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, SMOOTH: tl.constexpr,
    STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads over all cells of a batch element, in one program.

    Args:
        usage: (N), that the first head sees, stored before a barrier.
        later_usage: (HW, N), filled for all heads but the first with the usage that each sees.
        shares, allocation: (HW, N), filled: q and a.
        allocation_gates, write_gates: (HW), before their sigmoid.
    """
    for head in tl.static_range(HW):
        seen = usage
        if head > 0:
            seen = later_usage + head * N
            tl.debug_barrier()  # all threads must have stored what this head sees
        top, whole = tl.full([], -float("inf"), DTYPE), tl.full([], 1.0, DTYPE)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            lifted = load_lifted(seen, n, n < N, DTYPE)
            found = preferences(lifted, n, N, SMOOTH, STEEPNESS, DTYPE)
            top = tl.maximum(top, tl.max(found, 0))
            whole *= product(lifted, 0)
        total = tl.full([], 0.0, DTYPE)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            lifted = load_lifted(seen, n, n < N, DTYPE)
            found = preferences(lifted, n, N, SMOOTH, STEEPNESS, DTYPE)
            total += tl.sum(tl.exp(found - top), 0)
        share = load_share(allocation_gates, write_gates, head, True, DTYPE)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            raw = tl.load(seen + n, mask=n < N, other=1.0).to(DTYPE)
            found = preferences(lift(raw), n, N, SMOOTH, STEEPNESS, DTYPE)
            found = tl.exp(found - top) / total
            tl.store(shares + head * N + n, found, mask=n < N)
            found *= 1.0 - whole
            tl.store(allocation + head * N + n, found, mask=n < N)
            if head + 1 < HW:
                raw += (1.0 - raw) * share * found
                tl.store(later_usage + (head + 1) * N + n, raw, mask=n < N)


@triton.jit
def smooth_heads_backward(
    usage, later_usage, shares, d_written, d_usage, d_shares, allocation_gates, write_gates,
    N: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, SMOOTH: tl.constexpr,
    STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads over all cells of a batch element, in one program, the last head first.

    Arguments and results are those of `allocation_backward.heads_backward`, with the gates raw.
    """
    for back in tl.static_range(HW):
        head = HW - 1 - back
        row = head * N
        share = load_share(allocation_gates, write_gates, head, True, DTYPE)
        seen = usage
        if head > 0:
            seen = later_usage + row
        if back > 0:
            tl.debug_barrier()  # all threads must have filled d_usage for the next head
        whole = tl.full([], 1.0, DTYPE)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            whole *= product(load_lifted(seen, n, n < N, DTYPE), 0)
        mean, to_share = tl.full([], 0.0, DTYPE), tl.full([], 0.0, DTYPE)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            found = tl.load(shares + row + n, mask=n < N, other=0.0)
            change = tl.load(d_written + row + n, mask=n < N, other=0.0)
            if back > 0:
                free = tl.load(d_usage + n, mask=n < N, other=0.0)
                free *= 1.0 - tl.load(seen + n, mask=n < N, other=0.0).to(DTYPE)
                change += free
                to_share += tl.sum(free * (1.0 - whole) * found, 0)
            mean += tl.sum(found * share * change, 0)
        for start in range(0, N, BN):
            n = start + tl.arange(0, BN)
            found = tl.load(shares + row + n, mask=n < N, other=0.0)
            change = tl.load(d_written + row + n, mask=n < N, other=0.0)
            raw = tl.load(seen + n, mask=n < N, other=1.0).to(DTYPE)
            carried = tl.zeros([BN], DTYPE)
            if back > 0:
                carried = tl.load(d_usage + n, mask=n < N, other=0.0)
                change += carried * (1.0 - raw)
                carried *= 1.0 - share * (1.0 - whole) * found
            carried += d_usage_of(
                share * change, mean, whole, found, lift(raw), n, N, SMOOTH, STEEPNESS, DTYPE
            )
            if back > 0:
                tl.debug_barrier()  # all threads must have read what this store replaces
            tl.store(d_usage + n, carried, mask=n < N)
        if back > 0:
            tl.store(d_shares + head, to_share)


@triton.jit
def smooth_kernel(
    vector, kept, usage1,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SEEN: tl.constexpr, PRODUCTS: tl.constexpr, ALLOCATION: tl.constexpr,
    SMOOTH_BN: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """`smooth_heads` for more cells than `start_kernel` takes in one program."""
    b = tl.program_id(0).to(tl.int64)
    gates, kept = vector + b * SIZE + interface.allocation_gates(W, R, HW), kept + b * KEPT
    smooth_heads(
        usage1 + b * N, kept + SEEN - N, kept + PRODUCTS, kept + ALLOCATION, gates,
        gates + HW, N, HW, SMOOTH_BN, SMOOTH, STEEPNESS, DTYPE,
    )  # fmt: skip


@triton.jit
def smooth_backward_kernel(
    vector, kept, usage1, d_written, d_seen, d_shares,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SEEN: tl.constexpr,
    PRODUCTS: tl.constexpr, SMOOTH_BN: tl.constexpr,
    SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`smooth_heads_backward` for more cells than `finish_kernel` takes in one program."""
    b = tl.program_id(0).to(tl.int64)
    gates, kept = vector + b * SIZE + interface.allocation_gates(W, R, HW), kept + b * KEPT
    smooth_heads_backward(
        usage1 + b * N, kept + SEEN - N, kept + PRODUCTS, d_written + b * HW * N, d_seen + b * N,
        d_shares + b * HW, gates, gates + HW, N, HW, SMOOTH_BN, SMOOTH, STEEPNESS, DTYPE,
    )  # fmt: skip
