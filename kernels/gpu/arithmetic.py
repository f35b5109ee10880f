"""What kernels of every subject calculate with: activations, rows of a tile, softmax in parts."""

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
def gate(pointer, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """A gate, in [0, 1]; RAW: before its sigmoid."""
    value = tl.load(pointer).to(DTYPE)
    if RAW:
        value = 1.0 / (1.0 + tl.exp(-value))
    return value


@triton.jit
def gates(pointers, mask, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """Many gates, 0 where masked."""
    value = tl.load(pointers, mask=mask, other=0.0).to(DTYPE)
    if RAW:
        value = tl.where(mask, 1.0 / (1.0 + tl.exp(-value)), 0.0)
    return value


@triton.jit
def gate_slope(value, RAW: tl.constexpr):
    """What a gate's gradient is multiplied by."""
    slope = 1.0 + 0.0 * value
    if RAW:
        slope = value * (1.0 - value)
    return slope


@triton.jit
def strength(pointer, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """A strength, at least 1; RAW: before oneplus(x) = 1 + log(1 + e^x)."""
    value = tl.load(pointer).to(DTYPE)
    if RAW:
        value = 1.0 + tl.maximum(value, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(value)))
    return value


@triton.jit
def strength_slope(pointer, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """What a strength's gradient is multiplied by."""
    slope = 1.0 + 0.0 * tl.load(pointer).to(DTYPE)
    if RAW:
        slope = gate(pointer, True, DTYPE)
    return slope


@triton.jit
def put_row(tile, index, row, ROWS: tl.constexpr):
    """The tile (ROWS, n) with one row set."""
    rows = tl.arange(0, ROWS)
    return tl.where((rows == index)[:, None], row[None, :], tile)


@triton.jit
def get_row(tile, index, ROWS: tl.constexpr):
    """One row (n) of a tile (ROWS, n)."""
    rows = tl.arange(0, ROWS)
    return tl.sum(tl.where((rows == index)[:, None], tile, 0.0), 0)


@triton.jit
def get_column(tile, index, COLUMNS: tl.constexpr):
    """One column (n) of a tile (n, COLUMNS)."""
    columns = tl.arange(0, COLUMNS)
    return tl.sum(tl.where((columns == index)[None, :], tile, 0.0), 1)


@triton.jit
def put_column(tile, index, column, COLUMNS: tl.constexpr):
    """The tile (n, COLUMNS) with one column set."""
    columns = tl.arange(0, COLUMNS)
    return tl.where((columns == index)[None, :], column[:, None], tile)


@triton.jit
def softmax(scores, mask):
    """Softmax over the last axis of (rows, n), 0 where masked; each row has a number."""
    scores = tl.where(mask, scores, -float("inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def store_softmax_part(parts, tile, scores, mask, TILES: tl.constexpr):
    """A tile's share in a softmax over all tiles: its maximum, and its sum of e^(score - maximum).

    Args:
        parts: (2, TILES), this row's.
        scores: (n), this tile's; not all masked.

    Returns:
        e^(score - maximum), 0 where masked.
    """
    top = tl.max(tl.where(mask, scores, -float("inf")), 0)
    weights = tl.where(mask, tl.exp(scores - top), 0.0)
    tl.store(parts + tile, top)
    tl.store(parts + TILES + tile, tl.sum(weights, 0))
    return weights


@triton.jit
def softmax_parts(parts, TILES: tl.constexpr, BT: tl.constexpr):
    """What `store_softmax_part` left in all tiles.

    Returns:
        the maximum over all, the sum of e^(score - maximum), and the factor of each tile's sums.
    """
    t = tl.arange(0, BT)
    tops = tl.load(parts + t, mask=t < TILES, other=-float("inf"))
    top = tl.max(tops, 0)
    factors = tl.exp(tops - top)
    sums = tl.load(parts + TILES + t, mask=t < TILES, other=0.0)
    return top, tl.sum(sums * factors, 0), factors
