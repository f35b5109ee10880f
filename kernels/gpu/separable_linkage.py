"""Temporal memory linkage as a sum of outer products, one for each write: passes over the writes.

    L = sum_s A_s C_s^T without its diagonal; A_s = ww_s g_s; C_s = p_s g_s
    g_s = product over the writes k after s of (1 - ww_k)

A program takes a range of cells through all S writes and keeps g in registers, so that no tensor of
the size of the writes is stored except gradients. A product with L takes two passes: first the dot
products of A_s and C_s with vectors, whose parts by ranges of cells are added up in a fixed order;
then their combinations. Writes lie S_STRIDE apart, since a link may be a view of a longer one.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .memory import load_weights, store_weights


@triton.jit
def row_start(bh, B_STRIDE, H_STRIDE, HW: tl.constexpr):
    """Where the writes of a batch element and write head begin."""
    return bh // HW * B_STRIDE + bh % HW * H_STRIDE


@triton.jit
def load_write(tensor, s, S_STRIDE, n, N: tl.constexpr, DTYPE: tl.constexpr):
    """Cells n of write s, 0 outside."""
    return tl.load(tensor + tl.cast(s, tl.int64) * S_STRIDE + n, mask=n < N, other=0.0).to(DTYPE)


@triton.jit
def load_dots(dots, s, which: tl.constexpr, R: tl.constexpr, BR: tl.constexpr, KINDS: tl.constexpr):
    """One of the kinds of dot products of write s with R vectors: (BR, 1), 0 outside."""
    r = tl.arange(0, BR)
    place = dots + (tl.cast(s, tl.int64) * KINDS + which) * R + r
    return tl.load(place, mask=r < R, other=0.0)[:, None]


@triton.jit
def store_dots(
    dots, s, which: tl.constexpr, found, R: tl.constexpr, BR: tl.constexpr, KINDS: tl.constexpr
):
    """Store what `load_dots` loads, found (BR)."""
    r = tl.arange(0, BR)
    tl.store(dots + (tl.cast(s, tl.int64) * KINDS + which) * R + r, found, mask=r < R)


@triton.jit
def dots_kernel(
    write, precedence, vectors, d_ahead, d_behind, dots, left, S, B_STRIDE, H_STRIDE, S_STRIDE,
    LEFT_STRIDE,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, BACK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What some cells add to C_s.v_r and A_s.v_r of each write: (B HW, TILES, S, KINDS, R).

    BACK: also to C_s.d_behind_r and A_s.d_ahead_r, both (B HW, R, N); and g_s is stored in left
    (S, B HW, N), whose writes lie LEFT_STRIDE apart.
    """
    bh, tile = launch.row_and_tile(TILES)
    KINDS: tl.constexpr = 4 if BACK else 2
    n = tile.to(tl.int32) * BN + tl.arange(0, BN)
    start = row_start(bh, B_STRIDE, H_STRIDE, HW)
    write += start
    precedence += start
    dots += (bh * TILES + tile) * S * KINDS * R
    last = load_weights(vectors + bh // HW * R * N, n, N, R, BR, DTYPE)
    if BACK:
        ahead = load_weights(d_ahead + bh * R * N, n, N, R, BR, DTYPE)
        behind = load_weights(d_behind + bh * R * N, n, N, R, BR, DTYPE)
    g = tl.full([BN], 1.0, DTYPE)
    for index in range(S):
        s = S - 1 - index
        weight = load_write(write, s, S_STRIDE, n, N, DTYPE)
        row = (weight * g)[None, :]
        column = (load_write(precedence, s, S_STRIDE, n, N, DTYPE) * g)[None, :]
        store_dots(dots, s, 0, tl.sum(column * last, 1), R, BR, KINDS)
        store_dots(dots, s, 1, tl.sum(row * last, 1), R, BR, KINDS)
        if BACK:
            store_dots(dots, s, 2, tl.sum(column * behind, 1), R, BR, KINDS)
            store_dots(dots, s, 3, tl.sum(row * ahead, 1), R, BR, KINDS)
            tl.store(left + tl.cast(s, tl.int64) * LEFT_STRIDE + bh * N + n, g, mask=n < N)
        g *= 1.0 - weight


@triton.jit
def combine_kernel(
    write, precedence, vectors, dots, ahead, behind, S, B_STRIDE, H_STRIDE, S_STRIDE,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """L v and L^T v of some cells, from the dot products (B HW, S, 2, R)."""
    bh, tile = launch.row_and_tile(TILES)
    n = tile.to(tl.int32) * BN + tl.arange(0, BN)
    start = row_start(bh, B_STRIDE, H_STRIDE, HW)
    write += start
    precedence += start
    dots += bh * S * 2 * R
    last = load_weights(vectors + bh // HW * R * N, n, N, R, BR, DTYPE)
    x, y = tl.zeros([BR, BN], DTYPE), tl.zeros([BR, BN], DTYPE)
    diagonal = tl.zeros([BN], DTYPE)
    g = tl.full([BN], 1.0, DTYPE)
    for index in range(S):
        s = S - 1 - index
        weight = load_write(write, s, S_STRIDE, n, N, DTYPE)
        row = weight * g
        column = load_write(precedence, s, S_STRIDE, n, N, DTYPE) * g
        x += load_dots(dots, s, 0, R, BR, 2) * row[None, :]
        y += load_dots(dots, s, 1, R, BR, 2) * column[None, :]
        diagonal += row * column
        g *= 1.0 - weight
    own = diagonal[None, :] * last
    store_weights(ahead + bh * R * N, x - own, n, N, R, BR)
    store_weights(behind + bh * R * N, y - own, n, N, R, BR)


@triton.jit
def backward_kernel(
    write, precedence, vectors, d_ahead, d_behind, dots, d_write, d_precedence, S, B_STRIDE,
    H_STRIDE, S_STRIDE, LEFT_STRIDE,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of some cells of all writes, from the dot products (B HW, S, 4, R).

    With D = sum_r (dfwd_r + dbwd_r) v_r and e_s = ww_s dA_s + p_s dC_s + (1 - ww_s) e_{s-1}:

        dA_s = sum_r dfwd_r (C_s.v_r) + v_r (C_s.dbwd_r) - C_s D;  dww_s = g_s (dA_s - e_{s-1})
        dC_s = sum_r v_r (A_s.dfwd_r) + dbwd_r (A_s.v_r) - A_s D;  dp_s = g_s dC_s

    d_write and d_precedence are (S, B HW, N), and their writes lie LEFT_STRIDE apart. On entry
    d_precedence holds g, since this kernel goes from the first write to the last and g is computed
    from the last to the first.
    """
    bh, tile = launch.row_and_tile(TILES)
    n = tile.to(tl.int32) * BN + tl.arange(0, BN)
    start = row_start(bh, B_STRIDE, H_STRIDE, HW)
    write += start
    precedence += start
    d_write += bh * N
    d_precedence += bh * N
    dots += bh * S * 4 * R
    last = load_weights(vectors + bh // HW * R * N, n, N, R, BR, DTYPE)
    ahead = load_weights(d_ahead + bh * R * N, n, N, R, BR, DTYPE)
    behind = load_weights(d_behind + bh * R * N, n, N, R, BR, DTYPE)
    diagonal = tl.sum((ahead + behind) * last, 0)
    d_left = tl.zeros([BN], DTYPE)
    for s in range(S):
        weight = load_write(write, s, S_STRIDE, n, N, DTYPE)
        before = load_write(precedence, s, S_STRIDE, n, N, DTYPE)
        g = load_write(d_precedence, s, LEFT_STRIDE, n, N, DTYPE)
        d_row = load_dots(dots, s, 0, R, BR, 4) * ahead + load_dots(dots, s, 2, R, BR, 4) * last
        d_row = tl.sum(d_row, 0) - before * g * diagonal
        d_column = load_dots(dots, s, 3, R, BR, 4) * last + load_dots(dots, s, 1, R, BR, 4) * behind
        d_column = tl.sum(d_column, 0) - weight * g * diagonal
        place = tl.cast(s, tl.int64) * LEFT_STRIDE + n
        tl.debug_barrier()  # several threads may hold the same number: all must have read it
        tl.store(d_write + place, g * (d_row - d_left), mask=n < N)
        tl.store(d_precedence + place, g * d_column, mask=n < N)
        d_left = weight * d_row + before * d_column + (1.0 - weight) * d_left


def _sizes(write_weights: Tensor, vectors: Tensor) -> dict[str, Any]:
    """Constants of the kernels."""
    Hw, N, R = write_weights.shape[1], write_weights.shape[3], vectors.shape[1]
    BR = launch.block(R)
    BN = min(launch.block(N), max(32, launch.WRITE_CELLS // BR))
    return {
        "N": N,
        "R": R,
        "HW": Hw,
        "TILES": launch.cdiv(N, BN),
        "BN": BN,
        "BR": BR,
        "DTYPE": launch.compute_dtype(write_weights.dtype),
        "num_warps": launch.warps(BR * BN // 4),
    }


def _writes(write_weights: Tensor, precedence: Tensor) -> tuple[Any, ...]:
    """What kernels take: the writes with equal strides and contiguous cells, S, those strides."""
    if write_weights.stride() != precedence.stride() or write_weights.stride(3) != 1:
        write_weights, precedence = write_weights.contiguous(), precedence.contiguous()
    b, h, s, _ = write_weights.stride()
    return write_weights, precedence, write_weights.shape[2], b, h, s


def products(write_weights: Tensor, precedence: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v of vectors (B, R, N), each (B, Hw, R, N).

    Args:
        write_weights, precedence: (B, Hw, S, N) each, of all writes, the oldest first.
        vectors: (B, R, N).
    """
    sizes, vectors = _sizes(write_weights, vectors), vectors.contiguous()
    write, before, S, *strides = _writes(write_weights, precedence)
    (B, Hw, _, N), R, TILES = write.shape, sizes["R"], sizes["TILES"]
    grid, unused = (B * Hw * TILES,), vectors
    parts = launch.new_like(write, B * Hw, TILES, S, 2, R)
    launch.run(
        dots_kernel, grid, write, before, vectors, unused, unused, parts, unused, S, *strides, 0,
        **sizes, BACK=False,
    )  # fmt: skip
    ahead, behind = (write.new_empty(B, Hw, R, N) for _ in range(2))
    given = (write, before, vectors, parts.sum(1), ahead, behind)
    launch.run(combine_kernel, grid, *given, S, *strides, **sizes)
    return ahead, behind


def products_backward(
    d_ahead: Tensor,
    d_behind: Tensor,
    write_weights: Tensor,
    precedence: Tensor,
    vectors: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the writes and of the precedence (B, Hw, S, N), views of (S, B, Hw, N).

    Args:
        d_ahead, d_behind: (B, Hw, R, N), of L v and of L^T v.
        write_weights, precedence, vectors: what `products` was given.
    """
    sizes = _sizes(write_weights, vectors)
    d_ahead, d_behind, vectors = launch.contiguous(d_ahead, d_behind, vectors)
    write, before, S, *strides = _writes(write_weights, precedence)
    (B, Hw, _, N), R, TILES = write.shape, sizes["R"], sizes["TILES"]
    grid = (B * Hw * TILES,)
    d_write, d_before = (write.new_empty(S, B, Hw, N) for _ in range(2))
    parts = launch.new_like(write, B * Hw, TILES, S, 4, R)
    given, places = (write, before, vectors, d_ahead, d_behind), (S, *strides, B * Hw * N)
    launch.run(dots_kernel, grid, *given, parts, d_before, *places, **sizes, BACK=True)
    launch.run(backward_kernel, grid, *given, parts.sum(1), d_write, d_before, *places, **sizes)
    d_write, d_before = (part.permute(1, 2, 0, 3) for part in (d_write, d_before))
    return d_write, d_before
