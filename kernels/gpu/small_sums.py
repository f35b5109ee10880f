"""Sums of what the strips of a small memory stored in the first launch of the backward pass."""

from __future__ import annotations

import triton
import triton.language as tl

from . import small_layout as layout
from .small_layout import load


@triton.jit
def strip_sum(start, n, in_n, STRIDE: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr):
    """The sum of what all strips stored of a vector (n)."""
    s = tl.arange(0, BSTRIPS)
    mask = (s < S)[:, None] & in_n[None, :]
    return tl.sum(tl.load(start + s[:, None] * STRIDE + n[None, :], mask=mask, other=0.0), 0)


@triton.jit
def store_sum(to, numbers, n, N: tl.constexpr, BN: tl.constexpr, BSTRIPS: tl.constexpr):
    """Store a vector (n) as the first row of a tile, in the layout that `strip_sum` leaves."""
    s = tl.arange(0, BSTRIPS)
    place = n[None, :] + tl.zeros([BSTRIPS, 1], tl.int32)
    mask = (s == 0)[:, None] & (n < N)[None, :]
    tl.store(to + place, tl.broadcast_to(numbers[None, :], [BSTRIPS, BN]), mask=mask)


@triton.jit
def written_gradient(
    scratch, head: tl.constexpr, n, N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr,
    BN: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of a head's write weighting (n), 0 outside."""
    start = scratch + layout.backward_written(N, R) + head * N + n
    found = load(start, n < N, N == BN, DTYPE) + load(start + HW * N, n < N, N == BN, DTYPE)
    rows = scratch + layout.backward_rows(N, R, HW) + head * (R + 2) * N
    return found - strip_sum(rows, n, n < N, HW * (R + 2) * N, S, BSTRIPS)


@triton.jit
def linked_sums(
    scratch, head: tl.constexpr, tile, in_tile, FULL: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr, HW: tl.constexpr, S: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A head's link matrix times the changes (r, n), and its transpose times them."""
    x = load(scratch + layout.backward_linked(N, R, HW) + head * R * N + tile, in_tile, FULL, DTYPE)
    start = scratch + layout.backward_rows(N, R, HW) + (head * (R + 2) + 2) * N + tile
    y = load(start, in_tile, FULL, DTYPE)
    for s in tl.static_range(1, S):
        y += load(start + s * HW * (R + 2) * N, in_tile, FULL, DTYPE)
    return x, y
