"""The first launch of the backward pass of a small memory step: strips of rows.

A program takes a strip of the link matrix of a write head, or of the memory. Each first finds the
gradients of all read weightings, which costs less than a launch. `small_gradients` adds up the
strips. What the forward pass kept spares both the softmaxes, lengths and products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from . import small_layout as layout
from .arithmetic import oneplus
from .content import EPSILON
from .packed import carried, no_tensors, padded, store_rows, sums, times
from .sharpness import d_sharp_logits, d_unsharpened
from .similarity import compare_backward, raw_mask
from .small_layout import load, store
from .usage import retention


@triton.jit
def sharp_changes(
    changes, vector, kept, head, n,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, MASKED: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of a write head's forward and backward weightings, from those of the read ones."""
    FULL_N: tl.constexpr = n.shape[0] == N
    sharp = no_tensors()
    terms = no_tensors()
    for way in tl.static_range(2):
        for r in tl.static_range(R):
            start = kept + layout.kept_linked(N, R, HW) + (((2 + way) * HW + head) * R + r) * N
            sharp = sharp + (load(start + n, n < N, FULL_N, DTYPE),)
            terms = terms + (sharp[way * R + r] * changes[r],)
    means = sums(terms, 2 * R, 0)
    found = no_tensors()
    for way in tl.static_range(2):
        for r in tl.static_range(R):
            start = kept + layout.kept_linked(N, R, HW) + ((way * HW + head) * R + r) * N
            plain = load(start + n, n < N, FULL_N, DTYPE)
            raw = vector + interface.sharpness(W, R, HW, MASKED) + (way * R + r) * HW + head
            sharpness = oneplus(tl.load(raw).to(DTYPE))
            place = ((1 - way) * (1 + HW) + head) * R + r
            mode = tl.load(kept + layout.kept_modes(N, R, HW) + place)
            d_logits = d_sharp_logits(changes[r], means[way * R + r], mode, sharp[way * R + r])
            found = found + (d_unsharpened(d_logits, plain, sharpness),)
    return found[:R], found[R:]


