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
from .content import EPSILON
from .packed import no_tensors, store_columns, sums
from .small_layout import load, store
from .usage_order import EPSILON as LEAST_USAGE
from .usage_order import cell_key, comes_before, lift


@triton.jit
def strip_sum(start, n, in_n, STRIDE: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr):
    """The sum of what all strips stored of a vector (n)."""
    s = tl.arange(0, BSTRIPS)
    mask = (s < S)[:, None] & in_n[None, :]
    return tl.sum(tl.load(start + s[:, None] * STRIDE + n[None, :], mask=mask, other=0.0), 0)


@triton.jit
def store_sum(to, numbers, n, N: tl.constexpr, BN: tl.constexpr, BSTRIPS: tl.constexpr):
    """Store a vector (n) as the first row of a tile, in the layout that `strip_sum` leaves."""
    s = tl.arange(0, BSTRIPS)
    place = n[None, :] + tl.zeros([BSTRIPS, 1], tl.int32)
    mask = (s == 0)[:, None] & (n < N)[None, :]
    tl.store(to + place, tl.broadcast_to(numbers[None, :], [BSTRIPS, BN]), mask=mask)


@triton.jit
def written_gradient(
    scratch, head: tl.constexpr, n, N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr,
    BN: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The gradient of a head's write weighting (n), 0 outside."""
    start = scratch + layout.backward_written(N, R) + head * N + n
    found = load(start, n < N, N == BN, DTYPE) + load(start + HW * N, n < N, N == BN, DTYPE)
    rows = scratch + layout.backward_rows(N, R, HW) + head * (R + 2) * N
    return found - strip_sum(rows, n, n < N, HW * (R + 2) * N, S, BSTRIPS)


@triton.jit
def linked_sums(
    scratch, head: tl.constexpr, tile, in_tile, FULL: tl.constexpr, N: tl.constexpr,
    R: tl.constexpr, HW: tl.constexpr, S: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A head's link matrix times the changes (r, n), and the transposed one."""
    x = load(scratch + layout.backward_linked(N, R, HW) + head * R * N + tile, in_tile, FULL, DTYPE)
    start = scratch + layout.backward_rows(N, R, HW) + (head * (R + 2) + 2) * N + tile
    y = load(start, in_tile, FULL, DTYPE)
    for s in tl.static_range(1, S):
        y += load(start + s * HW * (R + 2) * N, in_tile, FULL, DTYPE)
    return x, y


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
def write_scores_backward(
    kept, scratch, n,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, S: tl.constexpr,
    BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through the write content weightings.

    Returns:
        for each head, 0 outside: gradients of the scores (n); strength times those over the product
        of both lengths; similarities.
    """
    FULL_N: tl.constexpr = N == BN
    in_n = n < N
    lengths = load(kept + layout.kept_lengths_before(N, R, HW) + n, in_n, FULL_N, DTYPE)
    changes = no_tensors()
    contents = no_tensors()
    for head in tl.static_range(HW):
        d_written = written_gradient(scratch, head, n, N, R, HW, BN, S, BSTRIPS, DTYPE)
        start = kept + layout.kept_write_content(N, R) + head * N
        contents = contents + (load(start + n, in_n, FULL_N, DTYPE),)
        changes = changes + (tl.where(in_n, d_written, 0.0) * contents[head],)
    totals = sums(changes, HW, 0)
    d_scores = no_tensors()
    d_products = no_tensors()
    alike = no_tensors()
    for head in tl.static_range(HW):
        allocation_gate = tl.load(kept + layout.kept_allocation_gates(N, R, HW) + head)
        write_gate = tl.load(kept + layout.kept_write_gates(N, R, HW) + head)
        strength = tl.load(kept + layout.kept_write_strengths(N, R, HW) + head)
        key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
        start = kept + layout.kept_write_similarities(N, R, HW) + head * N
        alike = alike + (load(start + n, in_n, FULL_N, DTYPE),)
        share = write_gate * (1.0 - allocation_gate)
        d_scores = d_scores + (share * (changes[head] - contents[head] * totals[head]),)
        scale = key_length * lengths + EPSILON
        d_products = d_products + (strength * d_scores[head] / scale,)
    return d_scores, d_products, alike, lengths


@triton.jit
def cells_backward(
    vector, kept, scratch, memory0, write1, d_memory, d_precedence,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BW: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
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
    _, d_products, alike, lengths = write_scores_backward(
        kept, scratch, n, N, R, HW, BN, S, BSTRIPS, DTYPE
    )
    if not FULL_N:
        lengths = tl.where(in_n, lengths, 1.0)
    d_lengths = tl.zeros_like(lengths)
    for head in tl.static_range(HW):
        key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
        key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
        d_lengths -= d_products[head] * alike[head] * key_length
        d_cells += d_products[head][:, None] * key[None, :]
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
    BSTRIPS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of keys, strengths, erase and write vectors, all raw. BROWS: 2 HW, padded."""
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
    # Read keys, as far as the strips have come; erase and write vectors.
    content = load(kept + tile, in_tile, FULL, DTYPE)
    alike = load(kept + layout.kept_similarities(N, R) + tile, in_tile, FULL, DTYPE)
    lengths = load(kept + layout.kept_lengths_after(N, R, HW) + n, in_n, FULL_N, DTYPE)
    mode = load(kept + layout.kept_modes(N, R, HW) + HW * R + r, in_r, FULL_R, DTYPE)
    strength = load(kept + layout.kept_strengths(N, R, HW) + r, in_r, FULL_R, DTYPE)
    key_length = load(kept + layout.kept_key_lengths(N, R, HW) + r, in_r, FULL_R, DTYPE)
    raw = load(vector + interface.read_strengths(W, R) + r, in_r, FULL_R, DTYPE)
    keys = load(vector + keys_tile, in_keys, FULL_KEYS, DTYPE)
    change = load(scratch + tile, in_tile, FULL, DTYPE)
    first = scratch + layout.backward_cells(N, R, HW, S)
    in_rows = (q < 2 * HW)[:, None] & in_w[None, :]
    FULL_ROWS: tl.constexpr = FULL_W and BROWS == 2 * HW
    rows_tile = q[:, None] * W + w[None, :]
    rows = vector + interface.erase_vectors(W, R, HW) + rows_tile
    erased = tl.sigmoid(load(rows, in_rows, FULL_ROWS, DTYPE))
    d_keys = load(first + keys_tile, in_keys, FULL_KEYS, DTYPE)
    d_rows = load(first + R * W + rows_tile, in_rows, FULL_ROWS, DTYPE)
    for s in tl.static_range(1, S):
        start = first + s * (R + 2 * HW) * W
        d_keys += load(start + keys_tile, in_keys, FULL_KEYS, DTYPE)
        d_rows += load(start + R * W + rows_tile, in_rows, FULL_ROWS, DTYPE)
    d_rows *= tl.where((q < HW)[:, None], -erased * (1.0 - erased), 1.0)
    rows = d_vector + interface.erase_vectors(W, R, HW) + rows_tile
    store(rows, d_rows, in_rows, FULL_ROWS)
    # Lengths and strengths of the read keys, one head to a warp or so.
    total = tl.sum(content * change, 1)
    d_scores = mode[:, None] * content * (change - total[:, None])
    d_strength = d_scores * alike
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
    d_scores, d_products, alike, lengths = write_scores_backward(
        kept, scratch, n, N, R, HW, BN, S, BSTRIPS, DTYPE
    )
    columns = no_tensors()
    numbers = no_tensors()
    for head in tl.static_range(HW):
        columns = columns + (d_products[head][:, None] * cells,)
        d_strength = d_scores[head] * alike[head]
        numbers = numbers + (d_strength, d_products[head] * alike[head] * lengths)
    columns = sums(columns, HW, 0)
    numbers = sums(numbers, 2 * HW, 0)
    for head in tl.static_range(HW):
        key = load(vector + interface.write_keys(W, R) + head * W + w, in_w, FULL_W, DTYPE)
        key_length = tl.load(kept + layout.kept_write_key_lengths(N, R, HW) + head)
        d_key = columns[head] - numbers[2 * head + 1] / key_length * key
        to = d_vector + interface.write_keys(W, R) + head * W
        store(to + w, d_key, in_w, FULL_W)
        at = interface.write_strengths(W, R, HW) + head
        slope = tl.sigmoid(tl.load(vector + at).to(DTYPE))
        tl.store(d_vector + at, slope * numbers[2 * head])


@triton.jit
def usage_backward(
    kept, scratch, usage0, usage1, write0, read0, d_vector, d_usage, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr,
    BR: tl.constexpr, S: tl.constexpr, BSTRIPS: tl.constexpr, DEALLOCATE: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
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
            allocation = (1.0 - lift(seen[head])) * products[head]
            seen = seen + (seen[head] + (1.0 - seen[head]) * shares[head] * allocation,)
    # The last head first: the usage it saw depends on the heads before it.
    d_seen = tl.zeros([BN], DTYPE)
    for head in tl.static_range(HW - 1, -1, -1):
        d_written = written_gradient(scratch, head, n, N, R, HW, BN, S, BSTRIPS, DTYPE)
        d_written = tl.where(in_n, d_written, 0.0)
        start = kept + layout.kept_write_content(N, R) + head * N
        content = load(start + n, in_n, FULL_N, DTYPE)
        lifted = lift(seen[head])
        allocation = (1.0 - lifted) * products[head]
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
        start = scratch + layout.backward_retention(N, W, R, HW, S)
        d_retention += load(start + n, in_n, FULL_N, DTYPE)
    others *= d_retention[None, :]
    d_last = -others * free[:, None]
    for head in tl.static_range(HW):
        x, y = linked_sums(scratch, head, tile, in_tile, FULL, N, R, HW, S, DTYPE)
        modes = kept + layout.kept_modes(N, R, HW) + head * R + r_tile
        behind = load(modes, in_r, FULL_R, DTYPE)
        ahead = load(modes + (1 + HW) * R, in_r, FULL_R, DTYPE)
        d_last += behind[:, None] * x + ahead[:, None] * y
    d_free = tl.sum(last * others, 1)
    d_filled = d_seen * retained
    tl.debug_barrier()  # all threads must have read what these stores replace
    store_sum(d_usage, d_filled * unwritten, n, N, BN, BSTRIPS)
    for head in tl.static_range(HW):
        d_last_write = d_filled * (1.0 - old_usage)
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
    DEALLOCATE: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
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
            BSTRIPS, DEALLOCATE, ROBUST, DTYPE,
        )  # fmt: skip
    elif part == 1:
        keys_backward(
            vector, kept, scratch, memory0, d_vector, N, W, R, HW, BN, BW, BR, BROWS, S, BSTRIPS,
            DTYPE,
        )  # fmt: skip
    elif part == 2:
        cells_backward(
            vector, kept, scratch, memory0, write1 + b * HW * N, d_memory + b * N * W,
            d_precedence + b * HW * N, N, W, R, HW, BN, BW, S, BSTRIPS, DTYPE,
        )  # fmt: skip
    else:
        modes_backward(kept, scratch, read0, d_vector, N, W, R, HW, BN, BR, S, DTYPE)
