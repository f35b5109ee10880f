"""The whole memory step in one program per batch element, for memories that fit in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from . import interface
from .allocation import lift, tile_products, tile_rank_backward
from .arithmetic import (
    gate,
    gate_slope,
    get_column,
    get_row,
    load_strengths,
    put_column,
    put_row,
    softmax,
)
from .content import load_cells, lookup_backward, similarities, store_cells
from .link_pass import decay, without_diagonal
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
def write_lookup(
    vector, cells, in_n, w,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Similarities and content weightings (BHW, n) of the write keys."""
    keys = vector + interface.write_keys(W, R)
    alike = similarities(keys, cells, w, W, HW, BHW, DTYPE)
    strengths = vector + interface.write_strengths(W, R, HW)
    scores = load_strengths(strengths, HW, BHW, True, DTYPE)[:, None] * alike
    return alike, softmax(scores, in_n[None, :])


@triton.jit
def read_lookup(
    vector, cells, in_n, w,
    W: tl.constexpr, R: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Similarities and content weightings (BR, n) of the read keys."""
    alike = similarities(vector, cells, w, W, R, BR, DTYPE)
    strengths = vector + interface.read_strengths(W, R)
    scores = load_strengths(strengths, R, BR, True, DTYPE)[:, None] * alike
    return alike, softmax(scores, in_n[None, :])


@triton.jit
def forward_kernel(
    vector, memory0, usage0, precedence0, link0, write0, read0, memory1, usage1, precedence1, link1,
    write1, read1, reads,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    BN: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BHW: tl.constexpr, BMODES: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A step of one batch element; arrays as in `kernels.arrays.Step`."""
    b = tl.program_id(0).to(tl.int64)
    n, w = tl.arange(0, BN), tl.arange(0, BW)
    in_n = n < N
    offset = n[:, None] * N + n[None, :]
    in_link = in_n[:, None] & in_n[None, :]
    vector += b * SIZE
    read0 += b * R * N
    usage = updated_usage(
        usage0 + b * N, write0 + b * HW * N, read0, vector + interface.free_gates(W, R, HW), n, N,
        R, HW, DTYPE,
    )  # fmt: skip
    tl.store(usage1 + b * N + n, usage, mask=in_n)

    # For each write head: write weighting, link matrix, precedence, and both weightings by links.
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    _, content = write_lookup(vector, cells, in_n, w, W, R, HW, BHW, DTYPE)
    modes = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
    weights = tl.zeros([BHW, BN], DTYPE)
    linked = tl.zeros([BR, BN], DTYPE)
    for head in tl.static_range(HW):
        lifted = lift(usage)
        products = tile_products(lifted, in_n, n, ROBUST)
        allocation = tl.where(in_n, (1.0 - lifted) * products, 0.0)
        allocation_gate = gate(vector + interface.allocation_gates(W, R, HW) + head, True, DTYPE)
        write_gate = gate(vector + interface.write_gates(W, R, HW) + head, True, DTYPE)
        weighting = mixed(allocation_gate, write_gate, allocation, get_row(content, head, BHW))
        usage += (1.0 - usage) * (allocation_gate * write_gate) * allocation
        weights = put_row(weights, head, weighting, BHW)
        row = b * HW + head
        tl.store(write1 + row * N + n, weighting, mask=in_n)

        precedence = tl.load(precedence0 + row * N + n, mask=in_n, other=0.0)
        link = tl.load(link0 + row * N * N + offset, mask=in_link, other=0.0)
        link = decay(weighting, weighting) * link + weighting[:, None] * precedence[None, :]
        link = without_diagonal(link, n, n)
        tl.store(link1 + row * N * N + offset, link, mask=in_link)
        precedence = (1.0 - tl.sum(weighting, 0)) * precedence + weighting
        tl.store(precedence1 + row * N + n, precedence, mask=in_n)
        ahead = tl.zeros([BR, BN], DTYPE)
        behind = tl.zeros([BR, BN], DTYPE)
        for i in tl.static_range(R):
            last = tl.load(read0 + i * N + n, mask=in_n, other=0.0)
            ahead = put_row(ahead, i, tl.sum(link * last[None, :], 1), BR)
            behind = put_row(behind, i, tl.sum(link * last[:, None], 0), BR)
        linked += get_column(modes, head, BMODES)[:, None] * behind
        linked += get_column(modes, 1 + HW + head, BMODES)[:, None] * ahead

    # Write to the memory, look up the read keys, read.
    erase = vector + interface.erase_vectors(W, R, HW)
    vectors = vector + interface.write_vectors(W, R, HW)
    cells = written_cells(cells, weights, erase, vectors, w, W, HW, BHW, True, DTYPE)
    store_cells(memory1 + b * N * W, cells, n, w, N, W)
    _, content = read_lookup(vector, cells, in_n, w, W, R, BR, DTYPE)
    weights = linked + get_column(modes, HW, BMODES)[:, None] * content
    store_weights(read1 + b * R * N, weights, n, N, R, BR)
    read_part(cells, weights, reads + b * R * W, w, W, R, BR)


@triton.jit
def backward_kernel(
    vector, memory0, memory1, usage0, usage1, precedence0, link0, write0, write1, read0, read1,
    d_reads, d_vector, d_memory, d_usage, d_precedence, d_link, d_write, d_read,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, SIZE: tl.constexpr,
    BN: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr, BHW: tl.constexpr, BMODES: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through a step of one batch element; takes the adjoint from t to t - 1 in place."""
    b = tl.program_id(0).to(tl.int64)
    n, w = tl.arange(0, BN), tl.arange(0, BW)
    in_n = n < N
    in_reads = (tl.arange(0, BR) < R)[:, None] & in_n[None, :]
    in_writes = (tl.arange(0, BHW) < HW)[:, None] & in_n[None, :]
    offset = n[:, None] * N + n[None, :]
    in_link = in_n[:, None] & in_n[None, :]
    vector += b * SIZE
    d_vector += b * SIZE
    read0 += b * R * N
    d_read += b * R * N
    d_write += b * HW * N

    # Read vectors, read content weighting.
    cells = load_cells(memory1 + b * N * W, n, w, N, W, DTYPE)
    d_cells = load_cells(d_memory + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(read1 + b * R * N, n, N, R, BR, DTYPE)
    d_cells, d_weights = read_backward(
        d_reads + b * R * W, cells, weights, d_cells, w, W, R, BR, DTYPE
    )
    d_weights += load_weights(d_read, n, N, R, BR, DTYPE)
    tl.debug_barrier()  # all threads must have read what this store replaces
    store_weights(d_read, d_weights, n, N, R, BR)
    tl.debug_barrier()  # from here on all threads see it
    alike, content = read_lookup(vector, cells, in_n, w, W, R, BR, DTYPE)
    content = tl.where(in_reads, content, 0.0)
    modes = interface.load_modes(vector, W, R, HW, BR, BMODES, DTYPE)
    total = tl.sum(content * d_weights, 1)
    d_modes = put_column(tl.zeros([BR, BMODES], DTYPE), HW, total, BMODES)
    d_content = get_column(modes, HW, BMODES)[:, None] * (d_weights - total[:, None])
    d_cells = lookup_backward(
        content * d_content, alike, cells, d_cells, vector, vector + interface.read_strengths(W, R),
        d_vector, d_vector + interface.read_strengths(W, R), w, W, R, BR, True, DTYPE,
    )  # fmt: skip

    # Write vectors, erase vectors.
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    weights = load_weights(write1 + b * HW * N, n, N, HW, BHW, DTYPE)
    d_cells, d_written = write_backward(
        d_cells, cells, weights, vector + interface.erase_vectors(W, R, HW),
        vector + interface.write_vectors(W, R, HW), d_vector + interface.erase_vectors(W, R, HW),
        d_vector + interface.write_vectors(W, R, HW), w, W, HW, BHW, True, DTYPE,
    )  # fmt: skip
    d_written += load_weights(d_write, n, N, HW, BHW, DTYPE)

    tl.debug_barrier()  # all threads must have read what this store replaces
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)  # frees registers for the link matrix

    # Link matrices, precedences.
    last = load_weights(read0, n, N, R, BR, DTYPE)
    d_last = tl.zeros([BR, BN], DTYPE)
    for head in tl.static_range(HW):
        row = b * HW + head
        written = get_row(weights, head, BHW)
        precedence = tl.load(precedence0 + row * N + n, mask=in_n, other=0.0)
        link = tl.load(link0 + row * N * N + offset, mask=in_link, other=0.0)
        kept = decay(written, written)
        new_link = without_diagonal(kept * link + written[:, None] * precedence[None, :], n, n)
        mode_behind = get_column(modes, head, BMODES)
        mode_ahead = get_column(modes, 1 + HW + head, BMODES)
        x = tl.zeros([BR, BN], DTYPE)
        y = tl.zeros([BR, BN], DTYPE)
        for i in tl.static_range(R):
            change = tl.load(d_read + i * N + n, mask=in_n, other=0.0)
            x = put_row(x, i, tl.sum(new_link * change[None, :], 1), BR)
            y = put_row(y, i, tl.sum(new_link * change[:, None], 0), BR)
        gradient = tl.load(d_link + row * N * N + offset, mask=in_link, other=0.0)
        for i in tl.static_range(R):
            change = tl.load(d_read + i * N + n, mask=in_n, other=0.0)
            before = tl.load(read0 + i * N + n, mask=in_n, other=0.0)
            ahead = interface.load_mode(vector, i, 1 + HW + head, W, R, HW, DTYPE)
            behind = interface.load_mode(vector, i, head, W, R, HW, DTYPE)
            gradient += change[:, None] * (ahead * before)[None, :]
            gradient += before[:, None] * (behind * change)[None, :]
        d_modes = put_column(d_modes, head, tl.sum(last * x, 1), BMODES)
        d_modes = put_column(d_modes, 1 + HW + head, tl.sum(last * y, 1), BMODES)
        d_last += mode_behind[:, None] * x + mode_ahead[:, None] * y
        gradient = without_diagonal(gradient, n, n)
        product = gradient * link
        change = tl.load(d_precedence + row * N + n, mask=in_n, other=0.0)
        d_link_weights = change - tl.sum(change * precedence, 0) - tl.sum(product, 0)
        d_link_weights += tl.sum(gradient * precedence[None, :] - product, 1)
        d_written = put_row(d_written, head, get_row(d_written, head, BHW) + d_link_weights, BHW)
        change = (1.0 - tl.sum(written, 0)) * change + tl.sum(gradient * written[:, None], 0)
        tl.debug_barrier()  # all threads must have read what these stores replace
        tl.store(d_precedence + row * N + n, change, mask=in_n)
        tl.store(d_link + row * N * N + offset, kept * gradient, mask=in_link)
    interface.store_modes_gradient(d_vector, modes, d_modes, W, R, HW, BR, BMODES)

    # Write weightings, the last head first: the usage it saw depends on the heads before it.
    tl.debug_barrier()  # from here on all threads see d_memory
    cells = load_cells(memory0 + b * N * W, n, w, N, W, DTYPE)
    alike, content = write_lookup(vector, cells, in_n, w, W, R, HW, BHW, DTYPE)
    d_written = tl.where(in_writes, d_written, 0.0)
    d_content = tl.zeros([BHW, BN], DTYPE)
    usages = tl.zeros([BHW, BN], DTYPE)
    usage = tl.load(usage1 + b * N + n, mask=in_n, other=0.0)
    allocation_gates = vector + interface.allocation_gates(W, R, HW)
    write_gates = vector + interface.write_gates(W, R, HW)
    for head in tl.static_range(HW):
        usages = put_row(usages, head, usage, BHW)
        if head + 1 < HW:
            lifted = lift(usage)
            share = gate(allocation_gates + head, True, DTYPE)
            share *= gate(write_gates + head, True, DTYPE)
            products = tile_products(lifted, in_n, n, ROBUST)
            usage += (1.0 - usage) * share * tl.where(in_n, (1.0 - lifted) * products, 0.0)
    d_seen = tl.zeros([BN], DTYPE)
    for back in tl.static_range(HW):
        head = HW - 1 - back
        usage = get_row(usages, head, BHW)
        lifted = lift(usage)
        products = tile_products(lifted, in_n, n, ROBUST)
        allocation = tl.where(in_n, (1.0 - lifted) * products, 0.0)
        found = tl.where(in_n, get_row(content, head, BHW), 0.0)
        allocation_gate = gate(allocation_gates + head, True, DTYPE)
        write_gate = gate(write_gates + head, True, DTYPE)
        change = get_row(d_written, head, BHW)
        d_write_gate = tl.sum(change * mixed(allocation_gate, 1.0, allocation, found), 0)
        d_allocation_gate = write_gate * tl.sum(change * (allocation - found), 0)
        d_content = put_row(d_content, head, write_gate * (1.0 - allocation_gate) * change, BHW)
        d_allocation = write_gate * allocation_gate * change
        if back > 0:  # the next head saw s + (1 - s) g_a g_w a
            free = d_seen * (1.0 - usage)
            d_share = tl.sum(free * allocation, 0)
            d_allocation_gate += d_share * write_gate
            d_write_gate += d_share * allocation_gate
            d_allocation += free * (allocation_gate * write_gate)
            d_seen *= 1.0 - allocation_gate * write_gate * allocation
        d_seen += tile_rank_backward(d_allocation, lifted, products, in_n, n, ROBUST)
        slope = gate_slope(allocation_gate, True)
        place = d_vector + interface.allocation_gates(W, R, HW) + head
        tl.store(place, slope * d_allocation_gate)
        slope = gate_slope(write_gate, True)
        tl.store(d_vector + interface.write_gates(W, R, HW) + head, slope * d_write_gate)
    content = tl.where(in_writes, content, 0.0)
    total = tl.sum(content * d_content, 1)
    d_cells = lookup_backward(
        content * (d_content - total[:, None]), alike, cells,
        load_cells(d_memory + b * N * W, n, w, N, W, DTYPE), vector + interface.write_keys(W, R),
        vector + interface.write_strengths(W, R, HW), d_vector + interface.write_keys(W, R),
        d_vector + interface.write_strengths(W, R, HW), w, W, HW, BHW, True, DTYPE,
    )  # fmt: skip

    # Usage.
    d_seen += tl.load(d_usage + b * N + n, mask=in_n, other=0.0)
    tl.debug_barrier()  # all threads must have read what these stores replace
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)
    d_last += usage_backward(
        d_seen, usage0 + b * N, write0 + b * HW * N, read0, vector + interface.free_gates(W, R, HW),
        d_usage + b * N, d_write, d_vector + interface.free_gates(W, R, HW), n, N, R, HW, BR, DTYPE,
    )  # fmt: skip
    store_weights(d_read, d_last, n, N, R, BR)