@triton.jit
def link_strip(
    changes, vector, kept, scratch, precedence0, link0, write1, read0, d_precedence, d_link, head,
    s,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BS: tl.constexpr, MASKED: tl.constexpr, SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A strip of a head's link matrix.

    Stores its sums over columns, which are complete: link matrix times changes (R, n), and what
    the link adds to the gradients of the write weighting. And its part of the sums over rows, to be
    added up: what is to be subtracted from those gradients, gradient times write weighting, and the
    transposed link matrix times changes (R). SHARP: with the gradients of the backward and of the
    forward weightings in place of the changes.

    Args:
        changes: gradients of the read weightings (n), a tuple.
    """
    FULL_N: tl.constexpr = N == BN
    FULL_I: tl.constexpr = N % BS == 0
    j = tl.arange(0, BN)
    i = s * BS + tl.arange(0, BS)
    in_j, in_i = j < N, i < N
    inside = in_i[:, None] & in_j[None, :]
    offset = i[:, None] * N + j[None, :]
    same = i[:, None] == j[None, :]
    d_link += head * N * N + offset
    link = load(link0 + head * N * N + offset, inside, FULL_N and FULL_I, DTYPE)
    gradient = load(d_link, inside, FULL_N and FULL_I, DTYPE)
    side = load(write1 + head * N + i, in_i, FULL_I, DTYPE)
    weights = load(write1 + head * N + j, in_j, FULL_N, DTYPE)
    precedence = load(precedence0 + head * N + j, in_j, FULL_N, DTYPE)
    d_next = load(d_precedence + head * N + j, in_j, FULL_N, DTYPE)
    d_next_i = load(d_precedence + head * N + i, in_i, FULL_I, DTYPE)
    modes = kept + layout.kept_modes(N, R, HW) + head * R
    aheads = no_tensors()
    behinds = no_tensors()
    d_aheads, d_behinds = changes, changes
    if SHARP:
        d_aheads, d_behinds = sharp_changes(
            changes, vector, kept, head, j, N, W, R, HW, MASKED, DTYPE
        )
    for r in tl.static_range(R):
        ahead = load(read0 + r * N + j, in_j, FULL_N, DTYPE)
        behind = load(read0 + r * N + i, in_i, FULL_I, DTYPE)
        if not SHARP:
            ahead *= tl.load(modes + (1 + HW) * R + r)
            behind *= tl.load(modes + r)
        aheads = aheads + (ahead,)
        behinds = behinds + (tl.broadcast_to(behind[:, None], [BS, BN]),)
    faded = (1.0 - side)[:, None] - weights[None, :]
    new = tl.where(same, 0.0, faded * link + side[:, None] * precedence[None, :])
    by_rows = times(padded((new,), 1, R), d_behinds, R)
    by_behinds = times(behinds, d_behinds, R)
    rows = carried(d_aheads, link, R)
    xs = no_tensors()
    ys = no_tensors()
    for r in tl.static_range(R):
        own = tl.sum(tl.where(same, rows[r], 0.0), 1)
        gradient += own[:, None] * aheads[r][None, :] + by_behinds[r]
        xs = xs + (by_rows[r],)
        ys = ys + (new * own[:, None],)
    gradient = tl.where(same, 0.0, gradient)
    product = gradient * link
    of_weights = (gradient - d_next[None, :]) * precedence[None, :] - product
    xs = sums(xs + (of_weights,), R + 1, 1)
    to = scratch + layout.backward_linked(N, R, HW) + head * R * N
    store_rows(to, xs[:R], i, N, R)
    to = scratch + layout.backward_written(N, R) + (HW + head) * N
    store(to + i, xs[R] + d_next_i, in_i, FULL_I)
    tl.debug_barrier()  # all threads must have read what this store replaces
    store(d_link, gradient * faded, inside, FULL_N and FULL_I)
    ys = sums((product, gradient * side[:, None]) + ys, R + 2, 0)
    to = scratch + layout.backward_rows(N, R, HW) + (s * HW + head) * (R + 2) * N
    store_rows(to, ys, j, N, R + 2)


@triton.jit
def cells_strip(
    changes, d_reads, vector, kept, scratch, memory0, memory1, write1, read0, read1, d_memory,
    d_write, d_read, s,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BS: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr,
    DEALLOCATE: tl.constexpr, VARIED: tl.constexpr, SIMILARITY: tl.constexpr,
    MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A strip of the memory, through reading, the read keys and writing.

    Fills its part of the gradients of the read weightings, and of those of the write weightings
    without what the link adds. d_memory becomes the gradient before the write, still without what
    the write keys add. Stores its part of the sums over cells: gradients of read keys (R, W),
    unless VARIED without the factor of their length; MASKED: of their masks (R, W); of erase
    (HW, W) and write vectors (HW, W).

    Args:
        changes: gradients of the read weightings (n), a tuple.
    """
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    FULL_I: tl.constexpr = N % BS == 0
    FULL: tl.constexpr = FULL_I and FULL_W
    n, w = tl.arange(0, BN), tl.arange(0, BW)
    i = s * BS + tl.arange(0, BS)
    in_n, in_i, in_w = n < N, i < N, w < W
    inside = in_i[:, None] & in_w[None, :]
    offset = i[:, None] * W + w[None, :]
    d_memory += offset
    cells = load(memory1 + offset, inside, FULL, DTYPE)
    before = load(memory0 + offset, inside, FULL, DTYPE)
    if DEALLOCATE:
        gates = kept + layout.kept_free_gates(N, R, HW)
        whole, psi = before, retention(read0, gates, i, N, R, False, DTYPE)[:, None]
        before *= psi
    d_cells = load(d_memory, inside, FULL, DTYPE)
    if not VARIED:
        lengths = load(kept + layout.kept_lengths_after(N, R, HW) + i, in_i, FULL_I, DTYPE)
        if not FULL_I:
            lengths = tl.where(in_i, lengths, 1.0)
        d_lengths = tl.zeros_like(lengths)
    # Reading.
    totals = no_tensors()
    own = no_tensors()
    for r in tl.static_range(R):
        totals = totals + (changes[r] * load(kept + r * N + n, in_n, FULL_N, DTYPE),)
        d_read_vector = load(d_reads + r * W + w, in_w, FULL_W, DTYPE)
        own = own + (cells * d_read_vector[None, :],)
    totals = sums(totals, R, 0)
    own = sums(own, R, 1)
    columns = no_tensors()
    d_keys = no_tensors()
    d_masks = no_tensors()
    changes = no_tensors()
    for r in tl.static_range(R):
        change = own[r] + load(d_read + r * N + i, in_i, FULL_I, DTYPE)
        changes = changes + (change,)
        content = load(kept + r * N + i, in_i, FULL_I, DTYPE)
        alike = load(kept + layout.kept_similarities(N, R) + r * N + i, in_i, FULL_I, DTYPE)
        mode = tl.load(kept + layout.kept_modes(N, R, HW) + HW * R + r)
        strength = tl.load(kept + layout.kept_strengths(N, R, HW) + r)
        d_logits = mode * content * (change - totals[r])
        key = load(vector + r * W + w, in_w, FULL_W, DTYPE)
        weights = load(read1 + r * N + i, in_i, FULL_I, DTYPE)
        d_read_vector = load(d_reads + r * W + w, in_w, FULL_W, DTYPE)
        if VARIED:
            masks = vector + interface.read_masks(W, R, HW)
            mask = raw_mask(masks, r, w, W, MASKED, FLOOR, DTYPE)
            d_key, d_mask, d_compared = compare_backward(
                strength * d_logits, alike, key, mask, cells, SIMILARITY
            )
            d_cells += weights[:, None] * d_read_vector[None, :] + d_compared
            d_keys = d_keys + (d_key,)
            d_masks = d_masks + (d_mask,)
        else:
            key_length = tl.load(kept + layout.kept_key_lengths(N, R, HW) + r)
            d_products = strength * d_logits / (key_length * lengths + EPSILON)
            d_lengths -= d_products * alike * key_length
            d_product = d_products[:, None]
            d_cells += weights[:, None] * d_read_vector[None, :] + d_product * key[None, :]
            columns = columns + (d_product * cells,)
    if not VARIED:
        d_cells += (d_lengths / lengths)[:, None] * cells
    store_rows(scratch, changes, i, N, R)
    # Writing.
    weights = no_tensors()
    erases = no_tensors()
    for head in tl.static_range(HW):
        weights = weights + (load(write1 + head * N + i, in_i, FULL_I, DTYPE)[:, None],)
        erase = vector + interface.erase_vectors(W, R, HW) + head * W + w
        erase = tl.where(in_w, tl.sigmoid(load(erase, in_w, FULL_W, DTYPE)), 0.0)
        erases = erases + (erase[None, :],)
    added = no_tensors()
    d_written = no_tensors()
    d_before = d_cells
    for head in tl.static_range(HW):
        # Not by dividing the product of all heads by this head's factor, which may be 0.
        changed = d_cells * before
        for other in tl.static_range(HW):
            if other != head:
                changed *= 1.0 - weights[other] * erases[other]
        d_before *= 1.0 - weights[head] * erases[head]
        add = load(vector + interface.write_vectors(W, R, HW) + head * W + w, in_w, FULL_W, DTYPE)
        d_written = d_written + (d_cells * add[None, :] - changed * erases[head],)
        columns = columns + (weights[head] * changed,)
        added = added + (weights[head] * d_cells,)
    d_written = sums(d_written, HW, 1)
    to = scratch + layout.backward_written(N, R)
    for head in tl.static_range(HW):
        d_weights = d_written[head] + load(d_write + head * N + i, in_i, FULL_I, DTYPE)
        store(to + head * N + i, d_weights, in_i, FULL_I)
    if DEALLOCATE:
        to = scratch + layout.backward_retention(N, W, R, HW, S, COLUMNS)
        store(to + i, tl.sum(d_before * whole, 1), in_i, FULL_I)
        d_before *= psi
    tl.debug_barrier()  # all threads must have read what this store replaces
    store(d_memory, d_before, inside, FULL)
    columns = sums(columns + added, (0 if VARIED else R) + 2 * HW, 0)
    if MASKED:
        d_keys = d_keys + d_masks
    to = scratch + layout.backward_cells(N, R, HW, S) + s * COLUMNS * W
    store_rows(to, d_keys + columns, w, W, COLUMNS)


@triton.jit
def strip_backward_kernel(
    vector, kept, scratch, memory0, memory1, precedence0, link0, write1, read0, read1, d_reads,
    d_memory, d_precedence, d_link, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    KEPT: tl.constexpr, SCRATCH: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    BS: tl.constexpr, S: tl.constexpr, COLUMNS: tl.constexpr, DEALLOCATE: tl.constexpr,
    VARIED: tl.constexpr, SIMILARITY: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr,
    SHARP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A strip of the link matrix of a write head, or of the memory."""
    b, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, s = place // S, place % S
    kept += b * KEPT
    scratch += b * SCRATCH
    memory1 += b * N * W
    write1 += b * HW * N
    d_read += b * R * N
    d_reads += b * R * W
    n, w = tl.arange(0, BN), tl.arange(0, BW)
    in_n, in_w = n < N, w < W
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    in_cells = in_n[:, None] & in_w[None, :]
    cells = load(memory1 + n[:, None] * W + w[None, :], in_cells, FULL_N and FULL_W, DTYPE)
    found = no_tensors()
    for r in tl.static_range(R):
        d_read_vector = load(d_reads + r * W + w, in_w, FULL_W, DTYPE)
        found = found + (cells * d_read_vector[None, :],)
    found = sums(found, R, 1)
    changes = no_tensors()
    for r in tl.static_range(R):
        changes = changes + (found[r] + load(d_read + r * N + n, in_n, FULL_N, DTYPE),)
    if head < HW:
        link_strip(
            changes, vector + b * SIZE, kept, scratch, precedence0 + b * HW * N,
            link0 + b * HW * N * N, write1, read0 + b * R * N, d_precedence + b * HW * N,
            d_link + b * HW * N * N, head, s, N, W, R, HW, BN, BS, MASKED, SHARP, DTYPE,
        )  # fmt: skip
    else:
        cells_strip(
            changes, d_reads, vector + b * SIZE, kept, scratch, memory0 + b * N * W, memory1,
            write1, read0 + b * R * N, read1 + b * R * N, d_memory + b * N * W,
            d_write + b * HW * N, d_read, s, N, W, R, HW, BN, BW, BS, S, COLUMNS, DEALLOCATE,
            VARIED, SIMILARITY, MASKED, FLOOR, DTYPE,
        )  # fmt: skip
