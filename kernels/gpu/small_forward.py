"""The forward pass of a small memory step, in one launch or two.

    strip_kernel   each program finds the write weightings of all cells, then takes a strip of rows
                   through link matrices and memory
    read_kernel    adds up the strips; read weightings, and read vectors, each program a part of W

Where one program takes all rows, it goes on to read. Finding all write weightings in each program
costs less than a launch: at these sizes a program's time is that of its instructions and barriers
one after another, so more programs with fewer rows each are faster while there are multiprocessors
for them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from . import small_layout as layout
from .arithmetic import activated_strength, oneplus, product, softmax, weighted_sums
from .content import EPSILON
from .packed import carried, no_tensors, store_rows, sums
from .sharpness import sharp_logits
from .similarity import compare, raw_mask
from .small_layout import load, store
from .smooth_allocation import allocated, share_row
from .usage import retention
from .usage_order import cell_key, comes_before, lift


@triton.jit
def length(squares):
    """Length of a vector from the sum of its squares, never zero."""
    return tl.sqrt(squares + EPSILON)


@triton.jit
def write_strip(
    vector, kept, scratch, memory0, usage0, precedence0, link0, write0, read0, memory1, usage1,
    precedence1, link1, write1, s,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, S: tl.constexpr,
    DEALLOCATE: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr,
    LEAST_STRENGTH: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write weightings of all cells; link matrices and memory of strip s, and what is read of them.

    All pointers are to one batch element. What is of all cells is stored by one strip or another.
    """
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    FULL: tl.constexpr = FULL_N and FULL_W
    FULL_I: tl.constexpr = N % BS == 0
    n, w, r_tile = tl.arange(0, BN), tl.arange(0, BW), tl.arange(0, BR)
    i = s * BS + tl.arange(0, BS)
    in_n, in_w, in_r, in_i = n < N, w < W, r_tile < R, i < N

    # All that is loaded.
    in_cells = in_n[:, None] & in_w[None, :]
    cells = load(memory0 + n[:, None] * W + w[None, :], in_cells, FULL, DTYPE)
    in_last = in_r[:, None] & in_n[None, :]
    last = load(read0 + r_tile[:, None] * N + n[None, :], in_last, FULL_N and R == BR, DTYPE)
    free = load(vector + interface.free_gates(W, R, HW) + r_tile, in_r, R == BR, DTYPE)
    usage = load(usage0 + n, in_n, FULL_N, DTYPE)
    in_link = in_i[:, None] & in_n[None, :]
    offset = i[:, None] * N + n[None, :]
    in_own = in_i[:, None] & in_w[None, :]
    place = i[:, None] * W + w[None, :]
    own = load(memory0 + place, in_own, FULL_I and FULL_W, DTYPE)
    last_writes = no_tensors()
    links = no_tensors()
    precedences = no_tensors()
    write_keys = no_tensors()
    erases = no_tensors()
    adds = no_tensors()
    strengths = no_tensors()
    allocation_gates = no_tensors()
    write_gates = no_tensors()
    for head in tl.static_range(HW):
        last_writes = last_writes + (load(write0 + head * N + n, in_n, FULL_N, DTYPE),)
        links = links + (load(link0 + head * N * N + offset, in_link, FULL_N and FULL_I, DTYPE),)
        precedences = precedences + (load(precedence0 + head * N + n, in_n, FULL_N, DTYPE),)
        key = vector + interface.write_keys(W, R) + head * W + w
        write_keys = write_keys + (load(key, in_w, FULL_W, DTYPE),)
        erase = vector + interface.erase_vectors(W, R, HW) + head * W + w
        erases = erases + (load(erase, in_w, FULL_W, DTYPE),)
        add = vector + interface.write_vectors(W, R, HW) + head * W + w
        adds = adds + (load(add, in_w, FULL_W, DTYPE),)
        raw = vector + interface.write_strengths(W, R, HW) + head
        strengths = strengths + (activated_strength(tl.load(raw).to(DTYPE), LEAST_STRENGTH),)
        raw = vector + interface.allocation_gates(W, R, HW) + head
        allocation_gates = allocation_gates + (tl.sigmoid(tl.load(raw).to(DTYPE)),)
        raw = vector + interface.write_gates(W, R, HW) + head
        write_gates = write_gates + (tl.sigmoid(tl.load(raw).to(DTYPE)),)
    keys = no_tensors()
    lasts = no_tensors()
    own_lasts = no_tensors()
    for r in tl.static_range(R):
        keys = keys + (load(vector + r * W + w, in_w, FULL_W, DTYPE),)
        lasts = lasts + (load(read0 + r * N + n, in_n, FULL_N, DTYPE),)
        own_lasts = own_lasts + (load(read0 + r * N + i, in_i, FULL_I, DTYPE),)

    # Similarities of the write keys, in each row of the strip as the link matrix lies: each warp
    # has all of them, so that softmax needs no barriers.
    alike = no_tensors()
    if VARIED:
        masks = vector + interface.write_masks(W, R, HW)
        for head in tl.static_range(HW):
            mask = raw_mask(masks, head, w, W, MASKED, FLOOR, DTYPE)
            alike = alike + (compare(write_keys[head], mask, cells, SIMILARITY),)
        alike = carried(alike, links[0], HW)
    else:
        found = no_tensors()
        for head in tl.static_range(HW):
            found = found + (cells * write_keys[head][None, :],)
        found = sums(found + (cells * cells,), HW + 1, 1)
        lengths = length(found[HW])
        key_lengths = no_tensors()
        for head in tl.static_range(HW):
            key_lengths = key_lengths + (length(tl.sum(write_keys[head] * write_keys[head], 0)),)
            alike = alike + (found[head] / (key_lengths[head] * lengths + EPSILON),)
        alike = carried(alike + (lengths,), links[0], HW + 1)

    # Usage.
    written = last_writes[0]
    for head in tl.static_range(1, HW):
        written += (1.0 - written) * last_writes[head]
    usage = (usage + (1.0 - usage) * written) * product(1.0 - tl.sigmoid(free)[:, None] * last, 0)
    seen = usage

    # For each write head: write weighting, link matrix, precedence.
    same = i[:, None] == n[None, :]
    added = tl.zeros([BS, BW], DTYPE)
    if DEALLOCATE:
        gates = vector + interface.free_gates(W, R, HW)
        own *= retention(read0, gates, i, N, R, True, DTYPE)[:, None]
    aheads = no_tensors()
    products = no_tensors()
    contents = no_tensors()
    weights = no_tensors()
    for head in tl.static_range(HW):
        lifted = lift(seen)
        if SMOOTH:
            products = products + (share_row(lifted, n, N, SMOOTH, STEEPNESS, DTYPE),)
        else:
            key = lifted
            if ROBUST or not FULL_N:
                key = cell_key(lifted, in_n, ROBUST)
            before = comes_before(key[:, None], n[:, None], key[None, :], n[None, :])
            products = products + (product(tl.where(before, lifted[:, None], 1.0), 0),)
        allocation = allocated(lifted, products[head], n, N, SMOOTH)
        scores = tl.where(in_n[None, :], strengths[head] * alike[head], -float("inf"))
        powers = tl.exp(scores - tl.max(scores, 1)[:, None])
        contents = contents + (powers * (1.0 / tl.sum(powers, 1))[:, None],)
        gate = allocation_gates[head]
        weight = gate * allocation[None, :] + (1.0 - gate) * contents[head]
        weight = tl.where(in_n[None, :], write_gates[head] * weight, 0.0)
        weights = weights + (weight,)
        mine = tl.sum(tl.where(same, weight, 0.0), 1)[:, None]
        link = ((1.0 - mine) - weight) * links[head] + mine * precedences[head][None, :]
        link = tl.where(same, 0.0, link)
        store(link1 + head * N * N + offset, link, in_link, FULL_N and FULL_I)
        erase = tl.where(in_w, tl.sigmoid(erases[head]), 0.0)
        own *= 1.0 - mine * erase[None, :]
        added += mine * adds[head][None, :]
        ahead = no_tensors()
        behinds = no_tensors()
        for r in tl.static_range(R):
            ahead = ahead + (link * lasts[r][None, :],)
            behinds = behinds + (link * own_lasts[r][:, None],)
        aheads = aheads + sums(ahead, R, 1)
        part = scratch + layout.forward_behind(N, R, HW) + (s * HW + head) * R * N
        store_rows(part, sums(behinds, R, 0), n, N, R)
        if head + 1 < HW:
            seen += (1.0 - seen) * (gate * write_gates[head]) * allocation

    # The strip's cells, and what they and the link matrices add to reading.
    own += added
    store(memory1 + place, own, in_own, FULL_I and FULL_W)
    if VARIED:
        found = no_tensors()
        masks = vector + interface.read_masks(W, R, HW)
        for r in tl.static_range(R):
            mask = raw_mask(masks, r, w, W, MASKED, FLOOR, DTYPE)
            found = found + (compare(keys[r], mask, own, SIMILARITY),)
        store_rows(scratch, found + aheads, i, N, (1 + HW) * R)
    else:
        found = (own * own,)
        for r in tl.static_range(R):
            found = found + (own * keys[r][None, :],)
        found = sums(found, R + 1, 1)
        store(kept + layout.kept_lengths_after(N, R, HW) + i, length(found[0]), in_i, FULL_I)
        store_rows(scratch, found[1:] + aheads, i, N, (1 + HW) * R)

    # What is of all cells, as the first row of a strip holds it.
    first = (tl.arange(0, BS) == 0)[:, None] & in_n[None, :]
    row = n[None, :] + tl.zeros([BS, 1], tl.int32)
    if s == 0:
        store(usage1 + n, usage, in_n, FULL_N)
    for head in tl.static_range(HW):
        if s == S // 2:
            at = layout.kept_products(N, R, HW) + head * N
            store(kept + at + n, products[head], in_n, FULL_N)
            at = layout.kept_allocation_gates(N, R, HW) + head
            tl.store(kept + at, allocation_gates[head])
            tl.store(kept + at + HW, write_gates[head])
            tl.store(kept + at + 2 * HW, strengths[head])
            if not VARIED:
                tl.store(kept + at + 3 * HW, key_lengths[head])
        if s == (1 if S > 1 else 0):
            tl.store(write1 + head * N + row, weights[head], mask=first)
            share = (1.0 - tl.sum(weights[head], 1))[:, None]
            precedence = share * precedences[head][None, :] + weights[head]
            tl.store(precedence1 + head * N + row, precedence, mask=first)
        if s == S - 1:
            to = kept + head * N + row
            tl.store(to + layout.kept_write_content(N, R), contents[head], mask=first)
            tl.store(to + layout.kept_write_similarities(N, R, HW), alike[head], mask=first)
    if not VARIED:
        if s == S - 1:
            tl.store(kept + layout.kept_lengths_before(N, R, HW) + row, alike[HW], mask=first)


