"""The second launch of the backward pass of a small memory step: it adds up the strips.

Four programs per batch element find the gradients

    usage   of usage, last write and read weightings, free gates, allocation gates, write gates
    keys    of keys, strengths, erase and write vectors
    cells   of the memory and the precedences
    modes   of the read modes
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from . import small_layout as layout
from .packed import no_tensors, store_columns, sums
from .sharpness import d_sharp_logits, d_sharpness_terms
from .small_layout import load, store
from .small_lookups import cells_backward, keys_backward
from .small_sums import linked_sums, store_sum, written_gradient
from .smooth_allocation import allocated, d_usage_of, whole_usage
from .usage_order import EPSILON as LEAST_USAGE
from .usage_order import cell_key, comes_before, lift


@triton.jit
def modes_backward(
    kept, scratch, read0, d_vector,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, S: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of the raw read modes."""
    FULL_R: tl.constexpr = R == BR
    FULL: tl.constexpr = N == BN and FULL_R
    M: tl.constexpr = 1 + 2 * HW
    n, r = tl.arange(0, BN), tl.arange(0, BR)
    in_tile = (r < R)[:, None] & (n < N)[None, :]
    tile = r[:, None] * N + n[None, :]
    last = load(read0 + tile, in_tile, FULL, DTYPE)
    content = load(kept + tile, in_tile, FULL, DTYPE)
    change = load(scratch + tile, in_tile, FULL, DTYPE)
    behinds = no_tensors()
    aheads = no_tensors()
    for head in tl.static_range(HW):
        x, y = linked_sums(scratch, head, tile, in_tile, FULL, N, R, HW, S, DTYPE)
        behinds = behinds + (last * x,)
        aheads = aheads + (last * y,)
    d_modes = sums(behinds + (content * change,) + aheads, M, 1)
    modes = no_tensors()
    mean = tl.zeros([BR], DTYPE)
    for m in tl.static_range(M):
        mode = load(kept + layout.kept_modes(N, R, HW) + m * R + r, r < R, FULL_R, DTYPE)
        modes = modes + (mode,)
        mean += mode * d_modes[m]
    d_raw = no_tensors()
    for m in tl.static_range(M):
        d_raw = d_raw + (modes[m] * (d_modes[m] - mean),)
    store_columns(d_vector + interface.read_modes(W, R, HW), d_raw, r, R, M)


