"""The whole memory step, forward and backward, for a range of batch elements in one call.

A step has three parts: before the link matrix (usage, allocation, writing), the link matrix by
strips of rows, and after it (reading). `forward` and `backward` run all three for some batch
elements; where there are fewer of these than threads, the caller runs the parts by themselves and
shares out the strips.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import allocation, content, linkage, memory
from .compile import kernel
from .interface import activate, activate_backward, column, split

STRIP = linkage.STRIP


class Scratch(NamedTuple):
    """What the parts of a step leave for each other; S strips.

    | field        | shape            | forward             | backward                         |
    |--------------|------------------|---------------------|----------------------------------|
    | active       | (B, interface)   | the vectors, activated                                 |
    | rows         | (B, Hw, R, N)    | forward weightings  | L_t x                            |
    | columns      | (B, S, Hw, R, N) | backward weightings | L_t^T x, each strip's part       |
    | row_sums     | (B, Hw, N)       |                     | see `linkage_backward`           |
    | column_sums  | (B, S, Hw, N)    |                     | see `linkage_backward`           |
    | d_precedence | (B, S, Hw, N)    |                     | see `linkage_backward`           |
    """

    active: Any
    rows: Any
    columns: Any
    row_sums: Any
    column_sums: Any
    d_precedence: Any


def num_strips(N: int) -> int:
    """How many strips of rows a link matrix of N cells has."""
    return -(-N // STRIP)


def make_scratch(B: int, N: int, W: int, R: int, Hw: int, dtype: Any) -> Scratch:
    """Scratch arrays for steps of these sizes."""
    S = num_strips(N)
    return Scratch(
        active=np.empty((B, R * W + R + Hw * (3 * W + 3) + R + R * (1 + 2 * Hw)), dtype),
        rows=np.empty((B, Hw, R, N), dtype),
        columns=np.empty((B, S, Hw, R, N), dtype),
        row_sums=np.empty((B, Hw, N), dtype),
        column_sums=np.empty((B, S, Hw, N), dtype),
        d_precedence=np.empty((B, S, Hw, N), dtype),
    )


@kernel
def _usage_before_writing(free_gates, usage, write_weights, read_weights, out):
    """out = (u + (1 - u) (1 - prod_h (1 - ww_h))) prod_r (1 - f_r wr_r)."""
    one = usage.dtype.type(1)
    for n in range(usage.shape[0]):
        unwritten = one
        for head in range(write_weights.shape[0]):
            unwritten *= one - write_weights[head, n]
        kept = one
        for r in range(read_weights.shape[0]):
            kept *= one - free_gates[r] * read_weights[r, n]
        out[n] = (usage[n] + (one - usage[n]) * (one - unwritten)) * kept


@kernel
def _allocate(usage, content_weights, allocation_gates, write_gates, robust, write_weights):
    """The write weightings of all heads; returns what each head saw, for the backward pass.

    Heads allocate one after another, each on a usage that counts what those before it allocate.
    """
    Hw, N = content_weights.shape
    one = usage.dtype.type(1)
    seen = np.empty((Hw, N), usage.dtype)
    lifted = np.empty((Hw, N), usage.dtype)
    orders = np.empty((Hw, N), np.int64)
    allocations = np.empty((Hw, N), usage.dtype)
    for n in range(N):
        seen[0, n] = usage[n]
    for head in range(Hw):
        allocation.lifted_usage(seen[head], lifted[head])
        allocation.free_list(lifted[head], robust, orders[head])
        allocation.allocation_weighting(lifted[head], orders[head], allocations[head])
        gate, share = write_gates[head], allocation_gates[head]
        for n in range(N):
            found = allocations[head, n]
            write_weights[head, n] = gate * (
                share * found + (one - share) * content_weights[head, n]
            )
            if head + 1 < Hw:
                seen[head + 1, n] = seen[head, n] + (one - seen[head, n]) * gate * share * found
    return seen, lifted, orders, allocations


@kernel
def forward_before(b, step, scratch, robust):
    """Usage, write weightings, memory and precedence of step t."""
    memory0, write1, precedence0 = step.memory0[b], step.write1[b], step.precedence0[b]
    N, W = memory0.shape
    Hw, R = write1.shape[0], step.read0.shape[1]
    activate(step.vector[b], W, R, Hw, scratch.active[b])
    parts = split(scratch.active[b], W, R, Hw)
    _, _, keys, strengths, erase, vectors, free_gates, allocation_gates, write_gates, _ = parts
    _usage_before_writing(free_gates, step.usage0[b], step.write0[b], step.read0[b], step.usage1[b])
    weights, _, _, _ = content.look_up(keys, strengths, memory0)
    _allocate(step.usage1[b], weights, allocation_gates, write_gates, robust, write1)
    memory.write_memory(memory0, write1, erase, vectors, step.memory1[b])
    for head in range(Hw):
        rest = memory0.dtype.type(1)
        for n in range(N):
            rest -= write1[head, n]
        for n in range(N):
            step.precedence1[b, head, n] = rest * precedence0[head, n] + write1[head, n]


@kernel
def forward_link(b, strip, step, scratch):
    """A strip of rows of the link matrices of step t, and their parts of both weightings."""
    first = strip * STRIP
    last = min(first + STRIP, step.usage0.shape[1])
    for head in range(step.write1.shape[1]):
        linkage.linkage(
            first,
            last,
            step.link0[b, head],
            step.precedence0[b, head],
            step.write1[b, head],
            step.read0[b],
            step.link1[b, head],
            scratch.rows[b, head],
            scratch.columns[b, strip, head],
        )


@kernel
def forward_links(first, last, step, scratch):
    """The strips [first, last) of all batch elements, one element's after another's."""
    strips = scratch.columns.shape[1]
    for index in range(first, last):
        forward_link(index // strips, index % strips, step, scratch)


@kernel
def forward_after(b, step, scratch):
    """Read weightings and read vectors of step t."""
    memory1, read1 = step.memory1[b], step.read1[b]
    N, W = memory1.shape
    Hw, R = step.write1.shape[1], read1.shape[0]
    parts = split(scratch.active[b], W, R, Hw)
    keys, strengths, modes = parts[0], parts[1], parts[9]
    weights, _, _, _ = content.look_up(keys, strengths, memory1)
    for r in range(R):
        mode = modes[r, Hw]
        for n in range(N):
            read1[r, n] = mode * weights[r, n]
        for head in range(Hw):
            mode = modes[r, 1 + Hw + head]
            ahead = scratch.rows[b, head, r]
            for n in range(N):
                read1[r, n] += mode * ahead[n]
            mode = modes[r, head]
            for strip in range(scratch.columns.shape[1]):
                behind = scratch.columns[b, strip, head, r]
                for n in range(N):
                    read1[r, n] += mode * behind[n]
    memory.read_memory(memory1, read1, step.reads[b])


@kernel
def forward(first, last, step, scratch, robust):
    """A whole step for the batch elements [first, last)."""
    for b in range(first, last):
        forward_before(b, step, scratch, robust)
        for strip in range(scratch.columns.shape[1]):
            forward_link(b, strip, step, scratch)
        forward_after(b, step, scratch)


@kernel
def rebuild_memory(first, last, step, scratch):
    """memory1 from memory0, the interface and the write weightings, for [first, last)."""
    W = step.memory0.shape[2]
    Hw, R = step.write1.shape[1], step.read0.shape[1]
    for b in range(first, last):
        activate(step.vector[b], W, R, Hw, scratch.active[b])
        parts = split(scratch.active[b], W, R, Hw)
        memory.write_memory(step.memory0[b], step.write1[b], parts[4], parts[5], step.memory1[b])


@kernel
def rebuild_links(first, last, step, strips):
    """link1 from link0 and the vectors, for the strips [first, last) of all batch elements."""
    N = step.usage0.shape[1]
    for index in range(first, last):
        b, strip = index // strips, index % strips
        for head in range(step.write1.shape[1]):
            linkage.update_link(
                strip * STRIP,
                min(strip * STRIP + STRIP, N),
                step.link0[b, head],
                step.precedence0[b, head],
                step.write1[b, head],
                step.link1[b, head],
            )


@kernel
def backward_before(b, step, adjoint, scratch):
    """Through the read vectors and the read content weighting."""
    memory1 = step.memory1[b]
    N, W = memory1.shape
    Hw, R = step.write1.shape[1], step.read1.shape[1]
    d_memory, d_read = adjoint.memory[b], adjoint.read[b]
    memory.read_memory_backward(step.reads[b], memory1, step.read1[b], d_memory, d_read)
    activate(step.vector[b], W, R, Hw, scratch.active[b])
    parts = split(scratch.active[b], W, R, Hw)
    d_parts = split(adjoint.vector[b], W, R, Hw)
    keys, strengths, modes = parts[0], parts[1], parts[9]
    weights, similarity, key_norms, cell_norms = content.look_up(keys, strengths, memory1)
    d_weights = np.empty((R, N), memory1.dtype)
    for r in range(R):
        mode = modes[r, Hw]
        total = memory1.dtype.type(0)
        for n in range(N):
            total += d_read[r, n] * weights[r, n]
            d_weights[r, n] = mode * d_read[r, n]
        d_parts[9][r, Hw] = total
    content.content_weighting_backward(
        d_weights,
        weights,
        similarity,
        keys,
        strengths,
        memory1,
        key_norms,
        cell_norms,
        d_parts[0],
        d_parts[1],
        d_memory,
    )


@kernel
def backward_link(b, strip, step, adjoint, scratch):
    """Through a strip of rows of the link matrices."""
    first = strip * STRIP
    N, W = step.memory0.shape[1:]
    last = min(first + STRIP, N)
    Hw, R = step.write1.shape[1], step.read0.shape[1]
    modes = split(scratch.active[b], W, R, Hw)[9]
    for head in range(Hw):
        linkage.linkage_backward(
            first,
            last,
            step.link0[b, head],
            step.precedence0[b, head],
            step.write1[b, head],
            step.read0[b],
            adjoint.read[b],
            column(modes, 1 + Hw + head),
            column(modes, head),
            adjoint.link[b, head],
            scratch.rows[b, head],
            scratch.columns[b, strip, head],
            scratch.row_sums[b, head],
            scratch.column_sums[b, strip, head],
            scratch.d_precedence[b, strip, head],
        )


@kernel
def backward_links(first, last, step, adjoint, scratch):
    """The strips [first, last) of all batch elements, one element's after another's."""
    strips = scratch.columns.shape[1]
    for index in range(first, last):
        backward_link(index // strips, index % strips, step, adjoint, scratch)


@kernel
def _read_weights_backward(b, step, adjoint, scratch, modes, d_modes):
    """Gradients of the modes of both directions; adjoint.read goes from step t to t - 1."""
    R, N = step.read0.shape[1:]
    zero = step.read0.dtype.type(0)
    Hw = step.write1.shape[1]
    for r in range(R):
        last, d_read = step.read0[b, r], adjoint.read[b, r]
        for n in range(N):
            d_read[n] = zero
        for head in range(Hw):
            ahead, behind = modes[r, 1 + Hw + head], modes[r, head]
            toward = scratch.rows[b, head, r]
            total = zero
            for n in range(N):
                total += last[n] * toward[n]
                d_read[n] += behind * toward[n]
            d_modes[r, head] = total
            total = zero
            for strip in range(scratch.columns.shape[1]):
                away = scratch.columns[b, strip, head, r]
                for n in range(N):
                    total += last[n] * away[n]
                    d_read[n] += ahead * away[n]
            d_modes[r, 1 + Hw + head] = total


@kernel
def _write_weights_backward(b, step, adjoint, scratch):
    """adjoint.write takes in link matrix and precedence; adjoint.precedence goes to step t - 1."""
    Hw, N = step.write1.shape[1:]
    zero = step.write1.dtype.type(0)
    for head in range(Hw):
        d_write, d_precedence = adjoint.write[b, head], adjoint.precedence[b, head]
        weights, last = step.write1[b, head], step.precedence0[b, head]
        shared = zero
        rest = step.write1.dtype.type(1)
        for n in range(N):
            shared += last[n] * d_precedence[n]
            rest -= weights[n]
        for n in range(N):
            d_write[n] += d_precedence[n] - shared + scratch.row_sums[b, head, n]
            d_precedence[n] *= rest
        for strip in range(scratch.column_sums.shape[1]):
            sums, parts = scratch.column_sums[b, strip, head], scratch.d_precedence[b, strip, head]
            for n in range(N):
                d_write[n] -= sums[n]
                d_precedence[n] += parts[n]


@kernel
def _allocate_backward(
    d_write,
    content_weights,
    allocation_gates,
    write_gates,
    seen,
    lifted,
    orders,
    allocations,
    d_content,
    d_allocation_gates,
    d_write_gates,
    d_usage,
):
    """Through `_allocate`: fill d_content and the gates' gradients, add to d_usage."""
    Hw, N = content_weights.shape
    one = content_weights.dtype.type(1)
    zero = content_weights.dtype.type(0)
    d_seen = np.zeros(N, content_weights.dtype)
    d_allocation = np.empty(N, content_weights.dtype)
    for head in range(Hw - 1, -1, -1):
        gate, share = write_gates[head], allocation_gates[head]
        d_gate = d_share = d_both = zero
        for n in range(N):
            found, similar = allocations[head, n], content_weights[head, n]
            d_mixed = gate * d_write[head, n]
            d_gate += d_write[head, n] * (share * found + (one - share) * similar)
            d_share += d_mixed * (found - similar)
            d_content[head, n] = (one - share) * d_mixed
            d_allocation[n] = share * d_mixed
            if head + 1 < Hw:
                free = d_seen[n] * (one - seen[head, n])
                d_both += free * found
                d_allocation[n] += free * gate * share
                d_seen[n] *= one - gate * share * found
        d_write_gates[head] = d_gate + d_both * share
        d_allocation_gates[head] = d_share + d_both * gate
        allocation.allocation_weighting_backward(d_allocation, lifted[head], orders[head], d_seen)
    for n in range(N):
        d_usage[n] += d_seen[n]


