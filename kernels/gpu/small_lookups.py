"""The part of `small_gradients` for the look-ups: gradients of keys and cells of small memories.

Also those of erase and write vectors and of the precedences, which lie beside them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from . import small_layout as layout
from .content import EPSILON
from .packed import no_tensors, sums
from .similarity import compare_backward, mask_slope, raw_mask
from .small_layout import load, store
from .small_sums import store_sum, strip_sum, written_gradient


@triton.jit
def write_scores_backward(
    kept, scratch, n,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, S: tl.constexpr,
    BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through the write content weightings.

    Returns:
        for each head, 0 outside: gradients of the scores (n); strength times those; similarities.
    """
    FULL_N: tl.constexpr = N == BN
    in_n = n < N
    changes = no_tensors()
    contents = no_tensors()
    for head in tl.static_range(HW):
        d_written = written_gradient(scratch, head, n, N, R, HW, BN, S, BSTRIPS, DTYPE)
        start = kept + layout.kept_write_content(N, R) + head * N
        contents = contents + (load(start + n, in_n, FULL_N, DTYPE),)
        changes = changes + (tl.where(in_n, d_written, 0.0) * contents[head],)
    totals = sums(changes, HW, 0)
    d_scores = no_tensors()
    d_alike = no_tensors()
    alike = no_tensors()
    for head in tl.static_range(HW):
        allocation_gate = tl.load(kept + layout.kept_allocation_gates(N, R, HW) + head)
        write_gate = tl.load(kept + layout.kept_write_gates(N, R, HW) + head)
        strength = tl.load(kept + layout.kept_write_strengths(N, R, HW) + head)
        start = kept + layout.kept_write_similarities(N, R, HW) + head * N
        alike = alike + (load(start + n, in_n, FULL_N, DTYPE),)
        share = write_gate * (1.0 - allocation_gate)
        d_scores = d_scores + (share * (changes[head] - contents[head] * totals[head]),)
        d_alike = d_alike + (strength * d_scores[head],)
    return d_scores, d_alike, alike