@triton.jit
def sharp_modes_backward(
    vector, kept, scratch, d_vector,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of the raw read modes and sharpnesses."""
    FULL_N: tl.constexpr = N == BN
    n = tl.arange(0, BN)
    linked = kept + layout.kept_linked(N, R, HW) + n
    for r in tl.static_range(R):
        change = load(scratch + r * N + n, n < N, FULL_N, DTYPE)
        content = load(kept + r * N + n, n < N, FULL_N, DTYPE)
        # Of the weightings: forward ones, backward ones, the content's.
        sharp = no_tensors()
        terms = no_tensors()
        for k in tl.static_range(2 * HW):
            start = linked + ((2 * HW + k) * R + r) * N
            sharp = sharp + (load(start, n < N, FULL_N, DTYPE),)
            terms = terms + (sharp[k] * change,)
        d_modes = sums(terms + (content * change,), 2 * HW + 1, 0)
        modes = kept + layout.kept_modes(N, R, HW) + r
        mean = tl.load(modes + HW * R) * d_modes[2 * HW]
        terms = no_tensors()
        for way in tl.static_range(2):
            for head in tl.static_range(HW):
                mode = tl.load(modes + ((1 - way) * (1 + HW) + head) * R)
                mean += mode * d_modes[way * HW + head]
                plain = load(linked + ((way * HW + head) * R + r) * N, n < N, FULL_N, DTYPE)
                d_mode, own = d_modes[way * HW + head], sharp[way * HW + head]
                d_logits = d_sharp_logits(change, d_mode, mode, own)
                terms = terms + (d_sharpness_terms(d_logits, plain),)
        d_sharpnesses = sums(terms, 2 * HW, 0)
        to = d_vector + interface.read_modes(W, R, HW) + r * (1 + 2 * HW)
        tl.store(to + HW, tl.load(modes + HW * R) * (d_modes[2 * HW] - mean))
        for way in tl.static_range(2):
            for head in tl.static_range(HW):
                mode = tl.load(modes + ((1 - way) * (1 + HW) + head) * R)
                d_raw = mode * (d_modes[way * HW + head] - mean)
                tl.store(to + (1 - way) * (1 + HW) + head, d_raw)
                at = interface.sharpness(W, R, HW, MASKED) + (way * R + r) * HW + head
                slope = tl.sigmoid(tl.load(vector + at).to(DTYPE))
                tl.store(d_vector + at, slope * d_sharpnesses[way * HW + head])


@triton.jit
def usage_backward(
    kept, scratch, usage0, usage1, write0, read0, d_vector, d_usage, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, DEALLOCATE: tl.constexpr,
    COLUMNS: tl.constexpr, SHARP: tl.constexpr, SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr,
    USAGE_GRADIENT: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of usage, write and read weightings, and of the raw gates, through allocation."""
    FULL_N: tl.constexpr = N == BN
    FULL_R: tl.constexpr = R == BR
    FULL: tl.constexpr = FULL_N and FULL_R
    n, r_tile = tl.arange(0, BN), tl.arange(0, BR)
    in_n, in_r = n < N, r_tile < R
    in_tile = in_r[:, None] & in_n[None, :]
    tile = r_tile[:, None] * N + n[None, :]
    old_usage = load(usage0 + n, in_n, FULL_N, DTYPE)
    last = load(read0 + tile, in_tile, FULL, DTYPE)
    free = load(kept + layout.kept_free_gates(N, R, HW) + r_tile, in_r, FULL_R, DTYPE)
    # The usage that each head saw.
    seen = no_tensors() + (load(usage1 + n, in_n, FULL_N, DTYPE),)
    products = no_tensors()
    shares = no_tensors()
    for head in tl.static_range(HW):
        start = kept + layout.kept_products(N, R, HW) + head * N
        products = products + (load(start + n, in_n, FULL_N, DTYPE),)
        allocation_gate = tl.load(kept + layout.kept_allocation_gates(N, R, HW) + head)
        write_gate = tl.load(kept + layout.kept_write_gates(N, R, HW) + head)
        shares = shares + (allocation_gate * write_gate,)
        if head + 1 < HW:
            allocation = allocated(lift(seen[head]), products[head], n, N, SMOOTH)
            seen = seen + (seen[head] + (1.0 - seen[head]) * shares[head] * allocation,)
    # The last head first: the usage it saw depends on the heads before it.
    d_seen = tl.zeros([BN], DTYPE)
    for head in tl.static_range(HW - 1, -1, -1):
        d_written = written_gradient(scratch, head, n, N, R, HW, BN, S, BSTRIPS, DTYPE)
        d_written = tl.where(in_n, d_written, 0.0)
        start = kept + layout.kept_write_content(N, R) + head * N
        content = load(start + n, in_n, FULL_N, DTYPE)
        lifted = lift(seen[head])
        allocation = allocated(lifted, products[head], n, N, SMOOTH)
        d_allocation = shares[head] * d_written
        if head + 1 == HW:
            by_allocation, by_content = sums((d_written * allocation, d_written * content), 2, 0)
            d_share = 0.0
        else:  # the next head saw s + (1 - s) g_a g_w a
            free_cells = d_seen * (1.0 - seen[head])
            by_allocation, by_content, d_share = sums(
                (d_written * allocation, d_written * content, free_cells * allocation), 3, 0
            )
            d_allocation += shares[head] * free_cells
            d_seen *= 1.0 - shares[head] * allocation
        if SMOOTH:
            mean, whole = tl.sum(products[head] * d_allocation, 0), whole_usage(lifted, n, N)
            d_seen += d_usage_of(
                d_allocation, mean, whole, products[head], lifted, n, N, SMOOTH, STEEPNESS, DTYPE
            )
        else:
            key = lifted
            if ROBUST or not FULL_N:
                key = cell_key(lifted, in_n, ROBUST)
            after = comes_before(key[None, :], n[None, :], key[:, None], n[:, None])
            terms = d_allocation * allocation
            d_later = tl.sum(tl.where(after, terms[:, None], 0.0), 0)
            d_seen += (1.0 - LEAST_USAGE) * (d_later / lifted - products[head] * d_allocation)
        allocation_gate = tl.load(kept + layout.kept_allocation_gates(N, R, HW) + head)
        write_gate = tl.load(kept + layout.kept_write_gates(N, R, HW) + head)
        d_gate = write_gate * (by_allocation - by_content + d_share)
        to = d_vector + interface.allocation_gates(W, R, HW) + head
        tl.store(to, allocation_gate * (1.0 - allocation_gate) * d_gate)
        d_gate = allocation_gate * (by_allocation + d_share) + (1.0 - allocation_gate) * by_content
        to = d_vector + interface.write_gates(W, R, HW) + head
        tl.store(to, write_gate * (1.0 - write_gate) * d_gate)
    d_seen += load(d_usage + n, in_n, FULL_N, DTYPE)
    # The product of the other heads' factors is multiplied out, not divided: a factor may be 0.
    others = tl.full([BR, BN], 1.0, DTYPE)
    retained = tl.full([BN], 1.0, DTYPE)
    for r in tl.static_range(R):
        gate = tl.load(kept + layout.kept_free_gates(N, R, HW) + r)
        factor = 1.0 - gate * load(read0 + r * N + n, in_n, FULL_N, DTYPE)
        retained *= factor
        others *= tl.where(r_tile[:, None] == r, 1.0, factor[None, :])
    last_writes = no_tensors()
    written = tl.zeros([BN], DTYPE)
    unwritten = tl.full([BN], 1.0, DTYPE)
    for head in tl.static_range(HW):
        last_writes = last_writes + (load(write0 + head * N + n, in_n, FULL_N, DTYPE),)
        written += (1.0 - written) * last_writes[head]
        unwritten *= 1.0 - last_writes[head]
    d_retention = d_seen * (old_usage + (1.0 - old_usage) * written)
    if DEALLOCATE:
        start = scratch + layout.backward_retention(N, W, R, HW, S, COLUMNS)
        d_retention += load(start + n, in_n, FULL_N, DTYPE)
    others *= d_retention[None, :]
    d_last = -others * free[:, None]
    for head in tl.static_range(HW):
        x, y = linked_sums(scratch, head, tile, in_tile, FULL, N, R, HW, S, DTYPE)
        modes = kept + layout.kept_modes(N, R, HW) + head * R + r_tile
        behind = load(modes, in_r, FULL_R, DTYPE)
        ahead = load(modes + (1 + HW) * R, in_r, FULL_R, DTYPE)
        d_last += x + y if SHARP else behind[:, None] * x + ahead[:, None] * y
    d_free = tl.sum(last * others, 1)
    d_filled = d_seen * retained
    tl.debug_barrier()  # all threads must have read what these stores replace
    store_sum(d_usage, d_filled * unwritten, n, N, BN, BSTRIPS)
    for head in tl.static_range(HW):
        d_last_write = d_filled * (1.0 - old_usage) if USAGE_GRADIENT else tl.zeros([BN], DTYPE)
        for other in tl.static_range(HW):
            if other != head:
                d_last_write *= 1.0 - last_writes[other]
        store_sum(d_write + head * N, d_last_write, n, N, BN, BSTRIPS)
    store(d_read + tile, d_last, in_tile, FULL)
    to = d_vector + interface.free_gates(W, R, HW) + r_tile
    store(to, -free * (1.0 - free) * d_free, in_r, FULL_R)


@triton.jit
def gradients_kernel(
    vector, kept, scratch, memory0, usage0, usage1, write0, write1, read0, d_vector, d_memory,
    d_usage, d_precedence, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SCRATCH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BR: tl.constexpr, BROWS: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr,
    COLUMNS: tl.constexpr, DEALLOCATE: tl.constexpr, VARIED: tl.constexpr,
    SIMILARITY: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr, SHARP: tl.constexpr,
    SMOOTH: tl.constexpr, STEEPNESS: tl.constexpr, USAGE_GRADIENT: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradients of usage, keys, cells or modes."""
    b, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    vector += b * SIZE
    d_vector += b * SIZE
    kept += b * KEPT
    scratch += b * SCRATCH
    memory0 += b * N * W
    read0 += b * R * N
    if part == 0:
        usage_backward(
            kept, scratch, usage0 + b * N, usage1 + b * N, write0 + b * HW * N, read0, d_vector,
            d_usage + b * N, d_write + b * HW * N, d_read + b * R * N, N, W, R, HW, BN, BR, S,
            BSTRIPS, DEALLOCATE, COLUMNS, SHARP, SMOOTH, STEEPNESS, USAGE_GRADIENT, ROBUST,
            DTYPE,
        )  # fmt: skip
    elif part == 1:
        keys_backward(
            vector, kept, scratch, memory0, d_vector, N, W, R, HW, BN, BW, BR, BROWS, S, BSTRIPS,
            COLUMNS, VARIED, SIMILARITY, MASKED, FLOOR, DTYPE,
        )  # fmt: skip
    elif part == 2:
        cells_backward(
            vector, kept, scratch, memory0, write1 + b * HW * N, d_memory + b * N * W,
            d_precedence + b * HW * N, N, W, R, HW, BN, BW, S, BSTRIPS, VARIED, SIMILARITY, MASKED,
            FLOOR, DTYPE,
        )  # fmt: skip
    elif SHARP:
        sharp_modes_backward(vector, kept, scratch, d_vector, N, W, R, HW, BN, MASKED, DTYPE)
    else:
        modes_backward(kept, scratch, read0, d_vector, N, W, R, HW, BN, BR, S, DTYPE)
