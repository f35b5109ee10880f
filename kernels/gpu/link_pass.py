"""The pass over a link matrix: programs that walk down strips of its rows without barriers.

A unit is BM rows by BN columns, sized so that a warp takes one row with one vector load a thread. A
program owns BN columns of a strip and walks down it, M rows of each warp a step, while the next
step's units are loaded into registers. So no thread waits for another inside the loop:

- What belongs to a column, vectors and partial sums, stays in registers for the whole strip.
- What belongs to a row is summed over the lanes of one warp and kept by the lane with the row's
  number, its slot. A warp has SLOTS rows in turn; then the slots are stored, and the next of BLOCKS
  blocks of rows begins.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load(pointers, mask, EVEN: tl.constexpr):
    """Numbers of the link matrix or of a vector; EVEN: no program reaches outside."""
    if EVEN:
        found = tl.load(pointers)
    else:
        found = tl.load(pointers, mask=mask, other=0.0)
    return found


@triton.jit
def load_units(
    link, i, j,
    N: tl.constexpr, SLOTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, M: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """The M units of a step, not converted; link points to the first, i and j are where it lies."""
    row, column = tl.arange(0, BM) * SLOTS, tl.arange(0, BN)
    units = ()
    for m in tl.static_range(M):
        mask = (i + row + m < N)[:, None] & (j + column < N)[None, :]
        units = units + (load(link + (row + m)[:, None] * N + column[None, :], mask, EVEN),)
    return units


@triton.jit
def load_columns(
    values, j, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, EVEN: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The numbers of columns j, each warp has them all: (BM, BN)."""
    j = tl.broadcast_to(j[None, :], [BM, BN])
    return load(values + j, j < N, EVEN).to(DTYPE)


@triton.jit
def load_rows(values, i, N: tl.constexpr, EVEN: tl.constexpr, DTYPE: tl.constexpr):
    """The numbers of rows i."""
    return load(values + i, i < N, EVEN).to(DTYPE)


@triton.jit
def store_unit(link, unit, mask, EVEN: tl.constexpr):
    """Store a unit of the link matrix."""
    if EVEN:
        tl.store(link, unit)
    else:
        tl.store(link, unit, mask=mask)


@triton.jit
def without_diagonal(tile, i, j):
    """The tile of rows i and columns j with zeros on the diagonal."""
    return tl.where(i[:, None] == j[None, :], 0.0, tile)


