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
def oneplus(x):
    """1 + log(1 + e^x)."""
    return 1.0 + tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


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
def gate_slope(value, RAW: tl.constexpr):
    """The factor from a gate's gradient to that of what is stored."""
    slope = 1.0 + 0.0 * value
    if RAW:
        slope = value * (1.0 - value)
    return slope


@triton.jit
def one_strength(pointer, DTYPE: tl.constexpr):
    """A strength, at least 1, from what is stored: oneplus(x) = 1 + log(1 + e^x)."""
    value = tl.load(pointer).to(DTYPE)
    return 1.0 + tl.maximum(value, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(value)))


@triton.jit
def load_strengths(
    strengths, H: tl.constexpr, BH: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr
):
    """Strengths of all heads (BH), at least 1; RAW: stored before oneplus(x) = 1 + log(1 + e^x)."""
    head = tl.arange(0, BH)
    value = tl.load(strengths + head, mask=head < H, other=0.0).to(DTYPE)
    if RAW:
        value = oneplus(value)
    return value


@triton.jit
def load_strength_slopes(
    strengths, H: tl.constexpr, BH: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr
):
    """The factors from the gradients of the strengths to those of what is stored."""
    head = tl.arange(0, BH)
    slopes = tl.full([BH], 1.0, DTYPE)
    if RAW:
        slopes = gates(strengths + head, head < H, True, DTYPE)
    return slopes


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
        parts: (H, 3, TILES); the third part is filled by `store_dot_parts`.
        scores: (BH, n), of this tile.
        mask: (n), not all false.

    Returns:
        e^(score - maximum), 0 where masked out.
    """
    head = tl.arange(0, BH)
    top = tl.max(tl.where(mask[None, :], scores, -float("inf")), 1)
    weights = tl.where(mask[None, :], tl.exp(scores - top[:, None]), 0.0)
    place = parts + head * 3 * TILES + tile
    tl.store(place, top, mask=head < H)
    tl.store(place + TILES, tl.sum(weights, 1), mask=head < H)
    return weights


@triton.jit
def store_dot_parts(
    parts, tile, weights, d_weights, H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr
):
    """Store what a tile adds to the dot products of softmaxes and their gradients (BH, n)."""
    head = tl.arange(0, BH)
    dots = tl.sum(weights * d_weights, 1)
    tl.store(parts + (head * 3 + 2) * TILES + tile, dots, mask=head < H)


@triton.jit
def load_softmax_parts(
    parts,
    which: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
    other: tl.constexpr,
):  # fmt: skip
    """One of the three parts, of all tiles: (BH, BT)."""
    head, t = tl.arange(0, BH)[:, None], tl.arange(0, BT)[None, :]
    mask = (head < H) & (t < TILES)
    return tl.load(parts + (head * 3 + which) * TILES + t, mask=mask, other=other)


@triton.jit
def softmax_totals(parts, H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr):
    """Combine what `store_softmax_parts` stored for all tiles.

    Returns:
        maximum (BH) and sum (BH) over all tiles, and the factors of each tile's sums (BH, BT).
    """
    t = tl.arange(0, BT)[None, :]
    tops = load_softmax_parts(parts, 0, H, BH, TILES, BT, 0.0)
    tops = tl.where(t < TILES, tops, -float("inf"))
    top = tl.max(tops, 1)
    factors = tl.exp(tops - top[:, None])
    sums = load_softmax_parts(parts, 1, H, BH, TILES, BT, 1.0)
    return top, tl.sum(sums * factors, 1), factors
