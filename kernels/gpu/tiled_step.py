"""The memory step for memories of any size: kernels over tiles of cells, around the link pass.

    forward   usage_kernel     usage; scores of the write keys
              allocation       (one launch per write head)
              write_kernel     write weightings; the cells written; scores of the read keys
              link pass        link matrix, precedence, forward and backward weightings
              read_kernel      read weightings; the cells read

    backward  allocation       (one launch per write head)
              read_backward    gradients of the read weightings; scores of the read keys
              link pass        the link matrix's adjoint, all its sums
              write_backward   to the cells before the write; gradients of the write weightings
              allocation       (one launch per write head)
              usage_backward   through the write keys, the gates and usage

Each program leaves its part of what is summed over all cells: of the read vectors forward, of the
gradient of the interface vector backward. Softmax is made in parts too, see `store_softmax_part`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .arithmetic import (
    gate,
    gate_slope,
    get_column,
    get_row,
    put_column,
    put_row,
    softmax_parts,
    store_softmax_part,
    strength,
)
from .content import load_cells, lookup_backward, similarities, store_cells
from .linkage import partial_sum, vectors_backward
from .memory import (
    load_weights,
    read_backward,
    read_part,
    store_weights,
    write_backward,
    written_cells,
)
from .usage import mixed, updated_usage, usage_backward


@triton.jit
def store_scores(
    scores,
    parts,
    keys,
    strengths,
    cells,
    tile,
    n,
    w,
    N: tl.constexpr,
    W: tl.constexpr,
    H: tl.constexpr,
    BH: tl.constexpr,
    PARTS: tl.constexpr,
    TILES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Scores (H, N) of some cells for raw keys, and the tile's share (H, PARTS, TILES).

    Returns:
        e^(score - the tile's maximum), (BH, n).
    """
    alike = similarities(keys, cells, w, W, H, BH, DTYPE)
    weights = alike * 0.0
    for head in tl.static_range(H):
        score = strength(strengths + head, True, DTYPE) * get_row(alike, head, BH)
        part = store_softmax_part(parts + head * PARTS * TILES, tile, score, n < N, TILES)
        weights = put_row(weights, head, part, BH)
        tl.store(scores + head * N + n, score, mask=n < N)
    return weights


@triton.jit
def load_content(
    scores,
    parts,
    n,
    N: tl.constexpr,
    PARTS: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
):
    """One head's content weighting of cells n, 0 outside."""
    top, total, _ = softmax_parts(parts, TILES, BT)
    score = tl.load(scores + n, mask=n < N, other=0.0)
    return tl.where(n < N, tl.exp(score - top) / total, 0.0)


@triton.jit
def store_dot_part(parts, tile, weights, d_weights, TILES: tl.constexpr):
    """A tile's share in the dot product of a softmax and its gradient, the third of its parts."""
    tl.store(parts + 2 * TILES + tile, tl.sum(weights * d_weights, 0))


@triton.jit
def load_dot(parts, TILES: tl.constexpr, BT: tl.constexpr):
    """The dot product of a softmax and its gradient, from what all tiles stored."""
    _, total, factors = softmax_parts(parts, TILES, BT)
    t = tl.arange(0, BT)
    dots = tl.load(parts + 2 * TILES + t, mask=t < TILES, other=0.0)
    return tl.sum(dots * factors, 0) / total


@triton.jit
def load_total(parts, TILES: tl.constexpr, BT: tl.constexpr):
    """The sum of what all tiles stored."""
    t = tl.arange(0, BT)
    return tl.sum(tl.load(parts + t, mask=t < TILES, other=0.0), 0)