@triton.jit
def lane_parts(unit, BM: tl.constexpr, BN: tl.constexpr):
    """Sums of the numbers that a thread has of a row: (BM, 32), one for each lane."""
    return tl.sum(tl.reshape(unit, [BM, 32, BN // 32]), 2)


@triton.jit
def put_row_sums(
    slots, products, step,
    BM: tl.constexpr, BN: tl.constexpr, M: tl.constexpr, PAIR: tl.constexpr,
):  # fmt: skip
    """The slots (BM, 32) with the row sums of a step's M units put into them.

    PAIR: half a warp sums the one row and half the other, with half the exchanges between lanes.
    """
    lane = tl.zeros([BM], tl.int32)[:, None] + tl.arange(0, 32)[None, :]
    if PAIR:
        one, other = lane_parts(products[0], BM, BN), lane_parts(products[1], BM, BN)
        kept, sent = tl.where(lane < 16, one, other), tl.where(lane < 16, other, one)
        kept = tl.reshape(kept + tl.gather(sent, lane ^ 16, 1), [BM, 2, 16])
        sums = tl.broadcast_to(tl.sum(kept, 2)[:, :, None], [BM, 2, 16])
        slots = tl.where(lane % 16 == step, tl.reshape(sums, [BM, 32]), slots)
    else:
        for m in tl.static_range(M):
            sums = tl.sum(lane_parts(products[m], BM, BN), 1)
            slots = tl.where(lane == step * M + m, sums[:, None], slots)
    return slots


@triton.jit
def store_slots(
    rows, slots, i, N: tl.constexpr, SLOTS: tl.constexpr, BM: tl.constexpr, PAIR: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Store the sums of the rows of a block, whose first is i."""
    place = tl.arange(0, BM * 32)
    slot = place % 32
    if PAIR:
        slot = slot % 16 * 2 + slot // 16
    i += place // 32 * SLOTS + slot
    slots = tl.reshape(slots, [BM * 32])
    if EVEN and SLOTS == 32:
        tl.store(rows + i, slots)
    else:
        tl.store(rows + i, slots, mask=(slot < SLOTS) & (i < N))


@triton.jit
def store_columns(vectors, found, j, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Store the numbers of columns j, the same for each warp: the first does it."""
    first = (tl.arange(0, BM) == 0)[:, None]
    j = tl.broadcast_to(j[None, :], [BM, BN])
    tl.store(vectors + j, tl.broadcast_to(found, [BM, BN]), mask=first & (j < N))


@triton.jit
def store_column_sums(
    columns, sums, j, N: tl.constexpr, COUNT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """Add up all warps' sums of columns j and store them; in pairs, to wait half as often."""
    for r in tl.static_range(0, COUNT, 2):
        if r + 1 < COUNT:
            one, other = tl.split(tl.sum(tl.join(sums[r], sums[r + 1]), 0))
            store_columns(columns + (r + 1) * N, other[None, :], j, N, BM, BN)
        else:
            one = tl.sum(sums[r], 0)
        store_columns(columns + r * N, one[None, :], j, N, BM, BN)


@triton.jit
def next_step(
    block, step,
    BLOCKS: tl.constexpr, SLOTS: tl.constexpr, BM: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """The first row of the step after this one; for the last step, its own."""
    first = block * (SLOTS * BM) + (step + 1) * M
    if step + 1 == SLOTS // M:
        first = (block + 1) * (SLOTS * BM)
    return tl.minimum(first, (BLOCKS - 1) * SLOTS * BM + SLOTS - M)


@triton.jit
def row_total(values, N: tl.constexpr, BN: tl.constexpr, DTYPE: tl.constexpr):
    """The sum of (N)."""
    sums = tl.zeros([BN], DTYPE)
    for start in range(0, N, BN):
        j = start + tl.arange(0, BN)
        sums += tl.load(values + j, mask=j < N, other=0.0).to(DTYPE)
    return tl.sum(sums, 0)


@triton.jit
def program_place(STRIPS: tl.constexpr, CHUNKS: tl.constexpr):
    """Batch element and write head as one 64-bit number, strip and chunk of a program.

    The grid has one axis because only the first axis of a grid may be long, and in it neighbours
    read neighbouring columns.
    """
    place = tl.program_id(0)
    return (place // (CHUNKS * STRIPS)).to(tl.int64), place // CHUNKS % STRIPS, place % CHUNKS


@triton.jit
def pass_kernel(
    write1, precedence0, read0, link0, link1, precedence1, rows, columns,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCKS: tl.constexpr, SLOTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, M: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, UNROLL: tl.constexpr, READ: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The new link matrix; READ: also partial sums of both weightings, and the new precedence.

    rows: (B, HW, CHUNKS, R, N), forward weightings. columns: (B, HW, STRIPS, R, N), backward.
    KEEP: read weightings of the columns are kept in registers, not loaded every step.
    """
    EVEN: tl.constexpr = N % BN == 0 and N % (BLOCKS * SLOTS * BM) == 0
    HEADS: tl.constexpr = R if READ else 0
    bh, strip, chunk = program_place(STRIPS, CHUNKS)
    i0, j0 = strip * (BLOCKS * SLOTS * BM), chunk * BN
    row, j = tl.arange(0, BM) * SLOTS, j0 + tl.arange(0, BN)
    start = bh * N * N + i0.to(tl.int64) * N + j0
    link0 += start
    link1 += start
    write1 += bh * N
    precedence0 += bh * N
    read0 += bh // HW * R * N
    rows += (bh * CHUNKS + chunk) * R * N
    columns += (bh * STRIPS + strip) * R * N
    ahead = load_units(link0, i0, j0, N, SLOTS, BM, BN, M, EVEN)
    wj = load_columns(write1, j, N, BM, BN, EVEN, DTYPE)
    pj = load_columns(precedence0, j, N, BM, BN, EVEN, DTYPE)
    lasts, sums = (), ()
    for r in tl.static_range(HEADS):
        if KEEP:
            lasts = lasts + (load_columns(read0 + r * N, j, N, BM, BN, EVEN, DTYPE),)
        sums = sums + (tl.zeros([BM, BN], DTYPE),)
    for block in range(BLOCKS):
        slots = ()
        for _ in tl.static_range(HEADS):
            slots = slots + (tl.zeros([BM, 32], DTYPE),)
        for step in tl.range(SLOTS // M, num_stages=1, loop_unroll_factor=UNROLL):
            first = block * (SLOTS * BM) + step * M
            units, after = ahead, next_step(block, step, BLOCKS, SLOTS, BM, M)
            ahead = load_units(link0 + after * N, i0 + after, j0, N, SLOTS, BM, BN, M, EVEN)
            links = ()
            for m in tl.static_range(M):
                i = i0 + first + m + row
                wi = load_rows(write1, i, N, EVEN, DTYPE)
                link = ((1.0 - wi)[:, None] - wj) * units[m].to(DTYPE) + wi[:, None] * pj
                link = without_diagonal(link, i, j)
                offset = (row + m)[:, None] * N + tl.arange(0, BN)[None, :]
                mask = (i < N)[:, None] & (j < N)[None, :]
                store_unit(link1 + first * N + offset, link, mask, EVEN)
                links = links + (link,)
            next_slots, next_sums = (), ()
            for r in tl.static_range(HEADS):
                if KEEP:
                    last = lasts[r]
                else:
                    last = load_columns(read0 + r * N, j, N, BM, BN, EVEN, DTYPE)
                products, behind = (), sums[r]
                for m in tl.static_range(M):
                    products = products + (links[m] * last,)
                    last_i = load_rows(read0 + r * N, i0 + first + m + row, N, EVEN, DTYPE)
                    behind += links[m] * last_i[:, None]
                next_slots = next_slots + (put_row_sums(slots[r], products, step, BM, BN, M, PAIR),)
                next_sums = next_sums + (behind,)
            slots, sums = next_slots, next_sums
        for r in tl.static_range(HEADS):
            i = i0 + block * (SLOTS * BM)
            store_slots(rows + r * N, slots[r], i, N, SLOTS, BM, PAIR, EVEN)
    store_column_sums(columns, sums, j, N, HEADS, BM, BN)
    if READ:
        if strip == 0:
            rest = 1.0 - row_total(write1, N, min(1024, triton.next_power_of_2(N)), DTYPE)
            store_columns(precedence1 + bh * N, rest * pj + wj, j, N, BM, BN)


@triton.jit
def pass_backward_kernel(
    write1, precedence0, read0, link0, d_link, d_ahead, d_behind, modes, rows, columns,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCKS: tl.constexpr, SLOTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, M: tl.constexpr,
    PAIR: tl.constexpr, KEEP: tl.constexpr, R_STRIDE: tl.constexpr, H_STRIDE: tl.constexpr,
    SCALED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Takes d_link from L_t to L_{t-1}, in place; stores partial sums of all other gradients.

    With a_r and c_r the gradients of the forward and the backward weighting of read head r, s_r and
    t_r their read modes if SCALED (otherwise 1), and
    G = d_link + sum_r s_r a_r wr_r^T + t_r wr_r c_r^T, without its diagonal:

        d_link = (1 - ww_i - ww_j) G
        rows: (B, HW, CHUNKS, R + 1, N): L_t c_r; sum_j G_ij (p_j - L_ij)
        columns: (B, HW, STRIPS, R + 2, N): L_t^T a_r; sum_i G_ij L_ij; sum_i ww_i G_ij

    where L and p are those of t - 1. For batch element b and write head h, a_r and c_r begin at
    b R R_STRIDE + r R_STRIDE + h H_STRIDE of d_ahead and d_behind. KEEP: what the heads have in the
    columns is kept in registers, not loaded every step.
    """
    EVEN: tl.constexpr = N % BN == 0 and N % (BLOCKS * SLOTS * BM) == 0
    MODES: tl.constexpr = 1 + 2 * HW
    bh, strip, chunk = program_place(STRIPS, CHUNKS)
    i0, j0 = strip * (BLOCKS * SLOTS * BM), chunk * BN
    row, j = tl.arange(0, BM) * SLOTS, j0 + tl.arange(0, BN)
    start = bh * N * N + i0.to(tl.int64) * N + j0
    b, head = bh // HW, bh % HW
    link0 += start
    d_link += start
    write1 += bh * N
    precedence0 += bh * N
    read0 += b * R * N
    d_ahead += b * R * R_STRIDE + head * H_STRIDE
    d_behind += b * R * R_STRIDE + head * H_STRIDE
    modes += b * R * MODES + head
    rows += (bh * CHUNKS + chunk) * (R + 1) * N
    columns += (bh * STRIPS + strip) * (R + 2) * N
    links_ahead = load_units(link0, i0, j0, N, SLOTS, BM, BN, M, EVEN)
    gradients_ahead = load_units(d_link, i0, j0, N, SLOTS, BM, BN, M, EVEN)
    wj = load_columns(write1, j, N, BM, BN, EVEN, DTYPE)
    pj = load_columns(precedence0, j, N, BM, BN, EVEN, DTYPE)
    lasts, changes, scales, sums = (), (), (), ()
    for r in tl.static_range(R):
        if KEEP:
            last = load_columns(read0 + r * N, j, N, BM, BN, EVEN, DTYPE)
            if SCALED:
                last *= tl.load(modes + r * MODES + 1 + HW)
                scales = scales + (tl.load(modes + r * MODES),)
            lasts = lasts + (last,)
            change = load_columns(d_behind + r * R_STRIDE, j, N, BM, BN, EVEN, DTYPE)
            changes = changes + (change,)
    for _ in tl.static_range(R + 2):
        sums = sums + (tl.zeros([BM, BN], DTYPE),)
    after = strip * 0  # carried on, so that rows are not counted twice, in more registers
    for block in range(BLOCKS):
        slots = ()
        for _ in tl.static_range(R + 1):
            slots = slots + (tl.zeros([BM, 32], DTYPE),)
        for step in tl.range(SLOTS // M, num_stages=1):
            first, after = after, next_step(block, step, BLOCKS, SLOTS, BM, M)
            units, gradient_units = links_ahead, gradients_ahead
            links_ahead = load_units(link0 + after * N, i0 + after, j0, N, SLOTS, BM, BN, M, EVEN)
            gradients_ahead = load_units(
                d_link + after * N, i0 + after, j0, N, SLOTS, BM, BN, M, EVEN
            )
            links, gradients = (), ()
            for m in tl.static_range(M):
                i = i0 + first + m + row
                wi = load_rows(write1, i, N, EVEN, DTYPE)
                link = ((1.0 - wi)[:, None] - wj) * units[m].to(DTYPE) + wi[:, None] * pj
                links = links + (without_diagonal(link, i, j),)
                gradients = gradients + (gradient_units[m].to(DTYPE),)
            next_slots, next_sums = (), ()
            for r in tl.static_range(R):
                if KEEP:
                    last, change = lasts[r], changes[r]
                else:
                    last = load_columns(read0 + r * N, j, N, BM, BN, EVEN, DTYPE)
                    change = load_columns(d_behind + r * R_STRIDE, j, N, BM, BN, EVEN, DTYPE)
                    if SCALED:
                        last *= tl.load(modes + r * MODES + 1 + HW)
                products, updated, y = (), (), sums[r]
                for m in tl.static_range(M):
                    i = i0 + first + m + row
                    ai = load_rows(d_ahead + r * R_STRIDE, i, N, EVEN, DTYPE)
                    last_i = load_rows(read0 + r * N, i, N, EVEN, DTYPE)
                    if SCALED:
                        last_i *= scales[r] if KEEP else tl.load(modes + r * MODES)
                    gradient = gradients[m] + ai[:, None] * last + last_i[:, None] * change
                    updated = updated + (gradient,)
                    products = products + (links[m] * change,)
                    y += links[m] * ai[:, None]
                gradients = updated
                next_slots = next_slots + (put_row_sums(slots[r], products, step, BM, BN, M, PAIR),)
                next_sums = next_sums + (y,)
            if BN < 64:  # warps of 64 lanes may hold the same number: all must have read it
                tl.debug_barrier()
            products, column_sums, d_precedence = (), sums[R], sums[R + 1]
            for m in tl.static_range(M):
                i = i0 + first + m + row
                wi, link = load_rows(write1, i, N, EVEN, DTYPE), units[m].to(DTYPE)
                gradient = without_diagonal(gradients[m], i, j)
                products = products + (gradient * (pj - link),)
                column_sums += gradient * link
                d_precedence += gradient * wi[:, None]
                offset = (row + m)[:, None] * N + tl.arange(0, BN)[None, :]
                mask = (i < N)[:, None] & (j < N)[None, :]
                gradient = ((1.0 - wi)[:, None] - wj) * gradient
                store_unit(d_link + first * N + offset, gradient, mask, EVEN)
            next_slots = next_slots + (put_row_sums(slots[R], products, step, BM, BN, M, PAIR),)
            slots, sums = next_slots, next_sums + (column_sums, d_precedence)
        for r in tl.static_range(R + 1):
            i = i0 + block * (SLOTS * BM)
            store_slots(rows + r * N, slots[r], i, N, SLOTS, BM, PAIR, EVEN)
    store_column_sums(columns, sums, j, N, R + 2, BM, BN)
