"""The memory step for memories of any size: kernels over tiles of cells, around the link pass.

    forward   usage_kernel     usage; scores of the write keys
              allocation       (of all heads)
              write_kernel     write weightings; the cells written; scores of the read keys
              link pass        link matrix, precedence, forward and backward weightings
              read_kernel      read weightings; the cells read

    backward  allocation       (of all heads)
              read_backward    gradients of the read weightings; scores of the read keys
              link pass        gradient of the link matrix; sums for all other gradients
              write_backward   gradients of the cells before the write and of the write weightings
              allocation       (of all heads)
              usage_backward   through the write keys, the gates and usage

Each program stores its part of what is summed over all cells: the read vectors in the forward pass,
the gradient of the interface vector in the backward pass. Softmax is computed in parts too, see
`store_softmax_parts`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .arithmetic import (
    gate_slope,
    gates,
    get_column,
    get_row,
    put_column,
    put_row,
    softmax_dots,
    store_dot_parts,
)
from .content import (
    load_cells,
    load_content,
    lookup_backward,
    similarities,
    store_cells,
    store_scores,
)
from .linkage import partial_rows, vectors_backward
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
def load_total(parts, TILES: tl.constexpr, BT: tl.constexpr):
    """The sum of what all tiles stored."""
    t = tl.arange(0, BT)
    return tl.sum(tl.load(parts + t, mask=t < TILES, other=0.0), 0)


@triton.jit
def write_head_gates(
    vector, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BHW: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The allocation gates and the write gates of all write heads, (BHW) each."""
    head = tl.arange(0, BHW)
    allocation = gates(vector + interface.allocation_gates(W, R, HW) + head, head < HW, True, DTYPE)
    write = gates(vector + interface.write_gates(W, R, HW) + head, head < HW, True, DTYPE)
    return allocation, write


@triton.jit
def usage_kernel(
    vector, memory0, usage0, write0, read0, usage1, write_scores, write_parts,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Usage of a tile of cells, and its scores for the write keys."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    usage = updated_usage(
        usage0 + b * N, write0 + b * HW * N, read0 + b * R * N,
        vector + interface.free_gates(W, R, HW), n, N, R, HW, DTYPE,
    )  # fmt: skip
    tl.store(usage1 + b * N + n, usage, mask=n < N)
    store_scores(
        write_scores + b * HW * N, write_parts + b * HW * 3 * TILES,
        vector + interface.write_keys(W, R), vector + interface.write_strengths(W, R, HW),
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE), tile, n, w, N, W, HW, BHW, TILES, True,
        DTYPE,
    )  # fmt: skip


@triton.jit
def write_kernel(
    vector, memory0, allocation, write_scores, write_parts, memory1, write1, read_scores,
    read_parts,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
    BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Write weightings of a tile, its cells after the write, and its scores for the read keys."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    allocation_gates, write_gates = write_head_gates(vector, W, R, HW, BHW, DTYPE)
    found = load_weights(allocation + b * HW * N, n, N, HW, BHW, DTYPE)
    write_parts += b * HW * 3 * TILES
    content = load_content(write_scores + b * HW * N, write_parts, n, N, HW, BHW, TILES, BT)
    weights = mixed(allocation_gates[:, None], write_gates[:, None], found, content)
    store_weights(write1 + b * HW * N, weights, n, N, HW, BHW)
    cells = written_cells(
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE), weights,
        vector + interface.erase_vectors(W, R, HW), vector + interface.write_vectors(W, R, HW), w,
        W, HW, BHW, True, DTYPE,
    )  # fmt: skip
    store_cells(memory1 + b * N * W, cells, n, w, N, W)
    store_scores(
        read_scores + b * R * N, read_parts + b * R * 3 * TILES, vector,
        vector + interface.read_strengths(W, R), cells, tile, n, w, N, W, R, BR, TILES, True, DTYPE,
    )  # fmt: skip


