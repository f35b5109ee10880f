"""The backward pass of the memory step over tiles of cells, around link pass and allocation."""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .content import EPSILON, load_cells, store_cells
from .memory import load_weights, store_weights
from .similarity import compare, compare_backward, raw_mask
from .tiled_sharpness import sharpened_cells
from .tiles import (
    load_norms,
    load_numbers,
    load_total,
    load_vector,
    spread_sums,
    store_numbers,
    store_vector,
)
from .usage import retention


@triton.jit
def read_backward_kernel(
    memory1, kept, write1, precedence0, d_reads, d_precedence, d_read, changes, shares, modes,
    totals, sharp_means,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, KEPT: tl.constexpr,
    NORMS1: tl.constexpr, READ_CONTENT: tl.constexpr, READ_STRENGTHS: tl.constexpr,
    READ_LENGTHS: tl.constexpr, MODES: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BALLMODES: tl.constexpr, LINKED: tl.constexpr, SHARPNESS: tl.constexpr,
    VARIED: tl.constexpr, SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`changes` (B, R, N), the gradients of the read weightings of a tile, and sums over the tile.

    shares: (B, R, N), the factors from changes, less their mean, to the g of
    `tiled_step.part_offsets`. modes: (B, R, 1 + 2 HW), the read modes. totals: (B, R + 2 HW,
    TILES): content weighting times change; the write weighting; precedence times its gradient.
    SHARP: sharp_means, see `linked_backward_kernel`.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    COUNT: tl.constexpr = 1 + 2 * HW
    kept += b * KEPT
    totals += b * (R + 2 * HW) * TILES + tile
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    if not VARIED:
        cell_norms = load_norms(kept + NORMS1, n, N, DTYPE)
    for r in tl.static_range(R):
        d_vector = load_vector(d_reads + (b * R + r) * W, w, W, DTYPE)
        content = load_numbers(kept + READ_CONTENT + r * N, n, N, DTYPE)
        change = load_numbers(d_read + (b * R + r) * N, n, N, DTYPE)
        scale = tl.load(kept + MODES + r * COUNT + HW) * tl.load(kept + READ_STRENGTHS + r)
        change += tl.sum(cells * d_vector[None, :], 1)
        store_numbers(changes + (b * R + r) * N, change, n, N)
        share = content * scale
        if not VARIED:
            share /= tl.load(kept + READ_LENGTHS + r) * cell_norms + EPSILON
        store_numbers(shares + (b * R + r) * N, share, n, N)
        tl.store(totals + r * TILES, tl.sum(content * change, 0))
        if SHARP:
            for way_and_head in tl.static_range(2 * HW):
                number = way_and_head * R + r
                _, sharp = sharpened_cells(kept, number, n, N, R, HW, LINKED, SHARPNESS, DTYPE)
                place = sharp_means + (b * 2 * HW * R + number) * TILES + tile
                tl.store(place, tl.sum(sharp * change, 0))
    for head in tl.static_range(HW):
        row = (b * HW + head) * N
        weight = load_numbers(write1 + row, n, N, DTYPE)
        product = load_numbers(precedence0 + row, n, N, DTYPE)
        product *= load_numbers(d_precedence + row, n, N, DTYPE)
        tl.store(totals + (R + head) * TILES, tl.sum(weight, 0))
        tl.store(totals + (R + HW + head) * TILES, tl.sum(product, 0))
    if tile == 0:
        k = tl.arange(0, BALLMODES)
        found = tl.load(kept + MODES + k, mask=k < R * COUNT, other=0.0)
        tl.store(modes + b * R * COUNT + k, found, mask=k < R * COUNT)


@triton.jit
def add_pending(
    d_cells, cells, pending, n, w,
    N: tl.constexpr, W: tl.constexpr, HW: tl.constexpr, VARIED: tl.constexpr,
    SIMILARITY: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of some cells, completed by what `finish_kernel` left pending.

    pending: factors of the write keys (HW, N), of the cells (N), and the keys (HW, W). VARIED: the
    first are gradients of similarities, the second are not there, and masks (HW, W) are the last.
    """
    if VARIED:
        for head in tl.static_range(HW):
            key = load_vector(pending + HW * N + head * W, w, W, DTYPE)
            mask = load_vector(pending + HW * N + (HW + head) * W, w, W, DTYPE)
            alike = compare(key, mask, cells, SIMILARITY)
            d_alike = load_numbers(pending + head * N, n, N, DTYPE)
            d_cells += compare_backward(d_alike, alike, key, mask, cells, SIMILARITY)[2]
    else:
        d_cells -= load_numbers(pending + HW * N, n, N, DTYPE)[:, None] * cells
        for head in tl.static_range(HW):
            key = load_vector(pending + (HW + 1) * N + head * W, w, W, DTYPE)
            d_cells += load_numbers(pending + head * N, n, N, DTYPE)[:, None] * key[None, :]
    return d_cells


@triton.jit
def add_pending_kernel(
    memory0, pending, d_memory,
    N: tl.constexpr, W: tl.constexpr, HW: tl.constexpr, PENDING: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`add_pending` for a tile, after the first step."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    d_cells = load_cells(d_memory + b * N * W, n, w, N, W, DTYPE)
    pending += b * PENDING
    d_cells = add_pending(d_cells, cells, pending, n, w, N, W, HW, VARIED, SIMILARITY, DTYPE)
    tl.debug_barrier()  # all threads must have read what this store replaces
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)


@triton.jit
def reads_to_cells(
    d_cells, cells, vector, kept, read1, d_reads, changes, shares, totals, part, n, w,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, NORMS1: tl.constexpr,
    READ_ALIKE: tl.constexpr, READ_LENGTHS: tl.constexpr, KEYS: tl.constexpr, MASKS: tl.constexpr,
    LENGTHS: tl.constexpr, STRENGTHS: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
    VARIED: tl.constexpr, SIMILARITY: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of some cells with what reading them and the read keys' look-up add.

    Pointers are to one batch element; `part` is filled with the sums for the read keys.
    """
    if not VARIED:
        cell_norms = load_norms(kept + NORMS1, n, N, DTYPE)
        scale = 0.0 * cell_norms
    for r in tl.static_range(R):
        change = load_numbers(changes + r * N, n, N, DTYPE)
        g = load_numbers(shares + r * N, n, N, DTYPE)
        alike = load_numbers(kept + READ_ALIKE + r * N, n, N, DTYPE)
        weight = load_numbers(read1 + r * N, n, N, DTYPE)
        key = load_vector(vector + r * W, w, W, DTYPE)
        d_vector = load_vector(d_reads + r * W, w, W, DTYPE)
        g *= change - load_total(totals + r * TILES, 1, TILES, BT)
        if VARIED:
            masks = vector + interface.read_masks(W, R, HW)
            mask = raw_mask(masks, r, w, W, MASKED, FLOOR, DTYPE)
            d_key, d_mask, d_compared = compare_backward(g, alike, key, mask, cells, SIMILARITY)
            d_cells += weight[:, None] * d_vector[None, :] + d_compared
            store_vector(part + KEYS + r * W, d_key, w, W)
            if MASKED:
                store_vector(part + MASKS + r * W, d_mask, w, W)
            tl.store(part + STRENGTHS + r, tl.sum(g * alike, 0))
        else:
            d_cells += weight[:, None] * d_vector[None, :] + g[:, None] * key[None, :]
            store_vector(part + KEYS + r * W, tl.sum(g[:, None] * cells, 0), w, W)
            g *= alike
            scale += g * tl.load(kept + READ_LENGTHS + r)
            tl.store(part + STRENGTHS + r, tl.sum(g, 0))
            tl.store(part + LENGTHS + r, tl.sum(g * cell_norms, 0))
    if not VARIED:
        d_cells -= (scale / cell_norms)[:, None] * cells
    return d_cells


@triton.jit
def write_backward_kernel(
    vector, kept, memory0, memory1, write1, read0, read1, d_reads, changes, shares, totals, rows,
    columns, pending, d_written, d_retention, parts, d_memory, d_precedence, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, NORMS0: tl.constexpr, NORMS1: tl.constexpr, WRITE_CONTENT: tl.constexpr,
    WRITE_ALIKE: tl.constexpr, ALLOCATION: tl.constexpr, READ_ALIKE: tl.constexpr,
    READ_LENGTHS: tl.constexpr, MODES: tl.constexpr, FREE_GATES: tl.constexpr,
    WRITE_LENGTHS: tl.constexpr, ERASE_VECTORS: tl.constexpr,
    WRITE_VECTORS: tl.constexpr, PART: tl.constexpr, PENDING: tl.constexpr,
    KEYS: tl.constexpr, MASKS: tl.constexpr, MEANT: tl.constexpr, SHARED: tl.constexpr,
    MEANT_MASK: tl.constexpr, SHARED_MASK: tl.constexpr, ERASED: tl.constexpr,
    ADDED: tl.constexpr, LENGTHS: tl.constexpr,
    STRENGTHS: tl.constexpr, D_MODES: tl.constexpr, DOTS: tl.constexpr, FOUND: tl.constexpr,
    MEANS: tl.constexpr, MEANT_ALIKE: tl.constexpr, SHARED_ALIKE: tl.constexpr,
    MEANT_LENGTH: tl.constexpr, SHARED_LENGTH: tl.constexpr, TILES: tl.constexpr,
    BT: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr, ROW_LANES: tl.constexpr,
    COLUMN_LANES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
    DEALLOCATE: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of cells backward through reading and writing; adds up the sums of the link pass.

    Fills d_written, the gradients of the write weightings; DEALLOCATE: d_retention (B, N), those of
    the retention through the memory; and parts (B, TILES, PART), see
    `tiled_step.part_offsets`.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w, r = tile * BM + tl.arange(0, BM), tl.arange(0, BW), tl.arange(0, BR)
    COUNT: tl.constexpr = 1 + 2 * HW
    vector += b * SIZE
    kept += b * KEPT
    totals += b * (R + 2 * HW) * TILES
    part = parts + (b * TILES + tile) * PART
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    d_cells = load_cells(d_memory + b * N * W, n, w, N, W, DTYPE)

    # The sums of the link pass.
    last = load_weights(read0 + b * R * N, n, N, R, BR, DTYPE)
    d_last = tl.zeros([BR, BM], DTYPE)
    d_weights, d_before = (), ()
    for head in tl.static_range(HW):
        row = b * HW + head
        head_rows = rows + row * CHUNKS * (R + 1) * N
        head_columns = columns + row * STRIPS * (R + 2) * N
        x = spread_sums(head_rows, n, CHUNKS, (R + 1) * N, N, R, BR, ROW_LANES, DTYPE)
        y = spread_sums(head_columns, n, STRIPS, (R + 2) * N, N, R, BR, COLUMN_LANES, DTYPE)
        if SHARP:  # modes and sharpening are in x and y
            d_last += x + y
        else:
            mode = kept + MODES + r * COUNT + head
            d_last += tl.load(mode, mask=r < R, other=0.0)[:, None] * x
            d_last += tl.load(mode + 1 + HW, mask=r < R, other=0.0)[:, None] * y
            place = part + D_MODES + r * 2 * HW + head
            tl.store(place, tl.sum(last * x, 1), mask=r < R)
            tl.store(place + HW, tl.sum(last * y, 1), mask=r < R)
        change = load_numbers(d_precedence + row * N, n, N, DTYPE)
        d_weight = load_numbers(d_write + row * N, n, N, DTYPE) + change
        d_weight -= load_total(totals + (R + HW + head) * TILES, 1, TILES, BT)
        d_weight += one_sum(head_rows + R * N, n, CHUNKS, (R + 1) * N, N, ROW_LANES, DTYPE)
        d_weight -= one_sum(head_columns + R * N, n, STRIPS, (R + 2) * N, N, COLUMN_LANES, DTYPE)
        d_weights = d_weights + (d_weight,)
        change *= 1.0 - load_total(totals + (R + head) * TILES, 1, TILES, BT)
        before = head_columns + (R + 1) * N
        change += one_sum(before, n, STRIPS, (R + 2) * N, N, COLUMN_LANES, DTYPE)
        d_before = d_before + (change,)
    tl.debug_barrier()  # all threads must have read what these stores replace
    for head in tl.static_range(HW):
        store_numbers(d_precedence + (b * HW + head) * N, d_before[head], n, N)
    store_weights(d_read + b * R * N, d_last, n, N, R, BR)

    # Read vectors, read content weightings, what pends.
    pending += b * PENDING
    d_cells = add_pending(d_cells, cells, pending, n, w, N, W, HW, VARIED, SIMILARITY, DTYPE)
    d_cells = reads_to_cells(
        d_cells, cells, vector, kept, read1 + b * R * N, d_reads + b * R * W, changes + b * R * N,
        shares + b * R * N, totals, part, n, w, N, W, R, HW, NORMS1, READ_ALIKE, READ_LENGTHS, KEYS,
        MASKS, LENGTHS, STRENGTHS, TILES, BT, VARIED, SIMILARITY, MASKED, FLOOR, DTYPE,
    )  # fmt: skip

    # The write: d_cells before it, and what it adds to the gradients of the write weightings.
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    if not VARIED:
        cell_norms = load_norms(kept + NORMS0, n, N, DTYPE)
    d_cells_before, remaining = d_cells, cells
    if DEALLOCATE:
        psi = retention(read0 + b * R * N, kept + FREE_GATES, n, N, R, False, DTYPE)[:, None]
        remaining = cells * psi
    for head in tl.static_range(HW):
        row = (b * HW + head) * N
        weight = load_numbers(write1 + row, n, N, DTYPE)
        erase = load_vector(kept + ERASE_VECTORS + head * W, w, W, DTYPE)
        added = load_vector(vector + WRITE_VECTORS + head * W, w, W, DTYPE)
        # Not by dividing the product of all heads by this head's factor, which may be 0.
        changed = d_cells * remaining
        for other in tl.static_range(HW):
            if other != head:
                erased = load_vector(kept + ERASE_VECTORS + other * W, w, W, DTYPE)
                factor = load_numbers(write1 + (b * HW + other) * N, n, N, DTYPE)
                changed *= 1.0 - factor[:, None] * erased[None, :]
        d_cells_before *= 1.0 - weight[:, None] * erase[None, :]
        d_weight = tl.sum(d_cells * added[None, :] - changed * erase[None, :], 1)
        d_weight += d_weights[head]
        store_vector(part + ERASED + head * W, tl.sum(weight[:, None] * changed, 0), w, W)
        store_vector(part + ADDED + head * W, tl.sum(weight[:, None] * d_cells, 0), w, W)
        content = load_numbers(kept + WRITE_CONTENT + head * N, n, N, DTYPE)
        alike = load_numbers(kept + WRITE_ALIKE + head * N, n, N, DTYPE)
        found = load_numbers(kept + ALLOCATION + head * N, n, N, DTYPE)
        whole, dot = tl.sum(content, 0), tl.sum(content * d_weight, 0)
        mean = tl.where(whole > 1e-30, dot / whole, 0.0)  # any number would do
        tl.store(part + DOTS + head, dot)
        tl.store(part + FOUND + head, tl.sum(found * d_weight, 0))
        tl.store(part + MEANS + head, mean)
        store_numbers(d_written + row, d_weight, n, N)
        if VARIED:
            share, meant = content, content * (d_weight - mean)
            key = load_vector(vector + interface.write_keys(W, R) + head * W, w, W, DTYPE)
            masks = vector + interface.write_masks(W, R, HW)
            mask = raw_mask(masks, head, w, W, MASKED, FLOOR, DTYPE)
            d_key, d_mask, _ = compare_backward(meant, alike, key, mask, cells, SIMILARITY)
            store_vector(part + MEANT + head * W, d_key, w, W)
            if MASKED:
                store_vector(part + MEANT_MASK + head * W, d_mask, w, W)
            d_key, d_mask, _ = compare_backward(share, alike, key, mask, cells, SIMILARITY)
            store_vector(part + SHARED + head * W, d_key, w, W)
            if MASKED:
                store_vector(part + SHARED_MASK + head * W, d_mask, w, W)
        else:
            share = content / (tl.load(kept + WRITE_LENGTHS + head) * cell_norms + EPSILON)
            meant = share * (d_weight - mean)
            store_vector(part + MEANT + head * W, tl.sum(meant[:, None] * cells, 0), w, W)
            store_vector(part + SHARED + head * W, tl.sum(share[:, None] * cells, 0), w, W)
        meant *= alike
        share *= alike
        tl.store(part + MEANT_ALIKE + head, tl.sum(meant, 0))
        tl.store(part + SHARED_ALIKE + head, tl.sum(share, 0))
        if not VARIED:
            tl.store(part + MEANT_LENGTH + head, tl.sum(meant * cell_norms, 0))
            tl.store(part + SHARED_LENGTH + head, tl.sum(share * cell_norms, 0))
    if DEALLOCATE:
        store_numbers(d_retention + b * N, tl.sum(d_cells_before * cells, 1), n, N)
        d_cells_before *= psi
    tl.debug_barrier()  # all threads must have read what this store replaces
    store_cells(d_memory + b * N * W, d_cells_before, n, w, N, W)


@triton.jit
def one_sum(
    partials, n,
    COUNT: tl.constexpr, STRIDE: tl.constexpr, N: tl.constexpr, LANES: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Adds up COUNT partial sums (N) of cells n, which lie STRIDE apart."""
    return tl.sum(spread_sums(partials, n, COUNT, STRIDE, N, 1, 1, LANES, DTYPE), 0)
