"""Arithmetic for all kernels: activations, rows and columns of a tile, softmax over tiles."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def multiply(a, b):
    return a * b


@triton.jit
def product(x, axis: tl.constexpr):
    """Product along an axis."""
    return tl.reduce(x, axis, multiply)


@triton.jit
def tanh(x):
    """tanh; near zero by its Taylor series, because the formula would lose more than two bits."""
    power = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - power) / (1.0 + power)
    square = x * x
    series = 62 / 2835 - square * (1382 / 155925)
    series = 2 / 15 - square * (17 / 315 - square * series)
    series = x - x * square * (1 / 3 - square * series)
    return tl.where(tl.abs(x) < 0.125, series, tl.where(x < 0.0, -size, size))


@triton.jit
def oneplus(x, LEAST: tl.constexpr = 1.0):
    """LEAST + log(1 + e^x)."""
    return LEAST + tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def gate(pointer, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """A gate in [0, 1]; RAW: what is stored is the value before the sigmoid."""
    value = tl.load(pointer).to(DTYPE)
    if RAW:
        value = tl.sigmoid(value)
    return value


@triton.jit
def gates(pointers, mask, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """Several gates, 0 where masked out."""
    value = tl.load(pointers, mask=mask, other=0.0).to(DTYPE)
    if RAW:
        value = tl.where(mask, tl.sigmoid(value), 0.0)
    return value


@triton.jit
def gate_slope(value):
    """The factor from a gate's gradient to that of the value before the sigmoid."""
    return value * (1.0 - value)


@triton.jit
def activated_strength(x, LEAST: tl.constexpr):
    """`oneplus`, but never 0: kernels divide by a strength, and multiply -inf by it."""
    return oneplus(x) if LEAST == 1.0 else tl.maximum(oneplus(x, LEAST), 1e-30)


@triton.jit
def load_strengths(at, H: tl.constexpr, BH: tl.constexpr, LEAST: tl.constexpr, DTYPE: tl.constexpr):
    """`activated_strength` of all heads, (BH)."""
    head = tl.arange(0, BH)
    return activated_strength(tl.load(at + head, mask=head < H, other=0.0).to(DTYPE), LEAST)


@triton.jit
def put_row(tile, index, row, ROWS: tl.constexpr):
    """The tile (ROWS, n) with one row replaced."""
    rows = tl.arange(0, ROWS)
    return tl.where((rows == index)[:, None], row[None, :], tile)


@triton.jit
def get_row(tile, index, ROWS: tl.constexpr):
    """One row (n) of a tile (ROWS, n)."""
    rows = tl.arange(0, ROWS)
    return tl.sum(tl.where((rows == index)[:, None], tile, 0.0), 0)


@triton.jit
def softmax(scores, mask):
    """Softmax over the last axis of (rows, n), 0 where masked out, which may not be a whole row."""
    scores = tl.where(mask, scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def store_softmax_parts(
    parts, tile, scores, mask, H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr
):
    """Store what a tile adds to softmaxes over all tiles: maximum, and sum of e^(score - maximum).

    Args:
        parts: (H, 2, TILES), filled.
        scores: (BH, n), of this tile.
        mask: (n), not all false.
    """
    head = tl.arange(0, BH)
    top = tl.max(tl.where(mask[None, :], scores, -float("inf")), 1)
    weights = tl.where(mask[None, :], tl.exp(scores - top[:, None]), 0.0)
    place = parts + head * 2 * TILES + tile
    tl.store(place, top, mask=head < H)
    tl.store(place + TILES, tl.sum(weights, 1), mask=head < H)


@triton.jit
def weighted_sums(weights, cells, in_n):
    """Sums over cells (n, w) with weights (r, n): (r, w); in_n: which cells are inside.

    From 16 by 16 sums on, Triton's compiler recognises a matrix product and rounds its factors to
    TF32, ten bits. What is masked it does not recognise.
    """
    terms = weights[:, :, None] * cells[None, :, :]
    if weights.shape[0] >= 16 and cells.shape[1] >= 16:
        terms = tl.where(in_n[None, :, None], terms, 0.0)
    return tl.sum(terms, 1)
