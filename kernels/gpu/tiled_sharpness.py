"""Sharpening over tiles of cells: a launch after the link pass, and one before it backward.

The softmax is over all cells, so one launch stores its parts and the next one reads them.
The equations, and the numbering of weightings, are in `sharpness`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .arithmetic import oneplus
from .memory import load_weights, store_weights
from .sharpness import d_sharp_logits, d_sharpness_terms, d_unsharpened, sharp_logits
from .tiles import load_numbers, load_total, softmax_totals, spread_sums, store_numbers


@triton.jit
def store_unsharpened(
    weights, raw, kept, parts, tile, n, first,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, LINKED: tl.constexpr,
    SHARPNESS: tl.constexpr, TILES: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Keep weightings (BR, n) of all read heads, numbered from `first`, and a tile's parts of their
    softmax: the largest logit, and the sum of e^(logit - the largest).

    raw: (R), HW apart, their raw sharpnesses.
    """
    r = tl.arange(0, BR)
    in_r, k = r < R, first + r
    store_weights(kept + LINKED + first * N, weights, n, N, R, BR)
    sharpness = oneplus(tl.load(raw + r * HW, mask=in_r, other=0.0).to(DTYPE))
    if tile == 0:
        tl.store(kept + SHARPNESS + k, sharpness, mask=in_r)
    logits = sharp_logits(weights, sharpness[:, None])
    logits = tl.where((n < N)[None, :], logits, -float("inf"))
    top = tl.max(logits, 1)
    parts += k * 2 * TILES + tile
    tl.store(parts, top, mask=in_r)
    tl.store(parts + TILES, tl.sum(tl.exp(logits - top[:, None]), 1), mask=in_r)


@triton.jit
def linked_kernel(
    vector, rows, columns, kept, sharp_parts,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, LINKED: tl.constexpr, SHARPNESS: tl.constexpr, STRIPS: tl.constexpr,
    CHUNKS: tl.constexpr, ROW_LANES: tl.constexpr, COLUMN_LANES: tl.constexpr,
    SHARP_TILES: tl.constexpr, SHARP_BM: tl.constexpr, BR: tl.constexpr, MASKED: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Forward and backward weightings of some cells, and their parts of the softmax.

    sharp_parts: (B, 2 HW R, 2, SHARP_TILES).
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tile * SHARP_BM + tl.arange(0, SHARP_BM)
    raw = vector + b * SIZE + interface.sharpness(W, R, HW, MASKED)
    kept += b * KEPT
    sharp_parts += b * 4 * HW * R * SHARP_TILES
    for head in tl.static_range(HW):
        part = rows + (b * HW + head) * CHUNKS * R * N
        weights = spread_sums(part, n, CHUNKS, R * N, N, R, BR, ROW_LANES, DTYPE)
        store_unsharpened(
            weights, raw + head, kept, sharp_parts, tile, n, head * R, N, R, HW, LINKED, SHARPNESS,
            SHARP_TILES, BR, DTYPE,
        )  # fmt: skip
        part = columns + (b * HW + head) * STRIPS * R * N
        weights = spread_sums(part, n, STRIPS, R * N, N, R, BR, COLUMN_LANES, DTYPE)
        store_unsharpened(
            weights, raw + R * HW + head, kept, sharp_parts, tile, n, (HW + head) * R, N, R, HW,
            LINKED, SHARPNESS, SHARP_TILES, BR, DTYPE,
        )  # fmt: skip


@triton.jit
def sharpened_tile(
    kept, parts, n, first, tile,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, LINKED: tl.constexpr,
    SHARPNESS: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The sharpened weightings (BR, n) of all read heads, numbered from `first`; 0 outside.

    The first tile keeps the largest logit and the sum of all terms.
    """
    r = tl.arange(0, BR)
    in_r, place = r < R, kept + SHARPNESS + first + r
    top, total = softmax_totals(
        parts + first * 2 * TILES, tl.full([BR], 1.0, DTYPE), R, BR, TILES, BT
    )
    if tile == 0:
        tl.store(place + 2 * HW * R, top, mask=in_r)
        tl.store(place + 4 * HW * R, total, mask=in_r)
    weights = load_weights(kept + LINKED + first * N, n, N, R, BR, DTYPE)
    sharpness = tl.load(place, mask=in_r, other=0.0)
    sharp = tl.exp(sharp_logits(weights, sharpness[:, None]) - top[:, None]) / total[:, None]
    return tl.where(in_r[:, None] & (n < N)[None, :], sharp, 0.0)


@triton.jit
def sharpened_cells(
    kept, number, n,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, LINKED: tl.constexpr,
    SHARPNESS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Some cells of a weighting from what is kept: before it was sharpened; after it, 0 outside."""
    weights = load_numbers(kept + LINKED + number * N, n, N, DTYPE)
    place = kept + SHARPNESS + number
    top, total = tl.load(place + 2 * HW * R), tl.load(place + 4 * HW * R)
    sharp = tl.exp(sharp_logits(weights, tl.load(place)) - top) / total
    return weights, tl.where(n < N, sharp, 0.0)


@triton.jit
def linked_backward_kernel(
    kept, changes, sharp_means, d_ahead, d_behind, d_sharpnesses,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, KEPT: tl.constexpr, MODES: tl.constexpr,
    LINKED: tl.constexpr, SHARPNESS: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
    SHARP_TILES: tl.constexpr, SHARP_BM: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of forward and backward weightings (B, R, HW, N), before they were sharpened.

    sharp_means: (B, 2 HW R, TILES), each tile's part of sharpened weighting times change.
    d_sharpnesses: (B, 2 HW R, SHARP_TILES), filled with parts of the gradients of the sharpnesses.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tile * SHARP_BM + tl.arange(0, SHARP_BM)
    COUNT: tl.constexpr = 1 + 2 * HW
    kept += b * KEPT
    for r in tl.static_range(R):
        change = load_numbers(changes + (b * R + r) * N, n, N, DTYPE)
        for head in tl.static_range(HW):
            for way in tl.static_range(2):
                number = (way * HW + head) * R + r
                row = b * 2 * HW * R + number
                mode = tl.load(kept + MODES + r * COUNT + (1 - way) * (1 + HW) + head)
                weights, sharp = sharpened_cells(
                    kept, number, n, N, R, HW, LINKED, SHARPNESS, DTYPE
                )
                mean = load_total(sharp_means + row * TILES, 1, TILES, BT)
                d_logits = d_sharp_logits(change, mean, mode, sharp)
                found = tl.sum(d_sharpness_terms(d_logits, weights), 0)
                tl.store(d_sharpnesses + row * SHARP_TILES + tile, found)
                sharpness = tl.load(kept + SHARPNESS + number)
                found = d_unsharpened(d_logits, weights, sharpness)
                if way == 0:
                    store_numbers(d_ahead + ((b * R + r) * HW + head) * N, found, n, N)
                else:
                    store_numbers(d_behind + ((b * R + r) * HW + head) * N, found, n, N)