@triton.jit
def usage_kernel(
    vector,
    memory0,
    usage0,
    write0,
    read0,
    usage1,
    scores,
    parts,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BHW: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Usage of a tile of cells, and its scores for the write keys."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    usage = updated_usage(
        usage0 + b * N,
        write0 + b * HW * N,
        read0 + b * R * N,
        vector + interface.free_gates(W, R, HW),
        n,
        N,
        R,
        HW,
        DTYPE,
    )
    tl.store(usage1 + b * N + n, usage, mask=n < N)
    store_scores(
        scores + b * HW * N,
        parts + b * HW * 3 * TILES,
        vector + interface.write_keys(W, R),
        vector + interface.write_strengths(W, R, HW),
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE),
        tile,
        n,
        w,
        N,
        W,
        HW,
        BHW,
        3,
        TILES,
        DTYPE,
    )


@triton.jit
def write_kernel(
    vector,
    memory0,
    allocation,
    write_scores,
    write_parts,
    memory1,
    write1,
    read_scores,
    read_parts,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BHW: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Write weightings of a tile, its cells after the write, and its scores for the read keys."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    weights = tl.zeros([BHW, BM], DTYPE)
    for head in tl.static_range(HW):
        row = b * HW + head
        content = load_content(
            write_scores + row * N, write_parts + row * 3 * TILES, n, N, 3, TILES, BT
        )
        weighting = mixed(
            gate(vector + interface.allocation_gates(W, R, HW) + head, True, DTYPE),
            gate(vector + interface.write_gates(W, R, HW) + head, True, DTYPE),
            tl.load(allocation + row * N + n, mask=n < N, other=0.0),
            content,
        )
        tl.store(write1 + row * N + n, weighting, mask=n < N)
        weights = put_row(weights, head, weighting, BHW)
    cells = written_cells(
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE),
        weights,
        vector + interface.erase_vectors(W, R, HW),
        vector + interface.write_vectors(W, R, HW),
        w,
        W,
        HW,
        BHW,
        True,
        DTYPE,
    )
    store_cells(memory1 + b * N * W, cells, n, w, N, W)
    store_scores(
        read_scores + b * R * N,
        read_parts + b * R * 3 * TILES,
        vector,
        vector + interface.read_strengths(W, R),
        cells,
        tile,
        n,
        w,
        N,
        W,
        R,
        BR,
        3,
        TILES,
        DTYPE,
    )