@triton.jit
def rebuild_kernel(
    vector, memory0, write1, memory1,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of cells after the write, given the write weightings."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    cells = written_cells(
        load_cells(memory0 + b * N * W, n, w, N, W, DTYPE),
        load_weights(write1 + b * HW * N, n, N, HW, BHW, DTYPE),
        vector + interface.erase_vectors(W, R, HW), vector + interface.write_vectors(W, R, HW), w,
        W, HW, BHW, True, DTYPE,
    )  # fmt: skip
    store_cells(memory1 + b * N * W, cells, n, w, N, W)


@triton.jit
def read_kernel(
    vector, memory1, read_scores, read_parts, rows, columns, read1, reads_by_tile,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BMODES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Read weightings of a tile, and what it adds to the read vectors: (B, TILES, R, W)."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    modes = interface.load_modes(vector + b * SIZE, W, R, HW, BR, BMODES, DTYPE)
    content = load_content(
        read_scores + b * R * N, read_parts + b * R * 3 * TILES, n, N, R, BR, TILES, BT
    )
    weights = get_column(modes, HW, BMODES)[:, None] * content
    for head in tl.static_range(HW):
        row = b * HW + head
        ahead = partial_rows(rows + row * CHUNKS * R * N, n, CHUNKS, R * N, N, R, BR, DTYPE)
        behind = partial_rows(columns + row * STRIPS * R * N, n, STRIPS, R * N, N, R, BR, DTYPE)
        weights += get_column(modes, head, BMODES)[:, None] * behind
        weights += get_column(modes, 1 + HW + head, BMODES)[:, None] * ahead
    store_weights(read1 + b * R * N, weights, n, N, R, BR)
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    read_part(cells, weights, reads_by_tile + (b * TILES + tile) * R * W, w, W, R, BR)


@triton.jit
def read_backward_kernel(
    vector, memory1, write1, precedence0, d_reads, d_precedence, d_read, changes, modes,
    read_scores, read_parts, totals,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """`changes` (B, R, N), the gradients of the read weightings of a tile, and sums over the tile.

    modes: (B, R, 1 + 2 HW), the read modes. The third of the read_parts is that of the dot product
    of content weighting and change. totals: (B, HW, 2, TILES), the tile's sums of the write
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
        read_scores + b * R * N, read_parts + b * R * 3 * TILES, vector,
        vector + interface.read_strengths(W, R), cells, tile, n, w, N, W, R, BR, TILES, True, DTYPE,
    )  # fmt: skip
    store_dot_parts(read_parts + b * R * 3 * TILES, tile, weights, change, R, BR, TILES)
    for head in tl.static_range(HW):
        row = b * HW + head
        written = tl.load(write1 + row * N + n, mask=n < N, other=0.0)
        precedence = tl.load(precedence0 + row * N + n, mask=n < N, other=0.0)
        d_precedence1 = tl.load(d_precedence + row * N + n, mask=n < N, other=0.0)
        tl.store(totals + row * 2 * TILES + tile, tl.sum(written, 0))
        tl.store(totals + (row * 2 + 1) * TILES + tile, tl.sum(precedence * d_precedence1, 0))


@triton.jit
def write_backward_kernel(
    vector, memory0, memory1, write1, read0, read1, d_reads, changes, read_scores, read_parts,
    totals, rows, columns, write_scores, write_parts, d_written, d_vector_by_tile,
    d_memory, d_precedence, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BHW: tl.constexpr, BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of cells backward through reading and writing; adds up the sums of the link pass.

    Fills d_written, the gradients of the write weightings, and what the tile adds to the gradient
    of the raw interface vector.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    d_vector = d_vector_by_tile + (b * TILES + tile) * SIZE

    # Read vectors, read content weighting.
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(read1 + b * R * N, n, N, R, BR, DTYPE)
    d_cells, _ = read_backward(
        d_reads + b * R * W, cells, weights, load_cells(d_memory + b * N * W, n, w, N, W, DTYPE), w,
        W, R, BR, DTYPE,
    )  # fmt: skip
    modes = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
    mode_content = get_column(modes, HW, BMODES)
    change = load_weights(changes + b * R * N, n, N, R, BR, DTYPE)
    alike = similarities(vector, cells, w, W, R, BR, DTYPE)
    read_parts += b * R * 3 * TILES
    content = load_content(read_scores + b * R * N, read_parts, n, N, R, BR, TILES, BT)
    dots = softmax_dots(read_parts, R, BR, TILES, BT)
    d_modes = tl.zeros([BR, BMODES], DTYPE)
    d_modes = put_column(d_modes, HW, tl.sum(content * change, 1), BMODES)
    d_cells = lookup_backward(
        content * mode_content[:, None] * (change - dots[:, None]), alike, cells, d_cells, vector,
        vector + interface.read_strengths(W, R), d_vector,
        d_vector + interface.read_strengths(W, R), w, W, R, BR, True, DTYPE,
    )  # fmt: skip

    # Write vectors, erase vectors.
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(write1 + b * HW * N, n, N, HW, BHW, DTYPE)
    d_cells, d_weights = write_backward(
        d_cells, cells, weights, vector + interface.erase_vectors(W, R, HW),
        vector + interface.write_vectors(W, R, HW), d_vector + interface.erase_vectors(W, R, HW),
        d_vector + interface.write_vectors(W, R, HW), w, W, HW, BHW, True, DTYPE,
    )  # fmt: skip
    tl.debug_barrier()  # all threads must have read what this store replaces
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)

    # The sums of the link pass.
    last = load_weights(read0 + b * R * N, n, N, R, BR, DTYPE)
    d_last = tl.zeros([BR, BM], DTYPE)
    for head in tl.static_range(HW):
        row = b * HW + head
        head_rows = rows + row * CHUNKS * (R + 1) * N
        head_columns = columns + row * STRIPS * (R + 2) * N
        x = partial_rows(head_rows, n, CHUNKS, (R + 1) * N, N, R, BR, DTYPE)
        y = partial_rows(head_columns, n, STRIPS, (R + 2) * N, N, R, BR, DTYPE)
        d_modes = put_column(d_modes, head, tl.sum(last * x, 1), BMODES)
        d_modes = put_column(d_modes, 1 + HW + head, tl.sum(last * y, 1), BMODES)
        d_last += get_column(modes, head, BMODES)[:, None] * x
        d_last += get_column(modes, 1 + HW + head, BMODES)[:, None] * y
        d_link_weights, d_before = vectors_backward(
            tl.load(d_precedence + row * N + n, mask=n < N, other=0.0),
            load_total(totals + row * 2 * TILES, TILES, BT),
            load_total(totals + (row * 2 + 1) * TILES, TILES, BT), head_rows, head_columns, n, N, R,
            STRIPS, CHUNKS, DTYPE,
        )  # fmt: skip
        d_weight = get_row(d_weights, head, BHW) + d_link_weights
        d_weights = put_row(d_weights, head, d_weight, BHW)
        tl.debug_barrier()  # all threads must have read what this store replaces
        tl.store(d_precedence + row * N + n, d_before, mask=n < N)
    interface.store_modes_gradient(d_vector, modes, d_modes, W, R, HW, BR, BMODES)
    store_weights(d_read + b * R * N, d_last, n, N, R, BR)

    # The gradients of the write weightings are complete now.
    d_weights += load_weights(d_write + b * HW * N, n, N, HW, BHW, DTYPE)
    store_weights(d_written + b * HW * N, d_weights, n, N, HW, BHW)
    weights = store_scores(
        write_scores + b * HW * N, write_parts + b * HW * 3 * TILES,
        vector + interface.write_keys(W, R), vector + interface.write_strengths(W, R, HW), cells,
        tile, n, w, N, W, HW, BHW, TILES, True, DTYPE,
    )  # fmt: skip
    d_weights = tl.where((n < N)[None, :], d_weights, 0.0)
    store_dot_parts(write_parts + b * HW * 3 * TILES, tile, weights, d_weights, HW, BHW, TILES)


@triton.jit
def usage_backward_kernel(
    vector, memory0, usage0, write0, read0, d_written, allocation, write_scores, write_parts,
    d_seen, d_shares, d_vector_by_tile, d_memory, d_usage, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, BT: tl.constexpr, SHARES: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr,
    BR: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile backward through the gates of the write weightings, the write keys and usage.

    d_seen: (B, N), gradient of the usage that the first head saw. d_shares: (B, HW, SHARES), parts
    of the gradients of g_a g_w through the usage that later heads saw; not read for the last head.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    vector += b * SIZE
    d_vector = d_vector_by_tile + (b * TILES + tile) * SIZE
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    keys = vector + interface.write_keys(W, R)
    alike = similarities(keys, cells, w, W, HW, BHW, DTYPE)
    write_parts += b * HW * 3 * TILES
    content = load_content(write_scores + b * HW * N, write_parts, n, N, HW, BHW, TILES, BT)
    dots = softmax_dots(write_parts, HW, BHW, TILES, BT)
    change = load_weights(d_written + b * HW * N, n, N, HW, BHW, DTYPE)
    found = load_weights(allocation + b * HW * N, n, N, HW, BHW, DTYPE)
    allocation_gates, write_gates = write_head_gates(vector, W, R, HW, BHW, DTYPE)
    head = tl.arange(0, BHW)
    mixture = mixed(allocation_gates[:, None], 1.0, found, content)
    d_write_gates = tl.sum(change * mixture, 1)
    d_allocation_gates = write_gates * tl.sum(change * (found - content), 1)
    if HW > 1:
        if tile == 0:  # once per batch element
            d_share = tl.zeros([BHW], DTYPE)
            for index in range(SHARES):
                place = d_shares + (b * HW + head) * SHARES + index
                d_share += tl.load(place, mask=head + 1 < HW, other=0.0)
            d_write_gates += d_share * allocation_gates
            d_allocation_gates += d_share * write_gates
    d_allocation_gates *= gate_slope(allocation_gates, True)
    d_write_gates *= gate_slope(write_gates, True)
    tl.store(d_vector + interface.allocation_gates(W, R, HW) + head, d_allocation_gates, head < HW)
    tl.store(d_vector + interface.write_gates(W, R, HW) + head, d_write_gates, head < HW)
    d_logits = content * (change - dots[:, None])
    d_logits *= (write_gates * (1.0 - allocation_gates))[:, None]
    d_cells = lookup_backward(
        d_logits, alike, cells, load_cells(d_memory + b * N * W, n, w, N, W, DTYPE), keys,
        vector + interface.write_strengths(W, R, HW), d_vector + interface.write_keys(W, R),
        d_vector + interface.write_strengths(W, R, HW), w, W, HW, BHW, True, DTYPE,
    )  # fmt: skip
    d_usage1 = tl.load(d_usage + b * N + n, mask=n < N, other=0.0)
    d_usage1 += tl.load(d_seen + b * N + n, mask=n < N, other=0.0)
    last = load_weights(d_read + b * R * N, n, N, R, BR, DTYPE)
    tl.debug_barrier()  # all threads must have read what the stores from here on replace
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)
    last += usage_backward(
        d_usage1, usage0 + b * N, write0 + b * HW * N, read0 + b * R * N,
        vector + interface.free_gates(W, R, HW), d_usage + b * N, d_write + b * HW * N,
        d_vector + interface.free_gates(W, R, HW), n, N, R, HW, BR, DTYPE,
    )  # fmt: skip
    store_weights(d_read + b * R * N, last, n, N, R, BR)