@triton.jit
def cells_backward(
    vector, kept, scratch, memory0, write1, d_memory, d_precedence,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, VARIED: tl.constexpr,
    SIMILARITY: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of the memory, through the write keys, and of the precedences."""
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    n, w = tl.arange(0, BN), tl.arange(0, BW)
    in_n, in_w = n < N, w < W
    inside = in_n[:, None] & in_w[None, :]
    offset = n[:, None] * W + w[None, :]
    cells = load(memory0 + offset, inside, FULL_N and FULL_W, DTYPE)
    d_cells = load(d_memory + offset, inside, FULL_N and FULL_W, DTYPE)
    d_nexts = no_tensors()
    kept_shares = no_tensors()
    for head in tl.static_range(HW):
        weights = load(write1 + head * N + n, in_n, FULL_N, DTYPE)
        kept_shares = kept_shares + (1.0 - tl.sum(weights, 0),)
        d_nexts = d_nexts + (load(d_precedence + head * N + n, in_n, FULL_N, DTYPE),)
    _, d_alike, alike = write_scores_backward(kept, scratch, n, N, R, HW, BN, S, BSTRIPS, DTYPE)
    if VARIED:
        masks = vector + interface.write_masks(W, R, HW)
        for head in tl.static_range(HW):
            mask = raw_mask(masks, head, w, W, MASKED, FLOOR, DTYPE)
            key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
            d_cells += compare_backward(d_alike[head], alike[head], key, mask, cells, SIMILARITY)[2]
    else:
        lengths = load(kept + layout.kept_lengths_before(N, R, HW) + n, in_n, FULL_N, DTYPE)
        if not FULL_N:
            lengths = tl.where(in_n, lengths, 1.0)
        d_lengths = tl.zeros_like(lengths)
        for head in tl.static_range(HW):
            key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
            key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
            d_products = d_alike[head] / (key_length * lengths + EPSILON)
            d_lengths -= d_products * alike[head] * key_length
            d_cells += d_products[:, None] * key[None, :]
        d_cells += (d_lengths / lengths)[:, None] * cells
    tl.debug_barrier()  # all threads must have read what these stores replace
    store(d_memory + offset, d_cells, inside, FULL_N and FULL_W)
    for head in tl.static_range(HW):
        rows = scratch + layout.backward_rows(N, R, HW) + (head * (R + 2) + 1) * N
        found = strip_sum(rows, n, in_n, HW * (R + 2) * N, S, BSTRIPS)
        found += kept_shares[head] * d_nexts[head]
        store_sum(d_precedence + head * N, found, n, N, BN, BSTRIPS)


@triton.jit
def keys_backward(
    vector, kept, scratch, memory0, d_vector,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, BR: tl.constexpr, BROWS: tl.constexpr, S: tl.constexpr,
    BSTRIPS: tl.constexpr, COLUMNS: tl.constexpr, VARIED: tl.constexpr,
    SIMILARITY: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of keys, masks, strengths, erase, write vectors, all raw; BROWS: 2 HW, padded."""
    FULL_N: tl.constexpr = N == BN
    FULL_W: tl.constexpr = W == BW
    FULL_R: tl.constexpr = R == BR
    n, w, r, q = tl.arange(0, BN), tl.arange(0, BW), tl.arange(0, BR), tl.arange(0, BROWS)
    in_n, in_w, in_r = n < N, w < W, r < R
    in_tile = in_r[:, None] & in_n[None, :]
    tile = r[:, None] * N + n[None, :]
    in_keys = in_r[:, None] & in_w[None, :]
    keys_tile = r[:, None] * W + w[None, :]
    FULL: tl.constexpr = FULL_N and FULL_R
    FULL_KEYS: tl.constexpr = FULL_W and FULL_R
    in_cells = in_n[:, None] & in_w[None, :]
    cells = load(memory0 + n[:, None] * W + w[None, :], in_cells, FULL_N and FULL_W, DTYPE)
    # Read keys, as far as the strips have calculated them; erase and write vectors.
    content = load(kept + tile, in_tile, FULL, DTYPE)
    alike = load(kept + layout.kept_similarities(N, R) + tile, in_tile, FULL, DTYPE)
    mode = load(kept + layout.kept_modes(N, R, HW) + HW * R + r, in_r, FULL_R, DTYPE)
    raw = load(vector + interface.read_strengths(W, R) + r, in_r, FULL_R, DTYPE)
    change = load(scratch + tile, in_tile, FULL, DTYPE)
    first = scratch + layout.backward_cells(N, R, HW, S)
    in_rows = (q < 2 * HW)[:, None] & in_w[None, :]
    FULL_ROWS: tl.constexpr = FULL_W and BROWS == 2 * HW
    rows_tile = q[:, None] * W + w[None, :]
    rows = vector + interface.erase_vectors(W, R, HW) + rows_tile
    erased = tl.sigmoid(load(rows, in_rows, FULL_ROWS, DTYPE))
    other_rows = first + (COLUMNS - 2 * HW) * W + rows_tile
    d_keys = load(first + keys_tile, in_keys, FULL_KEYS, DTYPE)
    d_rows = load(other_rows, in_rows, FULL_ROWS, DTYPE)
    for s in tl.static_range(1, S):
        d_keys += load(first + s * COLUMNS * W + keys_tile, in_keys, FULL_KEYS, DTYPE)
        d_rows += load(other_rows + s * COLUMNS * W, in_rows, FULL_ROWS, DTYPE)
    if MASKED:
        d_masks = load(first + R * W + keys_tile, in_keys, FULL_KEYS, DTYPE)
        for s in tl.static_range(1, S):
            d_masks += load(first + (s * COLUMNS + R) * W + keys_tile, in_keys, FULL_KEYS, DTYPE)
        start = interface.read_masks(W, R, HW)
        d_masks *= mask_slope(load(vector + start + keys_tile, in_keys, FULL_KEYS, DTYPE), FLOOR)
        store(d_vector + start + keys_tile, d_masks, in_keys, FULL_KEYS)
    d_rows *= tl.where((q < HW)[:, None], -erased * (1.0 - erased), 1.0)
    rows = d_vector + interface.erase_vectors(W, R, HW) + rows_tile
    store(rows, d_rows, in_rows, FULL_ROWS)
    # Lengths and strengths of the read keys, one head to a warp or so.
    total = tl.sum(content * change, 1)
    d_scores = mode[:, None] * content * (change - total[:, None])
    d_strength = d_scores * alike
    if VARIED:
        d_strength = tl.sum(d_strength, 1)
    else:
        keys = load(vector + keys_tile, in_keys, FULL_KEYS, DTYPE)
        lengths = load(kept + layout.kept_lengths_after(N, R, HW) + n, in_n, FULL_N, DTYPE)
        strength = load(kept + layout.kept_strengths(N, R, HW) + r, in_r, FULL_R, DTYPE)
        key_length = load(kept + layout.kept_key_lengths(N, R, HW) + r, in_r, FULL_R, DTYPE)
        scales = key_length[:, None] * lengths[None, :] + EPSILON
        d_length = -strength[:, None] * d_strength * lengths[None, :] / scales
        d_strength, d_length = sums((d_strength, d_length), 2, 1)
        if not FULL_R:
            key_length = tl.where(in_r, key_length, 1.0)
        d_keys += (d_length / key_length)[:, None] * keys
    store(d_vector + keys_tile, d_keys, in_keys, FULL_KEYS)
    d_strength *= tl.sigmoid(raw)
    store(d_vector + interface.read_strengths(W, R) + r, d_strength, in_r, FULL_R)
    # Write keys.
    d_scores, d_alike, alike = write_scores_backward(
        kept, scratch, n, N, R, HW, BN, S, BSTRIPS, DTYPE
    )
    d_write_keys = no_tensors()
    if VARIED:
        d_strengths = no_tensors()
        for head in tl.static_range(HW):
            key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
            start = interface.write_masks(W, R, HW)
            mask = raw_mask(vector + start, head, w, W, MASKED, FLOOR, DTYPE)
            d_key, d_mask, _ = compare_backward(
                d_alike[head], alike[head], key, mask, cells, SIMILARITY
            )
            d_write_keys = d_write_keys + (d_key,)
            d_strengths = d_strengths + (tl.sum(d_scores[head] * alike[head], 0),)
            if MASKED:
                start += head * W
                d_mask *= mask_slope(load(vector + start + w, in_w, FULL_W, DTYPE), FLOOR)
                store(d_vector + start + w, d_mask, in_w, FULL_W)
    else:
        columns = no_tensors()
        strength_terms = no_tensors()
        length_terms = no_tensors()
        lengths = load(kept + layout.kept_lengths_before(N, R, HW) + n, in_n, FULL_N, DTYPE)
        for head in tl.static_range(HW):
            key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
            d_products = d_alike[head] / (key_length * lengths + EPSILON)
            columns = columns + (d_products[:, None] * cells,)
            strength_terms = strength_terms + (d_scores[head] * alike[head],)
            length_terms = length_terms + (d_products * alike[head] * lengths,)
        columns = sums(columns, HW, 0)
        d_strengths = sums(strength_terms + length_terms, 2 * HW, 0)
        for head in tl.static_range(HW):
            key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
            key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
            d_key = columns[head] - d_strengths[HW + head] / key_length * key
            d_write_keys = d_write_keys + (d_key,)
    for head in tl.static_range(HW):
        to = d_vector + interface.write_keys(W, R) + head * W
        store(to + w, d_write_keys[head], in_w, FULL_W)
        at = interface.write_strengths(W, R, HW) + head
        slope = tl.sigmoid(tl.load(vector + at).to(DTYPE))
        tl.store(d_vector + at, slope * d_strengths[head])