@triton.jit
def rebuild_kernel(
    vector,
    memory0,
    write1,
    memory1,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BHW: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """A tile of cells after the write, from write weightings that are known."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    cells = written_cells(
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE),
        load_weights(write1 + b * HW * N, n, N, HW, BHW, DTYPE),
        vector + interface.erase_vectors(W, R, HW),
        vector + interface.write_vectors(W, R, HW),
        w,
        W,
        HW,
        BHW,
        True,
        DTYPE,
    )
    store_cells(memory1 + b * N * W, cells, n, w, N, W)


@triton.jit
def read_kernel(
    vector,
    memory1,
    scores,
    parts,
    rows,
    columns,
    read1,
    reads,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    STRIPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Read weightings of a tile, and its part (B, TILES, R, W) of the read vectors."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    modes = interface.load_modes(vector + b * SIZE, W, R, HW, BR, BMODES, DTYPE)
    content = tl.zeros([BR, BM], DTYPE)
    for r in tl.static_range(R):
        row = b * R + r
        found = load_content(scores + row * N, parts + row * 3 * TILES, n, N, 3, TILES, BT)
        content = put_row(content, r, found, BR)
    weights = get_column(modes, HW, BMODES)[:, None] * content
    for head in tl.static_range(HW):
        row = b * HW + head
        ahead = tl.zeros([BR, BM], DTYPE)
        behind = tl.zeros([BR, BM], DTYPE)
        for r in tl.static_range(R):
            found = partial_sum(rows + (row * CHUNKS * R + r) * N, n, CHUNKS, R * N, N, DTYPE)
            ahead = put_row(ahead, r, found, BR)
            found = partial_sum(columns + (row * STRIPS * R + r) * N, n, STRIPS, R * N, N, DTYPE)
            behind = put_row(behind, r, found, BR)
        weights += get_column(modes, head, BMODES)[:, None] * behind
        weights += get_column(modes, 1 + HW + head, BMODES)[:, None] * ahead
    store_weights(read1 + b * R * N, weights, n, N, R, BR)
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    read_part(cells, weights, reads + (b * TILES + tile) * R * W, w, W, R, BR)


@triton.jit
def read_backward_kernel(
    vector,
    memory1,
    write1,
    precedence0,
    d_reads,
    d_precedence,
    d_read,
    changes,
    modes,
    scores,
    parts,
    totals,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Gradients of a tile of the read weightings, `changes` (B, R, N), and what others sum up.

    modes: (B, R, 1 + 2 HW), the read modes. scores, parts: of the read keys; the third part is of
    the dot product of content weighting and change. totals: (B, HW, 2, TILES), of the write
    weighting, and of the precedence times its gradient.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    none = tl.zeros([BR, BM], DTYPE)
    _, change = read_backward(
        d_reads + b * R * W, cells, none, tl.zeros([BM, BW], DTYPE), w, W, R, BR, DTYPE
    )
    change += load_weights(d_read + b * R * N, n, N, R, BR, DTYPE)
    store_weights(changes + b * R * N, change, n, N, R, BR)
    if tile == 0:
        found = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
        r, m = tl.arange(0, BR)[:, None], tl.arange(0, BMODES)[None, :]
        COUNT: tl.constexpr = 1 + 2 * HW
        tl.store(modes + (b * R + r) * COUNT + m, found, mask=(r < R) & (m < COUNT))
    weights = store_scores(
        scores + b * R * N,
        parts + b * R * 3 * TILES,
        vector,
        vector + interface.read_strengths(W, R),
        cells,
        tile,
        n,
        w,
        N,
        W,
        R,
        BR,
        3,
        TILES,
        DTYPE,
    )
    for r in tl.static_range(R):
        part = parts + (b * R + r) * 3 * TILES
        store_dot_part(part, tile, get_row(weights, r, BR), get_row(change, r, BR), TILES)
    for head in tl.static_range(HW):
        row = b * HW + head
        written = tl.load(write1 + row * N + n, mask=n < N, other=0.0)
        precedence = tl.load(precedence0 + row * N + n, mask=n < N, other=0.0)
        d_precedence1 = tl.load(d_precedence + row * N + n, mask=n < N, other=0.0)
        tl.store(totals + row * 2 * TILES + tile, tl.sum(written, 0))
        tl.store(totals + (row * 2 + 1) * TILES + tile, tl.sum(precedence * d_precedence1, 0))


@triton.jit
def write_backward_kernel(
    vector,
    memory0,
    memory1,
    write1,
    read0,
    read1,
    d_reads,
    changes,
    read_scores,
    read_parts,
    totals,
    rows,
    columns,
    write_scores,
    write_parts,
    d_written,
    d_allocation,
    d_vector,
    d_memory,
    d_precedence,
    d_write,
    d_read,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    STRIPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BHW: tl.constexpr,
    BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """A tile from the new cells to those before the write, link sums to where they belong.

    Fills d_written, the gradient of the write weightings, d_allocation, what of it goes to the
    allocation weightings, and the tile's part of the gradient of the raw interface vector.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    d_vector += (b * TILES + tile) * SIZE

    # Read vectors, read content weighting.
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(read1 + b * R * N, n, N, R, BR, DTYPE)
    d_cells, _ = read_backward(
        d_reads + b * R * W,
        cells,
        weights,
        load_cells(d_memory + b * N * W, n, w, N, W, DTYPE),
        w,
        W,
        R,
        BR,
        DTYPE,
    )
    modes = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
    mode_content = get_column(modes, HW, BMODES)
    change = load_weights(changes + b * R * N, n, N, R, BR, DTYPE)
    alike = similarities(vector, cells, w, W, R, BR, DTYPE)
    content = tl.zeros([BR, BM], DTYPE)
    dots = tl.zeros([BR], DTYPE)
    for r in tl.static_range(R):
        row = b * R + r
        part = read_parts + row * 3 * TILES
        found = load_content(read_scores + row * N, part, n, N, 3, TILES, BT)
        content = put_row(content, r, found, BR)
        dots = tl.where(tl.arange(0, BR) == r, load_dot(part, TILES, BT), dots)
    d_modes = tl.zeros([BR, BMODES], DTYPE)
    d_modes = put_column(d_modes, HW, tl.sum(content * change, 1), BMODES)
    d_cells = lookup_backward(
        content * mode_content[:, None] * (change - dots[:, None]),
        alike,
        cells,
        d_cells,
        vector,
        vector + interface.read_strengths(W, R),
        d_vector,
        d_vector + interface.read_strengths(W, R),
        w,
        W,
        R,
        BR,
        True,
        DTYPE,
    )

    # Write vectors, erase vectors.
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(write1 + b * HW * N, n, N, HW, BHW, DTYPE)
    d_cells, d_weights = write_backward(
        d_cells,
        cells,
        weights,
        vector + interface.erase_vectors(W, R, HW),
        vector + interface.write_vectors(W, R, HW),
        d_vector + interface.erase_vectors(W, R, HW),
        d_vector + interface.write_vectors(W, R, HW),
        w,
        W,
        HW,
        BHW,
        True,
        DTYPE,
    )
    tl.debug_barrier()  # all threads have read what this store replaces
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)

    # What the link pass summed up.
    last = load_weights(read0 + b * R * N, n, N, R, BR, DTYPE)
    d_last = tl.zeros([BR, BM], DTYPE)
    for head in tl.static_range(HW):
        row = b * HW + head
        head_rows = rows + row * CHUNKS * (R + 1) * N
        head_columns = columns + row * STRIPS * (R + 2) * N
        x = tl.zeros([BR, BM], DTYPE)
        y = tl.zeros([BR, BM], DTYPE)
        for r in tl.static_range(R):
            found = partial_sum(head_rows + r * N, n, CHUNKS, (R + 1) * N, N, DTYPE)
            x = put_row(x, r, found, BR)
            found = partial_sum(head_columns + r * N, n, STRIPS, (R + 2) * N, N, DTYPE)
            y = put_row(y, r, found, BR)
        d_modes = put_column(d_modes, head, tl.sum(last * x, 1), BMODES)
        d_modes = put_column(d_modes, 1 + HW + head, tl.sum(last * y, 1), BMODES)
        d_last += get_column(modes, head, BMODES)[:, None] * x
        d_last += get_column(modes, 1 + HW + head, BMODES)[:, None] * y
        d_link_weights, d_before = vectors_backward(
            tl.load(d_precedence + row * N + n, mask=n < N, other=0.0),
            load_total(totals + row * 2 * TILES, TILES, BT),
            load_total(totals + (row * 2 + 1) * TILES, TILES, BT),
            head_rows,
            head_columns,
            n,
            N,
            R,
            STRIPS,
            CHUNKS,
            DTYPE,
        )
        d_weight = get_row(d_weights, head, BHW) + d_link_weights
        d_weights = put_row(d_weights, head, d_weight, BHW)
        tl.debug_barrier()  # all threads have read what this store replaces
        tl.store(d_precedence + row * N + n, d_before, mask=n < N)
    interface.store_modes_gradient(d_vector, modes, d_modes, W, R, HW, BR, BMODES)
    store_weights(d_read + b * R * N, d_last, n, N, R, BR)

    # The write weightings' gradients are complete: to their parts.
    d_weights += load_weights(d_write + b * HW * N, n, N, HW, BHW, DTYPE)
    store_weights(d_written + b * HW * N, d_weights, n, N, HW, BHW)
    weights = store_scores(
        write_scores + b * HW * N,
        write_parts + b * HW * 3 * TILES,
        vector + interface.write_keys(W, R),
        vector + interface.write_strengths(W, R, HW),
        cells,
        tile,
        n,
        w,
        N,
        W,
        HW,
        BHW,
        3,
        TILES,
        DTYPE,
    )
    for head in tl.static_range(HW):
        row = b * HW + head
        change = tl.where(n < N, get_row(d_weights, head, BHW), 0.0)
        part = write_parts + row * 3 * TILES
        store_dot_part(part, tile, get_row(weights, head, BHW), change, TILES)
        share = gate(vector + interface.allocation_gates(W, R, HW) + head, True, DTYPE)
        share *= gate(vector + interface.write_gates(W, R, HW) + head, True, DTYPE)
        tl.store(d_allocation + row * N + n, share * change, mask=n < N)