@kernel
def _usage_backward(b, step, adjoint, free_gates, d_free_gates):
    """Through the usage: adjoint.usage and adjoint.write go to t - 1, adjoint.read is added to."""
    R, N = step.read0.shape[1:]
    Hw = step.write0.shape[1]
    one = step.usage0.dtype.type(1)
    d_free_gates[:] = step.usage0.dtype.type(0)
    for n in range(N):
        usage, d_usage = step.usage0[b, n], adjoint.usage[b, n]
        unwritten = one
        for head in range(Hw):
            unwritten *= one - step.write0[b, head, n]
        filled = usage + (one - usage) * (one - unwritten)
        kept = one
        for r in range(R):
            kept *= one - free_gates[r] * step.read0[b, r, n]
        for r in range(R):
            d_factor = d_usage * filled
            for other in range(R):
                if other != r:
                    d_factor *= one - free_gates[other] * step.read0[b, other, n]
            d_free_gates[r] -= d_factor * step.read0[b, r, n]
            adjoint.read[b, r, n] -= d_factor * free_gates[r]
        d_filled = d_usage * kept
        for head in range(Hw):
            d_weight = d_filled * (one - usage)
            for other in range(Hw):
                if other != head:
                    d_weight *= one - step.write0[b, other, n]
            adjoint.write[b, head, n] = d_weight
        adjoint.usage[b, n] = d_filled * unwritten


