"""The forward pass of the memory step over tiles of cells, around allocation and link pass.

What a kernel computes and the backward pass needs again is kept, see `tiled_step.kept_offsets`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .allocation_forward import allocate_heads, sort_tile
from .arithmetic import activated_strength, gates, load_strengths, weighted_sums
from .content import EPSILON, load_cells, norms, store_cells
from .memory import load_weights, store_weights
from .similarity import compare, raw_mask
from .smooth_allocation import smooth_heads
from .tiled_sharpness import sharpened_tile
from .tiles import (
    last_arrived,
    load_numbers,
    load_vector,
    softmax_terms,
    softmax_total,
    softmax_totals,
    spread_sums,
    store_numbers,
    store_softmax_part,
    store_vector,
    stored_sum,
)
from .usage import mixed, retention, updated_usage


@triton.jit
def store_lengths(
    keys, lengths, w,
    W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The lengths of keys (H, W)."""
    h = tl.arange(0, BH)
    mask = (h < H)[:, None] & (w < W)[None, :]
    rows = tl.load(keys + h[:, None] * W + w[None, :], mask=mask, other=0.0).to(DTYPE)
    tl.store(lengths + h, norms(rows), mask=h < H)


@triton.jit
def activate(
    vector, kept, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BR: tl.constexpr, BHW: tl.constexpr,
    BMODES: tl.constexpr, READ_STRENGTHS: tl.constexpr, READ_LENGTHS: tl.constexpr,
    MODES: tl.constexpr, FREE_GATES: tl.constexpr, WRITE_LENGTHS: tl.constexpr,
    ALLOCATION_GATES: tl.constexpr, WRITE_GATES: tl.constexpr, ERASE_VECTORS: tl.constexpr,
    REST: tl.constexpr, KEPT: tl.constexpr, VARIED: tl.constexpr, LEAST_STRENGTH: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Keep the activated parts of an interface vector, and the lengths of its keys.

    Except for the strengths of the write keys, which `start_kernel` keeps.
    """
    r, head, m = tl.arange(0, BR), tl.arange(0, BHW), tl.arange(0, BMODES)
    COUNT: tl.constexpr = 1 + 2 * HW
    raw = vector + interface.read_strengths(W, R)
    strengths = load_strengths(raw, R, BR, LEAST_STRENGTH, DTYPE)
    tl.store(kept + READ_STRENGTHS + r, strengths, mask=r < R)
    if not VARIED:
        store_lengths(vector, kept + READ_LENGTHS, w, W, R, BR, DTYPE)
        keys = vector + interface.write_keys(W, R)
        store_lengths(keys, kept + WRITE_LENGTHS, w, W, HW, BHW, DTYPE)
    modes = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
    place = kept + MODES + r[:, None] * COUNT + m[None, :]
    tl.store(place, modes, mask=(r < R)[:, None] & (m < COUNT)[None, :])
    free = gates(vector + interface.free_gates(W, R, HW) + r, r < R, True, DTYPE)
    tl.store(kept + FREE_GATES + r, free, mask=r < R)
    share = gates(vector + interface.allocation_gates(W, R, HW) + head, head < HW, True, DTYPE)
    tl.store(kept + ALLOCATION_GATES + head, share, mask=head < HW)
    share = gates(vector + interface.write_gates(W, R, HW) + head, head < HW, True, DTYPE)
    tl.store(kept + WRITE_GATES + head, share, mask=head < HW)
    for index in tl.static_range(HW):
        place = vector + interface.erase_vectors(W, R, HW) + index * W + w
        erase = gates(place, w < W, True, DTYPE)
        store_vector(kept + ERASE_VECTORS + index * W, erase, w, W)
    for rest in tl.static_range(REST, KEPT):
        tl.store(kept + rest, 0.0)


@triton.jit
def order_cells(
    part, vector, usage0, write0, read0, kept, usage1, keys, prefixes, cells,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SEEN: tl.constexpr,
    PRODUCTS: tl.constexpr, ALLOCATION: tl.constexpr, ORDER: tl.constexpr,
    ORDER_TILES: tl.constexpr, ORDER_BN: tl.constexpr, SMOOTH_BN: tl.constexpr,
    SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Usage of some cells. If these are all cells, also allocation by all heads; else they are
    sorted for it, unless it is SMOOTH.

    Pointers are to one batch element.
    """
    n = part * ORDER_BN + tl.arange(0, ORDER_BN)
    usage = updated_usage(
        usage0, write0, read0, vector + interface.free_gates(W, R, HW), n, N, R, HW, DTYPE
    )
    usage = usage.to(usage1.dtype.element_ty)  # the backward pass sees no more of it
    store_numbers(usage1, usage, n, N)
    usage = usage.to(DTYPE)
    if SMOOTH:
        if ORDER_TILES == 1:
            tl.debug_barrier()  # all threads must have stored the usage
            smooth_heads(
                usage1, kept + SEEN - N, kept + PRODUCTS, kept + ALLOCATION,
                vector + interface.allocation_gates(W, R, HW),
                vector + interface.write_gates(W, R, HW), N, HW, SMOOTH_BN, SMOOTH, STEEPNESS,
                DTYPE,
            )  # fmt: skip
    elif ORDER_TILES == 1:
        allocate_heads(
            usage, usage1, kept + SEEN - N, kept + PRODUCTS, kept + ALLOCATION, kept + ORDER,
            vector + interface.allocation_gates(W, R, HW), vector + interface.write_gates(W, R, HW),
            N, HW, ORDER_BN, True, ROBUST, DTYPE,
        )  # fmt: skip
    else:
        sort_tile(usage, usage1, keys, prefixes, cells, part, N, ORDER_BN, ROBUST, DTYPE)


@triton.jit
def compare_cells(
    tile, vector, memory0, kept, write_parts, w,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, NORMS0: tl.constexpr,
    WRITE_ALIKE: tl.constexpr, WRITE_STRENGTHS: tl.constexpr, TILES: tl.constexpr,
    BM: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    FLOOR: tl.constexpr, LEAST_STRENGTH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The lengths of a tile of cells, and their similarities to the write keys.

    Pointers are to one batch element.
    """
    n = tile * BM + tl.arange(0, BM)
    cells = load_cells(memory0, n, w, N, W, DTYPE)
    if not VARIED:
        cell_norms = norms(cells)
        store_numbers(kept + NORMS0, cell_norms, n, N)
    for head in tl.static_range(HW):
        key = load_vector(vector + interface.write_keys(W, R) + head * W, w, W, DTYPE)
        if VARIED:
            masks = vector + interface.write_masks(W, R, HW)
            mask = raw_mask(masks, head, w, W, MASKED, FLOOR, DTYPE)
            alike = compare(key, mask, cells, SIMILARITY)
        else:
            length = tl.sqrt(tl.sum(key * key, 0) + EPSILON)
            alike = tl.sum(cells * key[None, :], 1) / (length * cell_norms + EPSILON)
        store_numbers(kept + WRITE_ALIKE + head * N, alike, n, N)
        raw = vector + interface.write_strengths(W, R, HW) + head
        strength = activated_strength(tl.load(raw).to(DTYPE), LEAST_STRENGTH)
        if tile == 0:
            tl.store(kept + WRITE_STRENGTHS + head, strength)
        store_softmax_part(write_parts + head * 2 * TILES, tile, alike, strength, n, N, TILES)


@triton.jit
def start_kernel(
    vector, memory0, usage0, write0, read0, kept, usage1, keys, prefixes, cells, write_parts,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, NORMS0: tl.constexpr, WRITE_ALIKE: tl.constexpr, SEEN: tl.constexpr,
    PRODUCTS: tl.constexpr, ALLOCATION: tl.constexpr, ORDER: tl.constexpr,
    READ_STRENGTHS: tl.constexpr, READ_LENGTHS: tl.constexpr, MODES: tl.constexpr,
    FREE_GATES: tl.constexpr, WRITE_STRENGTHS: tl.constexpr, WRITE_LENGTHS: tl.constexpr,
    ALLOCATION_GATES: tl.constexpr, WRITE_GATES: tl.constexpr, ERASE_VECTORS: tl.constexpr,
    REST: tl.constexpr, START_TILES: tl.constexpr, START_BM: tl.constexpr,
    ORDER_TILES: tl.constexpr, ORDER_BN: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
    BHW: tl.constexpr, BMODES: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SMOOTH_BN: tl.constexpr, SMOOTH: tl.constexpr,
    STEEPNESS: tl.constexpr, LEAST_STRENGTH: tl.constexpr, ROBUST: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Programs (B, ORDER_TILES + START_TILES + 1), for: usage and allocation; similarities of tiles
    of cells to the write keys; the activated interface.
    """
    b, role = tl.program_id(0).to(tl.int64), tl.program_id(1)
    w = tl.arange(0, BW)
    vector += b * SIZE
    kept += b * KEPT
    if role < ORDER_TILES:
        row = b * ORDER_TILES * ORDER_BN
        order_cells(
            role, vector, usage0 + b * N, write0 + b * HW * N, read0 + b * R * N, kept,
            usage1 + b * N, keys + row, prefixes + row, cells + row, N, W, R, HW, SEEN, PRODUCTS,
            ALLOCATION, ORDER, ORDER_TILES, ORDER_BN, SMOOTH_BN, SMOOTH, STEEPNESS, ROBUST, DTYPE,
        )  # fmt: skip
    elif role < ORDER_TILES + START_TILES:
        compare_cells(
            role - ORDER_TILES, vector, memory0 + b * N * W, kept,
            write_parts + b * HW * 2 * START_TILES, w, N, W, R, HW, NORMS0, WRITE_ALIKE,
            WRITE_STRENGTHS, START_TILES, START_BM, VARIED, SIMILARITY, MASKED, FLOOR,
            LEAST_STRENGTH, DTYPE,
        )  # fmt: skip
    else:
        activate(
            vector, kept, w, W, R, HW, BR, BHW, BMODES, READ_STRENGTHS, READ_LENGTHS, MODES,
            FREE_GATES, WRITE_LENGTHS, ALLOCATION_GATES, WRITE_GATES, ERASE_VECTORS, REST,
            KEPT, VARIED, LEAST_STRENGTH, DTYPE,
        )  # fmt: skip


@triton.jit
def written(
    cells, weights, vector, erase, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Some cells after all write heads have erased and then added.

    Args:
        cells: (n, W).
        weights: a tuple of (n) for each head.
        vector: the interface vector.
        erase: (HW, W); RAW: before their activation.
    """
    added = tl.zeros_like(cells)
    for head in tl.static_range(HW):
        place = vector + interface.write_vectors(W, R, HW) + head * W
        added += weights[head][:, None] * load_vector(place, w, W, DTYPE)[None, :]
        erased = gates(erase + head * W + w, w < W, RAW, DTYPE)
        cells *= 1.0 - weights[head][:, None] * erased[None, :]
    return cells + added


@triton.jit
def write_kernel(
    vector, memory0, read0, kept, write_parts, memory1, write1, read_parts,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, NORMS1: tl.constexpr, WRITE_CONTENT: tl.constexpr,
    WRITE_ALIKE: tl.constexpr, ALLOCATION: tl.constexpr, READ_ALIKE: tl.constexpr,
    READ_STRENGTHS: tl.constexpr, READ_LENGTHS: tl.constexpr, WRITE_STRENGTHS: tl.constexpr,
    FREE_GATES: tl.constexpr, ALLOCATION_GATES: tl.constexpr, WRITE_GATES: tl.constexpr,
    ERASE_VECTORS: tl.constexpr, START_TILES: tl.constexpr, START_BT: tl.constexpr,
    TILES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, DEALLOCATE: tl.constexpr,
    VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write weightings of a tile; its cells after the write, their similarity to the read keys."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    kept += b * KEPT
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    weights = ()
    for head in tl.static_range(HW):
        strength = tl.load(kept + WRITE_STRENGTHS + head)
        parts = write_parts + (b * HW + head) * 2 * START_TILES
        top, total = softmax_total(parts, strength, START_TILES, START_BT)
        alike = load_numbers(kept + WRITE_ALIKE + head * N, n, N, DTYPE)
        found = load_numbers(kept + ALLOCATION + head * N, n, N, DTYPE)
        content = softmax_terms(alike, strength, top) / total
        share = tl.load(kept + ALLOCATION_GATES + head)
        weight = mixed(share, tl.load(kept + WRITE_GATES + head), found, content)
        if N % BM != 0:  # a term of a place outside may be infinite
            weight = tl.where(n < N, weight, 0.0)
        store_numbers(kept + WRITE_CONTENT + head * N, content, n, N)
        store_numbers(write1 + (b * HW + head) * N, weight, n, N)
        weights = weights + (weight,)
    if DEALLOCATE:
        psi = retention(read0 + b * R * N, kept + FREE_GATES, n, N, R, False, DTYPE)
        cells *= psi[:, None]
    cells = written(cells, weights, vector, kept + ERASE_VECTORS, w, W, R, HW, False, DTYPE)
    store_cells(memory1 + b * N * W, cells, n, w, N, W)
    if not VARIED:
        cell_norms = norms(cells)
        store_numbers(kept + NORMS1, cell_norms, n, N)
    for r in tl.static_range(R):
        key = load_vector(vector + r * W, w, W, DTYPE)
        if VARIED:
            masks = vector + interface.read_masks(W, R, HW)
            mask = raw_mask(masks, r, w, W, MASKED, FLOOR, DTYPE)
            alike = compare(key, mask, cells, SIMILARITY)
        else:
            length = tl.load(kept + READ_LENGTHS + r)
            alike = tl.sum(cells * key[None, :], 1) / (length * cell_norms + EPSILON)
        store_numbers(kept + READ_ALIKE + r * N, alike, n, N)
        parts = read_parts + (b * R + r) * 2 * TILES
        store_softmax_part(parts, tile, alike, tl.load(kept + READ_STRENGTHS + r), n, N, TILES)


@triton.jit
def rebuild_kernel(
    vector, memory0, write1, read0, memory1,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    BM: tl.constexpr, BW: tl.constexpr, DEALLOCATE: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of cells after the write, given the write weightings."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    weights = ()
    for head in tl.static_range(HW):
        weights = weights + (load_numbers(write1 + (b * HW + head) * N, n, N, DTYPE),)
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    if DEALLOCATE:
        gates = vector + interface.free_gates(W, R, HW)
        cells *= retention(read0 + b * R * N, gates, n, N, R, True, DTYPE)[:, None]
    erase = vector + interface.erase_vectors(W, R, HW)
    cells = written(cells, weights, vector, erase, w, W, R, HW, True, DTYPE)
    store_cells(memory1 + b * N * W, cells, n, w, N, W)


@triton.jit
def add_reads(
    by_tile, by_group, arrived, reads, tile,
    K: tl.constexpr, TILES: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    SUMMED: tl.constexpr, BK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add up K numbers of all tiles: the last program of each GROUP those of the group, and the
    last of these the sums of all groups, SUMMED at a time.

    arrived: (GROUPS + 1), zeros before and after.
    """
    group = tile // GROUP
    count = tl.minimum(GROUP, TILES - group * GROUP)
    if last_arrived(arrived + group, count):
        for start in range(0, K, BK):
            k = start + tl.arange(0, BK)
            found = stored_sum(by_tile, k, group * GROUP, count, K, GROUP, SUMMED, DTYPE)
            if GROUPS == 1:
                tl.store(reads + k, found, mask=k < K)
            else:
                tl.store(by_group + group * K + k, found, mask=k < K)
        tl.store(arrived + group, 0)
        if GROUPS > 1:
            if last_arrived(arrived + GROUPS, GROUPS):
                for start in range(0, K, BK):
                    k = start + tl.arange(0, BK)
                    found = stored_sum(by_group, k, 0, GROUPS, K, GROUPS, SUMMED, DTYPE)
                    tl.store(reads + k, found, mask=k < K)
                tl.store(arrived + GROUPS, 0)


@triton.jit
def read_kernel(
    memory1, kept, read_parts, sharp_parts, rows, columns, read1, reads_by_tile, reads_by_group,
    arrived, reads,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, KEPT: tl.constexpr,
    READ_CONTENT: tl.constexpr, READ_ALIKE: tl.constexpr, READ_STRENGTHS: tl.constexpr,
    MODES: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr, READ_TILES: tl.constexpr,
    STRIPS: tl.constexpr, CHUNKS: tl.constexpr, ROW_LANES: tl.constexpr,
    COLUMN_LANES: tl.constexpr, GROUP: tl.constexpr, READ_BM: tl.constexpr, BW: tl.constexpr,
    BR: tl.constexpr, BREADS: tl.constexpr, SUMMED: tl.constexpr, LINKED: tl.constexpr,
    SHARPNESS: tl.constexpr, SHARP_TILES: tl.constexpr, SHARP_BT: tl.constexpr,
    SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Read weightings of a tile, and what it adds to the read vectors: (B, READ_TILES, R, W).

    The last program of each GROUP adds these up, and the last of the groups their sums.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w, r = tile * READ_BM + tl.arange(0, READ_BM), tl.arange(0, BW), tl.arange(0, BR)
    COUNT: tl.constexpr = 1 + 2 * HW
    kept += b * KEPT
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    alike = load_weights(kept + READ_ALIKE, n, N, R, BR, DTYPE)
    strengths = tl.load(kept + READ_STRENGTHS + r, mask=r < R, other=1.0)
    parts = read_parts + b * R * 2 * TILES
    top, total = softmax_totals(parts, strengths, R, BR, TILES, BT)
    content = softmax_terms(alike, strengths[:, None], top[:, None]) / total[:, None]
    if R != BR or N % READ_BM != 0:
        content = tl.where((r < R)[:, None] & (n < N)[None, :], content, 0.0)
    store_weights(kept + READ_CONTENT, content, n, N, R, BR)
    modes = kept + MODES + r * COUNT
    weights = tl.load(modes + HW, mask=r < R, other=0.0)[:, None] * content
    for head in tl.static_range(HW):
        row = b * HW + head
        if SHARP:
            parts = sharp_parts + b * 4 * HW * R * SHARP_TILES
            behind = sharpened_tile(
                kept, parts, n, (HW + head) * R, tile, N, R, HW, LINKED, SHARPNESS, SHARP_TILES,
                SHARP_BT, BR, DTYPE,
            )  # fmt: skip
            ahead = sharpened_tile(
                kept, parts, n, head * R, tile, N, R, HW, LINKED, SHARPNESS, SHARP_TILES, SHARP_BT,
                BR, DTYPE,
            )  # fmt: skip
        else:
            part = columns + row * STRIPS * R * N
            behind = spread_sums(part, n, STRIPS, R * N, N, R, BR, COLUMN_LANES, DTYPE)
            part = rows + row * CHUNKS * R * N
            ahead = spread_sums(part, n, CHUNKS, R * N, N, R, BR, ROW_LANES, DTYPE)
        weights += tl.load(modes + head, mask=r < R, other=0.0)[:, None] * behind
        weights += tl.load(modes + 1 + HW + head, mask=r < R, other=0.0)[:, None] * ahead
    store_weights(read1 + b * R * N, weights, n, N, R, BR)
    part = weighted_sums(weights, cells, n < N)
    place = reads_by_tile + (b * READ_TILES + tile) * R * W + r[:, None] * W + w[None, :]
    tl.store(place, part, mask=(r < R)[:, None] & (w < W)[None, :])
    GROUPS: tl.constexpr = (READ_TILES + GROUP - 1) // GROUP
    add_reads(
        reads_by_tile + b * READ_TILES * R * W, reads_by_group + b * GROUPS * R * W,
        arrived + b * (GROUPS + 1), reads + b * R * W, tile, R * W, READ_TILES, GROUP, GROUPS,
        SUMMED, BREADS, DTYPE,
    )  # fmt: skip