@triton.jit
def read(
    vector, kept, scratch, memory1, read1, reads, part,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BR: tl.constexpr, S: tl.constexpr, PARTS: tl.constexpr, VARIED: tl.constexpr,
    MASKED: tl.constexpr, SHARP: tl.constexpr, LEAST_STRENGTH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Read weightings, a head to a warp or so; and one of several parts of the read vectors."""
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    FULL_R: tl.constexpr = R == BR
    FULL: tl.constexpr = FULL_N and FULL_R
    n, r, all_w = tl.arange(0, BN), tl.arange(0, BR), tl.arange(0, BW)
    w = part * (BW // PARTS) + tl.arange(0, BW // PARTS)
    in_n, in_r, in_w = n < N, r < R, w < W
    in_tile = in_r[:, None] & in_n[None, :]
    tile = r[:, None] * N + n[None, :]
    if not VARIED:
        in_keys = in_r[:, None] & (all_w < W)[None, :]
        keys = load(vector + r[:, None] * W + all_w[None, :], in_keys, FULL_R and FULL_W, DTYPE)
        lengths = load(kept + layout.kept_lengths_after(N, R, HW) + n, in_n, FULL_N, DTYPE)
    raw = load(vector + interface.read_strengths(W, R) + r, in_r, FULL_R, DTYPE)
    strength = activated_strength(raw, LEAST_STRENGTH)
    M: tl.constexpr = 1 + 2 * HW
    raw = vector + interface.read_modes(W, R, HW) + r * M
    modes = no_tensors()
    for m in tl.static_range(M):
        modes = modes + (load(raw + m, in_r, FULL_R, DTYPE),)
    alike = load(scratch + tile, in_tile, FULL, DTYPE)
    in_cells = in_n[:, None] & in_w[None, :]
    cells = load(memory1 + n[:, None] * W + w[None, :], in_cells, FULL_N and FULL_W, DTYPE)
    aheads = no_tensors()
    behinds = no_tensors()
    for head in tl.static_range(HW):
        ahead = scratch + layout.forward_ahead(N, R) + head * R * N + tile
        aheads = aheads + (load(ahead, in_tile, FULL, DTYPE),)
        start = scratch + layout.forward_behind(N, R, HW) + head * R * N + tile
        behind = load(start, in_tile, FULL, DTYPE)
        for s in tl.static_range(1, S):
            behind += load(start + s * HW * R * N, in_tile, FULL, DTYPE)
        behinds = behinds + (behind,)
    # Read modes.
    top = modes[0]
    for m in tl.static_range(1, M):
        top = tl.maximum(top, modes[m])
    powers = no_tensors()
    total = tl.zeros_like(top)
    for m in tl.static_range(M):
        powers = powers + (tl.exp(modes[m] - top),)
        total += powers[m]
    total = 1.0 / total
    modes = no_tensors()
    for m in tl.static_range(M):
        modes = modes + (powers[m] * total,)
    # Read weightings.
    if not VARIED:
        key_length = length(tl.sum(keys * keys, 1))
        alike = alike / (key_length[:, None] * lengths[None, :] + EPSILON)
    scores = tl.where(in_n[None, :], strength[:, None] * alike, -float("inf"))
    scores = tl.exp(scores - tl.max(scores, 1)[:, None])
    content = scores * (1.0 / tl.sum(scores, 1))[:, None]
    weights = modes[HW][:, None] * content
    for head in tl.static_range(HW):
        behind, ahead = behinds[head], aheads[head]
        if SHARP:
            to = kept + layout.kept_linked(N, R, HW) + head * R * N + tile
            if part == 0:
                store(to, ahead, in_tile, FULL)
                store(to + HW * R * N, behind, in_tile, FULL)
            raw = vector + interface.sharpness(W, R, HW, MASKED) + r * HW + head
            sharpness = oneplus(load(raw, in_r, FULL_R, DTYPE))[:, None]
            ahead = softmax(sharp_logits(ahead, sharpness), in_n[None, :])
            sharpness = oneplus(load(raw + R * HW, in_r, FULL_R, DTYPE))[:, None]
            behind = softmax(sharp_logits(behind, sharpness), in_n[None, :])
            if part == PARTS - 1:
                store(to + 2 * HW * R * N, ahead, in_tile, FULL)
                store(to + 3 * HW * R * N, behind, in_tile, FULL)
        weights += modes[head][:, None] * behind
        weights += modes[1 + HW + head][:, None] * ahead
    found = weighted_sums(weights, cells, in_n)
    in_reads = in_r[:, None] & in_w[None, :]
    store(reads + r[:, None] * W + w[None, :], found, in_reads, FULL_R and FULL_W)
    if part == 0:
        store(read1 + tile, weights, in_tile, FULL)
        store(kept + tile, content, in_tile, FULL)
    if part == PARTS - 1:
        store(kept + layout.kept_similarities(N, R) + tile, alike, in_tile, FULL)
        free = tl.sigmoid(load(vector + interface.free_gates(W, R, HW) + r, in_r, FULL_R, DTYPE))
        numbers = modes + (free, strength)
        if not VARIED:
            numbers = numbers + (key_length,)
        store_rows(kept + layout.kept_modes(N, R, HW), numbers, r, R, M + (2 if VARIED else 3))


@triton.jit
def strip_kernel(
    vector, kept, scratch, memory0, usage0, precedence0, link0, write0, read0, memory1, usage1,
    precedence1, link1, write1, read1, reads,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SCRATCH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BR: tl.constexpr, BS: tl.constexpr, S: tl.constexpr, ALONE: tl.constexpr,
    DEALLOCATE: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, SHARP: tl.constexpr, SMOOTH: tl.constexpr,
    STEEPNESS: tl.constexpr, LEAST_STRENGTH: tl.constexpr, ROBUST: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Write weightings of all cells, then a strip of rows; ALONE: it is all rows, and reads too."""
    b, s = tl.program_id(0).to(tl.int64), tl.program_id(1)
    vector += b * SIZE
    kept += b * KEPT
    scratch += b * SCRATCH
    memory1 += b * N * W
    write_strip(
        vector, kept, scratch, memory0 + b * N * W, usage0 + b * N, precedence0 + b * HW * N,
        link0 + b * HW * N * N, write0 + b * HW * N, read0 + b * R * N, memory1, usage1 + b * N,
        precedence1 + b * HW * N, link1 + b * HW * N * N, write1 + b * HW * N, s, N, W, R, HW, BN,
        BW, BR, BS, S, DEALLOCATE, VARIED, SIMILARITY, MASKED, FLOOR, SMOOTH,
        STEEPNESS, LEAST_STRENGTH, ROBUST, DTYPE,
    )  # fmt: skip
    if ALONE:
        tl.debug_barrier()  # from here on all threads see what is stored
        read(
            vector, kept, scratch, memory1, read1 + b * R * N, reads + b * R * W, 0, N, W, R, HW,
            BN, BW, BR, S, 1, VARIED, MASKED, SHARP, LEAST_STRENGTH, DTYPE,
        )  # fmt: skip


@triton.jit
def read_kernel(
    vector, kept, scratch, memory1, read1, reads,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SCRATCH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BR: tl.constexpr, S: tl.constexpr, PARTS: tl.constexpr, VARIED: tl.constexpr,
    MASKED: tl.constexpr, SHARP: tl.constexpr, LEAST_STRENGTH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Read weightings, and a part of the read vectors."""
    b, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    read(
        vector + b * SIZE, kept + b * KEPT, scratch + b * SCRATCH, memory1 + b * N * W,
        read1 + b * R * N, reads + b * R * W, part, N, W, R, HW, BN, BW, BR, S, PARTS, VARIED,
        MASKED, SHARP, LEAST_STRENGTH, DTYPE,
    )  # fmt: skip
