"""The end of a step's backward pass over tiles: through usage, and the interface vector's gradient.

Each program does something of its own; those of a batch element are counted in `finish_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .allocation_backward import heads_backward
from .arithmetic import gate_slope
from .content import EPSILON
from .similarity import mask_slope, raw_mask
from .smooth_allocation import smooth_heads_backward
from .tiles import (
    last_arrived,
    load_norms,
    load_numbers,
    load_total,
    load_vector,
    store_numbers,
    store_vector,
    stored_sum,
)


@triton.jit
def tiles_total(
    parts, w,
    W: tl.constexpr, PART: tl.constexpr, TILES: tl.constexpr, SUMMED: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The sum over all tiles of a vector (W)."""
    lane = tl.arange(0, SUMMED)[:, None]
    found = tl.zeros([SUMMED, w.shape[0]], DTYPE)
    for start in range(0, TILES, SUMMED):
        mask = (start + lane < TILES) & (w < W)[None, :]
        found += tl.load(parts + (start + lane) * PART + w[None, :], mask=mask, other=0.0)
    return tl.sum(found, 0)


@triton.jit
def finish_read_key(
    r, vector, kept, parts, totals, sharp_means, d_sharpnesses, d_vector, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, READ_STRENGTHS: tl.constexpr,
    READ_LENGTHS: tl.constexpr, MODES: tl.constexpr, PART: tl.constexpr, KEYS: tl.constexpr,
    MASKS: tl.constexpr, LENGTHS: tl.constexpr, STRENGTHS: tl.constexpr, D_MODES: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, SUMMED: tl.constexpr, BMODES: tl.constexpr,
    SHARP_TILES: tl.constexpr, SHARP_BT: tl.constexpr, VARIED: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradients of the key, its mask, the strength, modes and sharpnesses of a read head."""
    COUNT: tl.constexpr = 1 + 2 * HW
    strength = tl.load(kept + READ_STRENGTHS + r)
    alike = load_total(parts + STRENGTHS + r, PART, TILES, BT)
    d_key = tiles_total(parts + KEYS + r * W, w, W, PART, TILES, SUMMED, DTYPE)
    if not VARIED:
        length = tl.load(kept + READ_LENGTHS + r)
        along = load_total(parts + LENGTHS + r, PART, TILES, BT)
        d_key -= along / length * load_vector(vector + r * W, w, W, DTYPE)
        alike = length * along + EPSILON * alike
    store_vector(d_vector + r * W, d_key, w, W)
    if MASKED:
        place = interface.read_masks(W, R, HW) + r * W
        d_mask = tiles_total(parts + MASKS + r * W, w, W, PART, TILES, SUMMED, DTYPE)
        d_mask *= mask_slope(load_vector(vector + place, w, W, DTYPE), FLOOR)
        store_vector(d_vector + place, d_mask, w, W)
    place = interface.read_strengths(W, R) + r
    slope = 1.0 / (1.0 + tl.exp(-tl.load(vector + place).to(DTYPE)))
    tl.store(d_vector + place, slope / strength * alike)
    m, t = tl.arange(0, BMODES), tl.arange(0, BT)
    mode = tl.load(kept + MODES + r * COUNT + m, mask=m < COUNT, other=0.0)
    # Those of the content modes lie elsewhere, between those of the others.
    if SHARP:
        number = tl.where(m < HW, HW + m, m - HW - 1) * R + r
        place = sharp_means + number[None, :] * TILES + t[:, None]
    else:
        other = (m - (m > HW).to(tl.int32))[None, :]
        place = parts + t[:, None] * PART + D_MODES + r * 2 * HW + other
    other = ((m < COUNT) & (m != HW))[None, :] & (t < TILES)[:, None]
    d_mode = tl.sum(tl.load(place, mask=other, other=0.0), 0)
    content = load_total(totals + r * TILES, 1, TILES, BT)
    d_mode = tl.where(m == HW, content, d_mode)
    d_mode = mode * (d_mode - tl.sum(mode * d_mode, 0))
    tl.store(d_vector + interface.read_modes(W, R, HW) + r * COUNT + m, d_mode, mask=m < COUNT)
    if SHARP:
        for way in tl.static_range(2):
            for head in tl.static_range(HW):
                place = interface.sharpness(W, R, HW, MASKED) + (way * R + r) * HW + head
                number = (way * HW + head) * R + r
                found = load_total(d_sharpnesses + number * SHARP_TILES, 1, SHARP_TILES, SHARP_BT)
                found *= tl.sigmoid(tl.load(vector + place).to(DTYPE))
                tl.store(d_vector + place, found)


@triton.jit
def finish_write_key(
    head, vector, kept, parts, d_vector, pending_key, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, WRITE_STRENGTHS: tl.constexpr,
    WRITE_LENGTHS: tl.constexpr, ALLOCATION_GATES: tl.constexpr, WRITE_GATES: tl.constexpr,
    PART: tl.constexpr, MEANT: tl.constexpr, SHARED: tl.constexpr, MEANT_MASK: tl.constexpr,
    SHARED_MASK: tl.constexpr, DOTS: tl.constexpr, MEANS: tl.constexpr, MEANT_ALIKE: tl.constexpr,
    SHARED_ALIKE: tl.constexpr, MEANT_LENGTH: tl.constexpr, SHARED_LENGTH: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, SUMMED: tl.constexpr, VARIED: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradients of the key, its mask and the strength of a write head.

    The key is stored too, as pending; VARIED: so is its mask.
    """
    dot = load_total(parts + DOTS + head, PART, TILES, BT)
    t, lane = tl.arange(0, BT), tl.arange(0, SUMMED)
    place, inside = parts + head + t * PART, t < TILES
    off = tl.load(place + MEANS, mask=inside, other=0.0) - dot
    alike = tl.load(place + MEANT_ALIKE, mask=inside, other=0.0)
    alike += off * tl.load(place + SHARED_ALIKE, mask=inside, other=0.0)
    alike = tl.sum(alike, 0)
    d_keys = tl.zeros([SUMMED, w.shape[0]], DTYPE)
    d_masks = tl.zeros([SUMMED, w.shape[0]], DTYPE)
    for start in range(0, TILES, SUMMED):
        real = start + lane < TILES
        rows = parts + (start + lane) * PART + head
        more = tl.load(rows + MEANS, mask=real, other=0.0) - dot
        places = rows[:, None] + head * (W - 1) + w[None, :]
        mask = real[:, None] & (w < W)[None, :]
        d_keys += tl.load(places + MEANT, mask=mask, other=0.0)
        d_keys += more[:, None] * tl.load(places + SHARED, mask=mask, other=0.0)
        if MASKED:
            d_masks += tl.load(places + MEANT_MASK, mask=mask, other=0.0)
            d_masks += more[:, None] * tl.load(places + SHARED_MASK, mask=mask, other=0.0)
    strength = tl.load(kept + WRITE_STRENGTHS + head)
    share, write = tl.load(kept + ALLOCATION_GATES + head), tl.load(kept + WRITE_GATES + head)
    scale = write * (1.0 - share)
    start_key = interface.write_keys(W, R) + head * W
    key = load_vector(vector + start_key, w, W, DTYPE)
    d_key = tl.sum(d_keys, 0)
    if VARIED:
        start_mask = interface.write_masks(W, R, HW)
        mask = raw_mask(vector + start_mask, head, w, W, MASKED, FLOOR, DTYPE)
        store_vector(pending_key + HW * W, mask, w, W)
        if MASKED:
            start_mask += head * W
            slope = mask_slope(load_vector(vector + start_mask, w, W, DTYPE), FLOOR)
            d_mask = scale * strength * tl.sum(d_masks, 0)
            store_vector(d_vector + start_mask, slope * d_mask, w, W)
    else:
        length = tl.load(kept + WRITE_LENGTHS + head)
        along = tl.load(place + MEANT_LENGTH, mask=inside, other=0.0)
        along += off * tl.load(place + SHARED_LENGTH, mask=inside, other=0.0)
        along = tl.sum(along, 0)
        d_key -= along / length * key
        alike = length * along + EPSILON * alike
    store_vector(d_vector + start_key, scale * strength * d_key, w, W)
    store_vector(pending_key, key, w, W)
    raw = interface.write_strengths(W, R, HW) + head
    slope = 1.0 / (1.0 + tl.exp(-tl.load(vector + raw).to(DTYPE)))
    tl.store(d_vector + raw, slope * scale * alike)


@triton.jit
def finish_vectors(
    head, kept, parts, d_vector, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, ERASE_VECTORS: tl.constexpr,
    PART: tl.constexpr, ERASED: tl.constexpr, ADDED: tl.constexpr, TILES: tl.constexpr,
    SUMMED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradients of the erase vector and the write vector of a head."""
    erase = load_vector(kept + ERASE_VECTORS + head * W, w, W, DTYPE)
    d_erase = tiles_total(parts + ERASED + head * W, w, W, PART, TILES, SUMMED, DTYPE)
    place = d_vector + interface.erase_vectors(W, R, HW) + head * W
    store_vector(place, -gate_slope(erase) * d_erase, w, W)
    d_added = tiles_total(parts + ADDED + head * W, w, W, PART, TILES, SUMMED, DTYPE)
    store_vector(d_vector + interface.write_vectors(W, R, HW) + head * W, d_added, w, W)


@triton.jit
def finish_gates(
    kept, parts, d_shares, d_vector,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, ALLOCATION_GATES: tl.constexpr,
    WRITE_GATES: tl.constexpr, PART: tl.constexpr, DOTS: tl.constexpr, FOUND: tl.constexpr,
    SHARES: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """The gradients of the allocation gates and the write gates.

    d_shares: (HW, SHARES), parts of the gradients of their products through the usage that later
    heads saw; not read for the last head.
    """
    for head in tl.static_range(HW):
        share, write = tl.load(kept + ALLOCATION_GATES + head), tl.load(kept + WRITE_GATES + head)
        dot = load_total(parts + DOTS + head, PART, TILES, BT)
        found = load_total(parts + FOUND + head, PART, TILES, BT)
        d_share, d_write = write * (found - dot), share * found + (1.0 - share) * dot
        if head + 1 < HW:
            both = 0.0 * dot
            for index in range(SHARES):
                both += tl.load(d_shares + head * SHARES + index)
            d_share += both * write
            d_write += both * share
        place = d_vector + interface.allocation_gates(W, R, HW) + head
        tl.store(place, d_share * gate_slope(share))
        place = d_vector + interface.write_gates(W, R, HW) + head
        tl.store(place, d_write * gate_slope(write))


@triton.jit
def finish_cells(
    role, vector, kept, parts, usage0, usage1, write0, read0, d_written, d_retention, d_seen,
    d_shares, free_parts, arrived, pending, d_vector, d_usage, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, NORMS0: tl.constexpr,
    WRITE_CONTENT: tl.constexpr, WRITE_ALIKE: tl.constexpr, SEEN: tl.constexpr,
    PRODUCTS: tl.constexpr, ORDER: tl.constexpr, FREE_GATES: tl.constexpr,
    WRITE_STRENGTHS: tl.constexpr, WRITE_LENGTHS: tl.constexpr, ALLOCATION_GATES: tl.constexpr,
    WRITE_GATES: tl.constexpr, PART: tl.constexpr, DOTS: tl.constexpr, FOUND: tl.constexpr,
    SHARES: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr, RANGES: tl.constexpr,
    BN: tl.constexpr, BR: tl.constexpr, DEALLOCATE: tl.constexpr, VARIED: tl.constexpr,
    SMOOTH_BN: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr,
    USAGE_GRADIENT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Usage backward for a range of cells, and what pends for their gradients.

    If the range is all cells, it begins with allocation; else d_seen and d_shares are there. The
    product of the other factors is multiplied out, not divided, since a factor may be 0.
    """
    if RANGES == 1:
        share_gates = vector + interface.allocation_gates(W, R, HW)
        write_gates = vector + interface.write_gates(W, R, HW)
        if SMOOTH:
            smooth_heads_backward(
                usage1, kept + SEEN - N, kept + PRODUCTS, d_written, d_seen, d_shares, share_gates,
                write_gates, N, HW, SMOOTH_BN, SMOOTH, STEEPNESS, DTYPE,
            )  # fmt: skip
        else:
            heads_backward(
                usage1, kept + SEEN - N, kept + PRODUCTS, kept + ORDER, d_written, d_seen, d_shares,
                share_gates, write_gates, N, HW, BN, True, True, DTYPE,
            )  # fmt: skip
        tl.debug_barrier()  # all threads must have filled d_seen and d_shares
    if role == 0:
        finish_gates(
            kept, parts, d_shares, d_vector, W, R, HW, ALLOCATION_GATES, WRITE_GATES, PART, DOTS,
            FOUND, SHARES, TILES, BT,
        )  # fmt: skip
    n = role * BN + tl.arange(0, BN)
    usage = load_numbers(usage0, n, N, DTYPE)
    d_usage1 = load_numbers(d_usage, n, N, DTYPE) + load_numbers(d_seen, n, N, DTYPE)
    unwritten = 0.0 * usage + 1.0
    if not VARIED:
        cell_norms = load_norms(kept + NORMS0, n, N, DTYPE)
        pending_cells = 0.0 * cell_norms
    pending_keys, before, written = (), (), ()
    for head in tl.static_range(HW):
        content = load_numbers(kept + WRITE_CONTENT + head * N, n, N, DTYPE)
        change = load_numbers(d_written + head * N, n, N, DTYPE)
        scale = tl.load(kept + WRITE_GATES + head) * tl.load(kept + WRITE_STRENGTHS + head)
        scale *= 1.0 - tl.load(kept + ALLOCATION_GATES + head)
        dot = load_total(parts + DOTS + head, PART, TILES, BT)
        g = scale * content * (change - dot)
        if not VARIED:
            length = tl.load(kept + WRITE_LENGTHS + head)
            g /= length * cell_norms + EPSILON
            alike = load_numbers(kept + WRITE_ALIKE + head * N, n, N, DTYPE)
            pending_cells += g * alike * length
        pending_keys = pending_keys + (g,)
        factor = 1.0 - load_numbers(write0 + head * N, n, N, DTYPE)
        before = before + (unwritten,)
        written = written + (factor,)
        unwritten *= factor
    free, last, d_last, kept_before = (), (), (), ()
    kept_usage = 0.0 * usage + 1.0
    for r in tl.static_range(R):
        free = free + (tl.load(kept + FREE_GATES + r),)
        last = last + (load_numbers(read0 + r * N, n, N, DTYPE),)
        d_last = d_last + (load_numbers(d_read + r * N, n, N, DTYPE),)
        kept_before = kept_before + (kept_usage,)
        kept_usage *= 1.0 - free[r] * last[r]
    tl.debug_barrier()  # all threads must have read what these stores replace
    for head in tl.static_range(HW):
        store_numbers(pending + head * N, pending_keys[head], n, N)
    if not VARIED:
        store_numbers(pending + HW * N, pending_cells / cell_norms, n, N)
    d_filled = d_usage1 * kept_usage
    store_numbers(d_usage, d_filled * unwritten, n, N)
    others = d_filled * (1.0 - usage) if USAGE_GRADIENT else tl.zeros_like(usage)
    for index in tl.static_range(HW):
        place = d_write + (HW - 1 - index) * N
        store_numbers(place, others * before[HW - 1 - index], n, N)
        others *= written[HW - 1 - index]
    others = d_usage1 * (usage + (1.0 - usage) * (1.0 - unwritten))
    if DEALLOCATE:
        others += load_numbers(d_retention, n, N, DTYPE)
    for index in tl.static_range(R):
        product = others * kept_before[R - 1 - index]
        others *= 1.0 - free[R - 1 - index] * last[R - 1 - index]
        place = d_read + (R - 1 - index) * N
        store_numbers(place, d_last[R - 1 - index] - product * free[R - 1 - index], n, N)
        d_free = tl.sum(product * last[R - 1 - index], 0)
        if RANGES == 1:
            d_free *= -gate_slope(free[R - 1 - index])
            tl.store(d_vector + interface.free_gates(W, R, HW) + (R - 1 - index), d_free)
        else:
            tl.store(free_parts + role * R + (R - 1 - index), d_free)
    if RANGES > 1:
        if last_arrived(arrived, RANGES):
            k = tl.arange(0, BR)
            total = stored_sum(free_parts, k, 0, RANGES, R, RANGES, 8, DTYPE)
            found = tl.load(kept + FREE_GATES + k, mask=k < R, other=0.0)
            d_gates = d_vector + interface.free_gates(W, R, HW) + k
            tl.store(d_gates, -gate_slope(found) * total, mask=k < R)
            tl.store(arrived, 0)


@triton.jit
def finish_kernel(
    vector, kept, parts, totals, sharp_means, d_sharpnesses, usage0, usage1, write0, read0,
    d_written, d_retention, d_seen, d_shares, free_parts, arrived, pending, d_vector, d_usage,
    d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, NORMS0: tl.constexpr, WRITE_CONTENT: tl.constexpr,
    WRITE_ALIKE: tl.constexpr, SEEN: tl.constexpr, PRODUCTS: tl.constexpr, ORDER: tl.constexpr,
    READ_STRENGTHS: tl.constexpr, READ_LENGTHS: tl.constexpr, MODES: tl.constexpr,
    FREE_GATES: tl.constexpr, WRITE_STRENGTHS: tl.constexpr, WRITE_LENGTHS: tl.constexpr,
    ALLOCATION_GATES: tl.constexpr, WRITE_GATES: tl.constexpr, ERASE_VECTORS: tl.constexpr,
    PART: tl.constexpr, PENDING: tl.constexpr, KEYS: tl.constexpr, MASKS: tl.constexpr,
    MEANT: tl.constexpr, SHARED: tl.constexpr, MEANT_MASK: tl.constexpr,
    SHARED_MASK: tl.constexpr, ERASED: tl.constexpr, ADDED: tl.constexpr, LENGTHS: tl.constexpr,
    STRENGTHS: tl.constexpr, D_MODES: tl.constexpr, DOTS: tl.constexpr, FOUND: tl.constexpr,
    MEANS: tl.constexpr, MEANT_ALIKE: tl.constexpr, SHARED_ALIKE: tl.constexpr,
    MEANT_LENGTH: tl.constexpr, SHARED_LENGTH: tl.constexpr, SHARES: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, SUMMED: tl.constexpr, RANGES: tl.constexpr,
    GROUPS: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
    BMODES: tl.constexpr, DEALLOCATE: tl.constexpr, VARIED: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SHARP_TILES: tl.constexpr,
    SHARP_BT: tl.constexpr, SHARP: tl.constexpr, SMOOTH_BN: tl.constexpr, SMOOTH: tl.constexpr,
    STEEPNESS: tl.constexpr, USAGE_GRADIENT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Programs (B, RANGES + R + 2 HW), for: RANGES ranges of cells; each read head; each write
    head's key and strength; its vectors.
    """
    b, role = tl.program_id(0).to(tl.int64), tl.program_id(1)
    w = tl.arange(0, BW)
    vector += b * SIZE
    d_vector += b * SIZE
    kept += b * KEPT
    parts += b * TILES * PART
    pending += b * PENDING
    if role < RANGES:
        finish_cells(
            role, vector, kept, parts, usage0 + b * N, usage1 + b * N, write0 + b * HW * N,
            read0 + b * R * N, d_written + b * HW * N, d_retention + b * N, d_seen + b * N,
            d_shares + b * HW * SHARES, free_parts + b * RANGES * R, arrived + b * (GROUPS + 1),
            pending, d_vector, d_usage + b * N, d_write + b * HW * N, d_read + b * R * N, N, W, R,
            HW, NORMS0, WRITE_CONTENT, WRITE_ALIKE, SEEN, PRODUCTS, ORDER, FREE_GATES,
            WRITE_STRENGTHS, WRITE_LENGTHS, ALLOCATION_GATES, WRITE_GATES, PART, DOTS, FOUND,
            SHARES, TILES, BT, RANGES, BN, BR, DEALLOCATE, VARIED, SMOOTH_BN, SMOOTH, STEEPNESS,
            USAGE_GRADIENT, DTYPE,
        )  # fmt: skip
    elif role < RANGES + R:
        finish_read_key(
            role - RANGES, vector, kept, parts, totals + b * (R + 2 * HW) * TILES,
            sharp_means + b * 2 * HW * R * TILES, d_sharpnesses + b * 2 * HW * R * SHARP_TILES,
            d_vector, w, W, R, HW, READ_STRENGTHS, READ_LENGTHS, MODES, PART, KEYS, MASKS, LENGTHS,
            STRENGTHS, D_MODES, TILES, BT, SUMMED, BMODES, SHARP_TILES, SHARP_BT, VARIED, MASKED,
            FLOOR, SHARP, DTYPE,
        )  # fmt: skip
    elif role < RANGES + R + HW:
        head = role - RANGES - R
        PENDING_KEYS: tl.constexpr = (HW if VARIED else HW + 1) * N
        finish_write_key(
            head, vector, kept, parts, d_vector, pending + PENDING_KEYS + head * W, w, W, R, HW,
            WRITE_STRENGTHS, WRITE_LENGTHS, ALLOCATION_GATES, WRITE_GATES, PART, MEANT, SHARED,
            MEANT_MASK, SHARED_MASK, DOTS, MEANS, MEANT_ALIKE, SHARED_ALIKE, MEANT_LENGTH,
            SHARED_LENGTH, TILES, BT, SUMMED, VARIED, MASKED, FLOOR, DTYPE,
        )  # fmt: skip
    else:
        finish_vectors(
            role - RANGES - R - HW, kept, parts, d_vector, w, W, R, HW, ERASE_VECTORS, PART,
            ERASED, ADDED, TILES, SUMMED, DTYPE,
        )  # fmt: skip