@kernel
def backward_after(b, step, adjoint, scratch, robust):
    """Through the weightings, the writing, the allocation and the usage, to step t - 1."""
    memory0, d_write = step.memory0[b], adjoint.write[b]
    N, W = memory0.shape
    Hw, R = step.write1.shape[1], step.read1.shape[1]
    active = scratch.active[b]
    parts = split(active, W, R, Hw)
    d_parts = split(adjoint.vector[b], W, R, Hw)
    _, _, keys, strengths, erase, vectors, free_gates, allocation_gates, write_gates, modes = parts
    _read_weights_backward(b, step, adjoint, scratch, modes, d_parts[9])
    _write_weights_backward(b, step, adjoint, scratch)
    memory.write_memory_backward(
        memory0, step.write1[b], erase, vectors, adjoint.memory[b], d_write, d_parts[4], d_parts[5]
    )
    weights, similarity, key_norms, cell_norms = content.look_up(keys, strengths, memory0)
    write_weights = np.empty((Hw, N), memory0.dtype)
    seen, lifted, orders, allocations = _allocate(
        step.usage1[b], weights, allocation_gates, write_gates, robust, write_weights
    )
    d_content = np.empty((Hw, N), memory0.dtype)
    _allocate_backward(
        d_write,
        weights,
        allocation_gates,
        write_gates,
        seen,
        lifted,
        orders,
        allocations,
        d_content,
        d_parts[7],
        d_parts[8],
        adjoint.usage[b],
    )
    content.content_weighting_backward(
        d_content,
        weights,
        similarity,
        keys,
        strengths,
        memory0,
        key_norms,
        cell_norms,
        d_parts[2],
        d_parts[3],
        adjoint.memory[b],
    )
    _usage_backward(b, step, adjoint, free_gates, d_parts[6])
    activate_backward(adjoint.vector[b], active, W, R, Hw)


@kernel
def backward(first, last, step, adjoint, scratch, robust):
    """Through a whole step for the batch elements [first, last)."""
    for b in range(first, last):
        backward_before(b, step, adjoint, scratch)
        for strip in range(scratch.columns.shape[1]):
            backward_link(b, strip, step, adjoint, scratch)
        backward_after(b, step, adjoint, scratch, robust)
