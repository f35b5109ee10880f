"""Temporal memory linkage that keeps K entries of each row of the link matrix.

"Rows" are rows of the link matrix, stored as (N, K). All of them are read: an empty row only costs
a look at its columns, 32 bytes at K = 8, so that an empty link of a million cells costs a pass over
32 MiB, and no list of filled rows is needed. L v gathers; L^T v scatters. Adding floats by atomics
would give different bits every time, and sorting eight million entries by column every step would
take many times as long as reading them. So products are cut off at multiples of a unit, a power of
two for each head and vector, and added up as 64-bit integers, whose order does not matter. With
S = sum_i max_k |L_ik| |v_i|, which no sum of a column exceeds, the unit is between S 2^-61 and
S 2^-60, so that sums stay below 2^62; but at least 2^-100. Each product loses less than one unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch

MOST_ENTRIES = 32
"""The most entries of a row that one program merges; with more, registers spill."""


@triton.jit
def load_columns(columns, start, local, k, N: tl.constexpr, K: tl.constexpr):
    """Columns (BM, BK) of the rows from `start` on, -1 outside and in empty places."""
    mask = (start + local < N)[:, None] & (k < K)[None, :]
    place = columns + start * K + local[:, None] * K + k[None, :]
    return tl.load(place, mask=mask, other=-1)


@triton.jit
def load_values(values, start, local, k, there, K: tl.constexpr, DTYPE: tl.constexpr):
    """The values of the entries that exist, 0 elsewhere."""
    place = values + start * K + local[:, None] * K + k[None, :]
    return tl.load(place, mask=there, other=0.0).to(DTYPE)


@triton.jit
def steps_in_one(bound):
    """2^e, where `bound` is at most 2^61 units of 2^-e; e <= 100.

    Computed from the bits of the exponent. NaN if the bound is not finite.
    """
    if bound.dtype == tl.float64:
        exponent = ((bound.to(tl.int64, bitcast=True) >> 52) & 2047).to(tl.int32) - 1023
        power = (tl.minimum(60 - exponent, 100) + 1023).to(tl.int64) << 52
        steps = power.to(tl.float64, bitcast=True)
    else:
        exponent = ((bound.to(tl.int32, bitcast=True) >> 23) & 255) - 127
        steps = ((tl.minimum(60 - exponent, 100) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(bound < float("inf"), steps, float("nan"))


@triton.jit
def ahead_kernel(
    values, columns, vectors, ahead, bounds,
    N: tl.constexpr, K: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """L v of some rows, and what they add to S (B HW, R, TILES)."""
    bh, tile = launch.row_and_tile(TILES)
    start, local, k = tile * BM, tl.arange(0, BM), tl.arange(0, BK)
    i = start + local
    column = load_columns(columns + bh * N * K, start, local, k, N, K)
    value = load_values(values + bh * N * K, start, local, k, column >= 0, K, DTYPE)
    largest = tl.max(tl.abs(value), 1)
    vectors += bh // HW * R * N
    for r in tl.static_range(R):
        there = tl.load(vectors + r * N + column, mask=column >= 0, other=0.0).to(DTYPE)
        tl.store(ahead + (bh * R + r) * N + i, tl.sum(value * there, 1), mask=i < N)
        own = tl.load(vectors + r * N + i, mask=i < N, other=0.0).to(DTYPE)
        tl.store(bounds + (bh * R + r) * TILES + tile, tl.sum(largest * tl.abs(own), 0))


@triton.jit
def behind_kernel(
    values, columns, vectors, bounds, sums,
    N: tl.constexpr, K: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add what some rows contribute to L^T v to sums (B HW, N, R), in units."""
    bh, tile = launch.row_and_tile(TILES)
    start, local, k, r = tile * BM, tl.arange(0, BM), tl.arange(0, BK), tl.arange(0, BR)
    i = start + local
    column = load_columns(columns + bh * N * K, start, local, k, N, K)
    value = load_values(values + bh * N * K, start, local, k, column >= 0, K, DTYPE)
    steps = steps_in_one(tl.load(bounds + bh * R + r, mask=r < R, other=0.0))
    mask = (i < N)[:, None] & (r < R)[None, :]
    place = vectors + bh // HW * R * N + r[None, :] * N + i[:, None]
    own = tl.load(place, mask=mask, other=0.0).to(DTYPE)
    parts = ((value[:, :, None] * own[:, None, :]) * steps[None, None, :]).to(tl.int64)
    # The sums of one column lie next to each other: atomics on them are one access to memory.
    place = sums + (bh * N + tl.maximum(column, 0))[:, :, None] * R + r[None, None, :]
    there = (column >= 0)[:, :, None] & (r < R)[None, None, :] & (parts != 0)
    tl.atomic_add(place, parts, mask=there, sem="relaxed")