@triton.jit
def usage_backward_kernel(
    vector,
    memory0,
    usage0,
    write0,
    read0,
    d_written,
    allocation,
    scores,
    parts,
    d_seen,
    d_shares,
    d_vector,
    d_memory,
    d_usage,
    d_write,
    d_read,
    N: tl.constexpr,
    W: tl.constexpr,
    R: tl.constexpr,
    HW: tl.constexpr,
    SIZE: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    SHARES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BR: tl.constexpr,
    BHW: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """A tile through the gates of the write weightings, the write keys, and usage.

    d_seen: (B, N), gradient of the usage that the first head saw. d_shares: (B, HW, SHARES), parts
    of the gradients of g_a g_w through what later heads saw; not looked at for the last head.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    d_vector += (b * TILES + tile) * SIZE
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    keys = vector + interface.write_keys(W, R)
    alike = similarities(keys, cells, w, W, HW, BHW, DTYPE)
    d_logits = tl.zeros([BHW, BM], DTYPE)
    for head in tl.static_range(HW):
        row = b * HW + head
        part = parts + row * 3 * TILES
        content = load_content(scores + row * N, part, n, N, 3, TILES, BT)
        change = tl.load(d_written + row * N + n, mask=n < N, other=0.0)
        found = tl.load(allocation + row * N + n, mask=n < N, other=0.0)
        allocation_place = interface.allocation_gates(W, R, HW) + head
        write_place = interface.write_gates(W, R, HW) + head
        allocation_gate = gate(vector + allocation_place, True, DTYPE)
        write_gate = gate(vector + write_place, True, DTYPE)
        d_write_gate = tl.sum(change * mixed(allocation_gate, 1.0, found, content), 0)
        d_allocation_gate = write_gate * tl.sum(change * (found - content), 0)
        if head + 1 < HW:
            d_share = allocation_gate * 0.0
            if tile == 0:
                for index in range(SHARES):
                    d_share += tl.load(d_shares + row * SHARES + index)
            d_write_gate += d_share * allocation_gate
            d_allocation_gate += d_share * write_gate
        tl.store(d_vector + allocation_place, gate_slope(allocation_gate, True) * d_allocation_gate)
        tl.store(d_vector + write_place, gate_slope(write_gate, True) * d_write_gate)
        d_content = content * (change - load_dot(part, TILES, BT))
        d_logits = put_row(d_logits, head, write_gate * (1.0 - allocation_gate) * d_content, BHW)
    d_cells = lookup_backward(
        d_logits,
        alike,
        cells,
        load_cells(d_memory + b * N * W, n, w, N, W, DTYPE),
        keys,
        vector + interface.write_strengths(W, R, HW),
        d_vector + interface.write_keys(W, R),
        d_vector + interface.write_strengths(W, R, HW),
        w,
        W,
        HW,
        BHW,
        True,
        DTYPE,
    )
    d_usage1 = tl.load(d_usage + b * N + n, mask=n < N, other=0.0)
    d_usage1 += tl.load(d_seen + b * N + n, mask=n < N, other=0.0)
    last = load_weights(d_read + b * R * N, n, N, R, BR, DTYPE)
    tl.debug_barrier()  # all threads have read what the stores from here on replace
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)
    last += usage_backward(
        d_usage1,
        usage0 + b * N,
        write0 + b * HW * N,
        read0 + b * R * N,
        vector + interface.free_gates(W, R, HW),
        d_usage + b * N,
        d_write + b * HW * N,
        d_vector + interface.free_gates(W, R, HW),
        n,
        N,
        R,
        HW,
        BR,
        DTYPE,
    )
    store_weights(d_read + b * R * N, last, n, N, R, BR)