@triton.jit
def floats_kernel(
    sums, bounds, behind,
    N: tl.constexpr, R: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """L^T v (B HW, R, N) from the sums in units."""
    bh, tile = launch.row_and_tile(TILES)
    n, r = tile * BN + tl.arange(0, BN), tl.arange(0, BR)
    mask = (n < N)[:, None] & (r < R)[None, :]
    steps = steps_in_one(tl.load(bounds + bh * R + r, mask=r < R, other=0.0))
    found = tl.load(sums + bh * N * R + n[:, None] * R + r[None, :], mask=mask, other=0)
    place = behind + bh * R * N + r[None, :] * N + n[:, None]
    tl.store(place, found.to(DTYPE) * (1.0 / steps)[None, :], mask=mask)


@triton.jit
def backward_kernel(
    d_values, columns, d_read, last, modes_ahead, modes_behind,
    N: tl.constexpr, K: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add sum_r f_r d_r[i] v_r[j] + b_r v_r[i] d_r[j] to the gradient of entry ij of some rows."""
    bh, tile = launch.row_and_tile(TILES)
    start, local, k = tile * BM, tl.arange(0, BM), tl.arange(0, BK)
    i = start + local
    column = load_columns(columns + bh * N * K, start, local, k, N, K)
    there = column >= 0
    d_values += bh * N * K
    found = load_values(d_values, start, local, k, there, K, DTYPE)
    b, head = bh // HW, bh % HW
    d_read += b * R * N
    last += b * R * N
    modes_ahead += b * R * HW + head
    modes_behind += b * R * HW + head
    for r in tl.static_range(R):
        change = tl.load(d_read + r * N + i, mask=i < N, other=0.0).to(DTYPE)
        own = tl.load(last + r * N + i, mask=i < N, other=0.0).to(DTYPE)
        change *= tl.load(modes_ahead + r * HW)
        own *= tl.load(modes_behind + r * HW)
        found += change[:, None] * tl.load(last + r * N + column, mask=there, other=0.0)
        found += own[:, None] * tl.load(d_read + r * N + column, mask=there, other=0.0)
    tl.debug_barrier()  # several threads may hold the same number: all must have read it
    place = d_values + start * K + local[:, None] * K + k[None, :]
    tl.store(place, found, mask=there)


@triton.jit
def touched_kernel(
    values, columns, marked, touched, threshold,
    N: tl.constexpr, K: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
    DROP: tl.constexpr,
):  # fmt: skip
    """Which rows a step may change: marked ones, and those with an entry in a marked column.

    DROP: also rows with an entry below the threshold, which only a link given by a user can have.
    """
    bh, tile = launch.row_and_tile(TILES)
    start, local, k = tile * BM, tl.arange(0, BM), tl.arange(0, BK)
    i = start + local
    column = load_columns(columns + bh * N * K, start, local, k, N, K)
    marked += bh * N
    found = tl.load(marked + column, mask=column >= 0, other=0)
    if DROP:
        place = values + bh * N * K + start * K + local[:, None] * K + k[None, :]
        value = tl.load(place, mask=column >= 0, other=float("inf"))
        found = tl.where(value < tl.load(threshold), 1, found)
    own = tl.load(marked + i, mask=i < N, other=0)
    tl.store(touched + bh * N + i, tl.maximum(own, tl.max(found, 1)), mask=i < N)


@triton.jit
def merge_kernel(
    rows, values, columns, before_values, before_columns, written, marked, new_cells, new_entries,
    threshold,
    N: tl.constexpr, K: tl.constexpr, COUNT: tl.constexpr, HW: tl.constexpr, BK: tl.constexpr,
    DROP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Takes a touched row to the next step, in place, and stores what it was before.

    A marked row gets COUNT new entries; old and new ones are held side by side, (2 BK). Of those
    that remain, the K largest are kept, ties by lower column, in increasing order of columns.
    """
    index = tl.program_id(0).to(tl.int64)
    bh = tl.load(rows + index * 3) * HW + tl.load(rows + index * 3 + 1)
    row = tl.load(rows + index * 3 + 2)
    place, e = (bh * N + row) * K, tl.arange(0, 2 * BK)
    old = e < K
    column = tl.load(columns + place + e, mask=old, other=-1)
    value = tl.load(values + place + e, mask=old, other=0.0)
    tl.store(before_columns + index * K + e, column, mask=old)
    tl.store(before_values + index * K + e, value, mask=old)
    written += bh * N
    is_written = tl.load(marked + bh * N + row + 0 * e) != 0
    weight = tl.where(is_written, tl.load(written + row).to(DTYPE), 0.0)
    in_column = tl.load(written + column, mask=column >= 0, other=0.0).to(DTYPE)
    value = ((1.0 - weight) - in_column) * value.to(DTYPE)
    new = (e >= BK) & (e < BK + COUNT) & is_written
    from_new = bh * COUNT + e - BK
    column = tl.where(new, tl.load(new_cells + from_new, mask=new, other=0).to(tl.int32), column)
    entry = tl.load(new_entries + from_new, mask=new, other=0.0).to(DTYPE)
    value = tl.where(new, weight * entry, value)

    # Entries in both are added to the old one, of which there is at most one.
    same = (column[:, None] == column[None, :]) & new[None, :] & old[:, None]
    same = same & (column >= 0)[:, None]
    added = tl.sum(tl.where(same, value[None, :], 0.0), 1)
    in_both = tl.sum(same.to(tl.int32), 0) > 0
    value = tl.where(tl.sum(same.to(tl.int32), 1) > 0, value + added, value)
    stays = (column >= 0) & ((in_both == 0) | old)
    stays = stays & ((column != row.to(tl.int32)) | (is_written == 0))
    if DROP:
        stays = stays & ((value < tl.load(threshold)) == 0)

    left = column[None, :] < column[:, None]
    larger = (value[None, :] > value[:, None]) | ((value[None, :] == value[:, None]) & left)
    rank = tl.sum((larger & stays[None, :]).to(tl.int32), 1)
    stays = stays & (rank < K)
    to = tl.sum((left & stays[None, :]).to(tl.int32), 1)
    count = tl.sum(stays.to(tl.int32), 0)
    tl.debug_barrier()  # all threads must have read what is replaced
    tl.store(values + place + to, value, mask=stays & (to < K))
    tl.store(columns + place + to, column, mask=stays & (to < K))
    tl.store(values + place + e, tl.zeros([2 * BK], DTYPE), mask=old & (e >= count))
    tl.store(columns + place + e, tl.full([2 * BK], -1, tl.int32), mask=old & (e >= count))


def _sizes(values: Tensor) -> dict[str, Any]:
    """Constants of the kernels that go through all rows of a link."""
    N, K = values.shape[2:]
    BM, BK = min(launch.LINK_CELLS, launch.block(N)), launch.block(K)
    BM = max(1, min(BM, launch.TILE_NUMBERS // BK))
    return {"N": N, "K": K, "TILES": launch.cdiv(N, BM), "BM": BM, "BK": BK}


def products(values: Tensor, columns: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v of vectors (B, R, N), each (B, Hw, R, N), with the same bits every time.

    Args:
        values, columns: (B, Hw, N, K), contiguous.
        vectors: (B, R, N).
    """
    vectors, sizes = vectors.contiguous(), _sizes(values)
    (B, Hw, N, _), R = values.shape, vectors.shape[1]
    TILES, DTYPE = sizes["TILES"], launch.compute_dtype(values.dtype)
    ahead, behind = values.new_empty(B, Hw, R, N), values.new_empty(B, Hw, R, N)
    parts = launch.new_like(values, B * Hw, R, TILES)
    sizes |= {"R": R, "HW": Hw, "DTYPE": DTYPE}
    grid, num_warps = (B * Hw * TILES,), launch.warps(sizes["BM"] * sizes["BK"])
    launch.run(
        ahead_kernel, grid, values, columns, vectors, ahead, parts, **sizes, num_warps=num_warps
    )
    bounds = parts.sum(-1)
    BR = launch.block(R)
    sums = torch.zeros(B * Hw, N, R, dtype=torch.int64, device=values.device)
    tile = max(1, min(sizes["BM"], launch.TILE_NUMBERS // 2 // (sizes["BK"] * BR)))
    sizes |= {"BM": tile, "TILES": launch.cdiv(N, tile)}
    launch.run(
        behind_kernel, (B * Hw * sizes["TILES"],), values, columns, vectors, bounds, sums, **sizes,
        BR=BR, num_warps=launch.warps(tile * sizes["BK"] * BR),
    )  # fmt: skip
    BN = max(1, min(1024, launch.block(N)) // BR)
    TILES = launch.cdiv(N, BN)
    launch.run(
        floats_kernel, (B * Hw * TILES,), sums, bounds, behind, N=N, R=R, TILES=TILES, BN=BN, BR=BR,
        DTYPE=DTYPE,
    )  # fmt: skip
    return ahead, behind


def add_backward(
    d_values: Tensor,
    columns: Tensor,
    d_read: Tensor,
    last: Tensor,
    modes_ahead: Tensor,
    modes_behind: Tensor,
) -> None:
    """Add what both directional weightings add to the gradient of a link's values.

    Args:
        d_values, columns: (B, Hw, N, K), contiguous.
        d_read, last: (B, R, N).
        modes_ahead, modes_behind: (B, R, Hw).
    """
    vectors = (tensor.contiguous() for tensor in (d_read, last, modes_ahead, modes_behind))
    B, R, Hw = modes_ahead.shape
    sizes = _sizes(d_values)
    launch.run(
        backward_kernel, (B * Hw * sizes["TILES"],), d_values, columns, *vectors, **sizes, R=R,
        HW=Hw, DTYPE=launch.compute_dtype(d_values.dtype),
        num_warps=launch.warps(sizes["BM"] * sizes["BK"]),
    )  # fmt: skip


class Entry(NamedTuple):
    """What a step writes to a link; all are contiguous.

    | field     | shape              | what                                                |
    |-----------|--------------------|-----------------------------------------------------|
    | written   | (B, Hw, N)         | the weights of the rows that are written, else 0    |
    | marked    | (B, Hw, N) int8    | 1 at those rows                                     |
    | cells     | (B, Hw, k) int64   | the columns that are written                        |
    | entries   | (B, Hw, k)         | their weights                                       |
    | threshold | (1)                | entries below it are dropped; None: keeps all       |
    """

    written: Tensor
    marked: Tensor
    cells: Tensor
    entries: Tensor
    threshold: Tensor | None


def touched(values: Tensor, columns: Tensor, entry: Entry) -> Tensor:
    """(B, Hw, N) int8: 1 at the rows that a step may change.

    Args:
        values, columns: (B, Hw, N, K), contiguous.
        entry: what the step writes.
    """
    found, sizes = torch.empty_like(entry.marked), _sizes(values)
    launch.run(
        touched_kernel, (values.shape[0] * values.shape[1] * sizes["TILES"],), values, columns,
        entry.marked, found, values if entry.threshold is None else entry.threshold, **sizes,
        DROP=entry.threshold is not None, num_warps=launch.warps(sizes["BM"] * sizes["BK"]),
    )  # fmt: skip
    return found


def merge(rows: Tensor, values: Tensor, columns: Tensor, entry: Entry) -> tuple[Tensor, Tensor]:
    """Take some rows of a link to the next step, in place.

    Nothing is fused, so that entries equal those of plain torch bit for bit.

    Args:
        rows: (n, 3) int64: batch element, write head and row; contiguous.
        values, columns: (B, Hw, N, K), contiguous, K at most `MOST_ENTRIES`.
        entry: what the step writes.

    Returns:
        values and columns of these rows as they were, (n, K) each.
    """
    _, Hw, N, K = values.shape
    n, BK = len(rows), launch.block(K)
    before_values, before_columns = values.new_empty(n, K), columns.new_empty(n, K)
    if n:
        launch.run(
            merge_kernel, (n,), rows, values, columns, before_values, before_columns, *entry[:4],
            values if entry.threshold is None else entry.threshold, N=N, K=K,
            COUNT=entry.cells.shape[2], HW=Hw, BK=BK, DROP=entry.threshold is not None,
            DTYPE=launch.compute_dtype(values.dtype), num_warps=launch.warps((2 * BK) ** 2),
            enable_fp_fusion=False,
        )  # fmt: skip
    return before_values, before_columns
