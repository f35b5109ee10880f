"""The whole memory step, forward and backward, for a range of batch elements in one call.

A step has three stages: before the link matrix (usage, allocation, writing), the link matrix by
strips of rows, and after it (reading). A thread runs all three for its own batch elements. If there
are fewer elements than threads, the caller runs the stages one by one, and the threads share the
strips. `variant` is None for the paper's step, or a `Variant`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays import COSINE, SORTED
from ..interface import interface_size
from . import allocation, content, linkage, memory, similarity
from . import variant as variants
from .compile import kernel
from .interface import activate, activate_backward, split

STRIP = linkage.STRIP

ALL, BEFORE, LINKS, AFTER = range(4)
"""Stages of a step: all, or the part before the link matrices, these, or the part after."""


class Scratch(NamedTuple):
    """Scratch memory of a step, also for results that its parts share; S strips.

    | field        | shape            | forward             | backward                         |
    |--------------|------------------|---------------------|----------------------------------|
    | active       | (B, interface)   | the vectors, activated                                 |
    | rows         | (B, Hw, R, N)    | forward weightings  | L_t x                            |
    | columns      | (B, S, Hw, R, N) | backward weightings | L_t^T x, each strip's part       |
    | row_sums     | (B, Hw, N)       |                     | see `linkage_backward`           |
    | column_sums  | (B, S, Hw, N)    |                     | see `linkage_backward`           |
    | d_precedence | (B, S, Hw, N)    |                     | see `linkage_backward`           |
    | new          | (B, S, 4, N)     |                     | see `linkage_backward`           |
    | modes        | (B, Hw, R, 2)    |                     | read modes, forward and backward |
    | found        | (B, heads, N)    | content weightings of the read or the write heads      |
    | similarity   | (B, heads, N)    | see `content`                                          |
    | key_norms    | (B, heads)       | see `content`                                          |
    | cell_norms   | (B, N)           | see `content`                                          |
    | d_found      | (B, heads, N)    |                     | gradient of the content weightings |
    | seen         | (B, Hw, N)       | usage that each write head sees                        |
    | lifted       | (B, Hw, N)       | likewise, see `allocation`                             |
    | allocations  | (B, Hw, N)       | allocation weightings                                  |
    | orders       | (B, Hw, N)       | free lists                                             |
    | keys, wide_keys, other | (B, N)     | see `free_list`                                        |
    | counts       | (B, COUNTS)      | likewise                                               |
    | written      | (B, Hw, N)       |                     | write weightings, recomputed     |
    | products, d_seen, d_allocation | (B, N) |             | see `_allocate_backward`         |
    | word         | (B, W)           |                     | see `write_memory_backward`      |
    """

    active: Any
    rows: Any
    columns: Any
    row_sums: Any
    column_sums: Any
    d_precedence: Any
    new: Any
    modes: Any
    found: Any
    similarity: Any
    key_norms: Any
    cell_norms: Any
    d_found: Any
    seen: Any
    lifted: Any
    allocations: Any
    orders: Any
    keys: Any
    wide_keys: Any
    other: Any
    counts: Any
    written: Any
    products: Any
    d_seen: Any
    d_allocation: Any
    word: Any


def num_strips(N: int) -> int:
    """How many strips of rows a link matrix of N cells has."""
    return -(-N // STRIP)


def make_scratch(
    B: int, N: int, W: int, R: int, Hw: int, dtype: Any, interface: int | None = None
) -> Scratch:
    """Scratch arrays for steps of these sizes.

    interface: length of the interface vectors; None for the paper's.
    """
    S = num_strips(N)
    heads = max(R, Hw)
    return Scratch(
        active=np.empty((B, interface or interface_size(W, R, Hw)), dtype),
        rows=np.empty((B, Hw, R, N), dtype),
        columns=np.empty((B, S, Hw, R, N), dtype),
        row_sums=np.empty((B, Hw, N), dtype),
        column_sums=np.empty((B, S, Hw, N), dtype),
        d_precedence=np.empty((B, S, Hw, N), dtype),
        new=np.empty((B, S, 4, N), dtype),
        modes=np.empty((B, Hw, R, 2), dtype),
        found=np.empty((B, heads, N), dtype),
        similarity=np.empty((B, heads, N), dtype),
        key_norms=np.empty((B, heads), dtype),
        cell_norms=np.empty((B, N), dtype),
        d_found=np.empty((B, heads, N), dtype),
        seen=np.empty((B, Hw, N), dtype),
        lifted=np.empty((B, Hw, N), dtype),
        allocations=np.empty((B, Hw, N), dtype),
        orders=np.empty((B, Hw, N), np.int64),
        keys=np.empty((B, N), dtype),
        wide_keys=np.empty((B, N), np.float64),
        other=np.empty((B, N), np.int64),
        counts=np.empty((B, allocation.COUNTS), np.int64),
        written=np.empty((B, Hw, N), dtype),
        products=np.empty((B, N), dtype),
        d_seen=np.empty((B, N), dtype),
        d_allocation=np.empty((B, N), dtype),
        word=np.empty((B, W), dtype),
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
def _activate(b, vector, W, R, Hw, scratch, variant, least):
    """Activate an interface vector; its parts. least: of strengths."""
    active = scratch.active[b]
    activate(vector, W, R, Hw, least, active)
    if variant is not None:
        variants.activate_extras(active, W, R, Hw, variant)
    return split(active, W, R, Hw)


@kernel
def _look_up(b, keys, strengths, cells, scratch):
    """The paper's content weightings of the read or the write heads, into the scratch arrays."""
    content.look_up(
        keys,
        strengths,
        cells,
        scratch.key_norms[b],
        scratch.cell_norms[b],
        scratch.similarity[b],
        scratch.found[b],
    )


@kernel
def _look_up_backward(b, keys, strengths, cells, scratch, d_keys, d_strengths, d_cells):
    """Backward of `_look_up`, from scratch.d_found."""
    content.content_weighting_backward(
        scratch.d_found[b],
        scratch.found[b],
        scratch.similarity[b],
        keys,
        strengths,
        cells,
        scratch.key_norms[b],
        scratch.cell_norms[b],
        d_keys,
        d_strengths,
        d_cells,
    )


@kernel
def _look_up_of_kind(b, keys, strengths, masks, cells, scratch, variant):
    """`_look_up` by any similarity, with masks if there are any."""
    if variant.similarity == COSINE and not variant.masked:
        _look_up(b, keys, strengths, cells, scratch)
    else:
        similarity.look_up(
            variant.similarity,
            keys,
            strengths,
            masks,
            cells,
            scratch.similarity[b],
            scratch.found[b],
        )


@kernel
def _look_up_of_kind_backward(
    b, keys, strengths, masks, cells, scratch, variant, d_keys, d_strengths, d_masks, d_cells
):
    """Backward of `_look_up_of_kind`."""
    if variant.similarity == COSINE and not variant.masked:
        _look_up_backward(b, keys, strengths, cells, scratch, d_keys, d_strengths, d_cells)
    else:
        similarity.look_up_backward(
            variant.similarity,
            scratch.d_found[b],
            scratch.found[b],
            scratch.similarity[b],
            keys,
            strengths,
            masks,
            cells,
            d_keys,
            d_strengths,
            d_masks,
            d_cells,
        )


@kernel
def _look_up_for_reading(b, parts, cells, scratch, variant):
    """What the read heads find in the new memory."""
    keys, strengths = parts[0], parts[1]
    if variant is None:
        _look_up(b, keys, strengths, cells, scratch)
    else:
        R, W, Hw = keys.shape[0], keys.shape[1], parts[3].shape[0]
        masks = variants.masks_of(scratch.active[b], W, R, Hw, variant)[0]
        _look_up_of_kind(b, keys, strengths, masks, cells, scratch, variant)


@kernel
def _look_up_for_reading_backward(b, parts, d_parts, cells, scratch, variant, d_vector, d_cells):
    """Backward of `_look_up_for_reading`."""
    keys, strengths, d_keys, d_strengths = parts[0], parts[1], d_parts[0], d_parts[1]
    if variant is None:
        _look_up_backward(b, keys, strengths, cells, scratch, d_keys, d_strengths, d_cells)
    else:
        R, W, Hw = keys.shape[0], keys.shape[1], parts[3].shape[0]
        masks = variants.masks_of(scratch.active[b], W, R, Hw, variant)[0]
        d_masks = variants.d_masks_of(b, d_vector, W, R, Hw, variant)[0]
        _look_up_of_kind_backward(
            b, keys, strengths, masks, cells, scratch, variant, d_keys, d_strengths, d_masks,
            d_cells,
        )  # fmt: skip


@kernel
def _look_up_for_writing(b, parts, cells, scratch, variant):
    """What the write heads find in the old memory."""
    keys, strengths = parts[2], parts[3]
    if variant is None:
        _look_up(b, keys, strengths, cells, scratch)
    else:
        R, W, Hw = parts[1].shape[0], keys.shape[1], keys.shape[0]
        masks = variants.masks_of(scratch.active[b], W, R, Hw, variant)[1]
        _look_up_of_kind(b, keys, strengths, masks, cells, scratch, variant)


@kernel
def _look_up_for_writing_backward(b, parts, d_parts, cells, scratch, variant, d_vector, d_cells):
    """Backward of `_look_up_for_writing`."""
    keys, strengths, d_keys, d_strengths = parts[2], parts[3], d_parts[2], d_parts[3]
    if variant is None:
        _look_up_backward(b, keys, strengths, cells, scratch, d_keys, d_strengths, d_cells)
    else:
        R, W, Hw = parts[1].shape[0], keys.shape[1], keys.shape[0]
        masks = variants.masks_of(scratch.active[b], W, R, Hw, variant)[1]
        d_masks = variants.d_masks_of(b, d_vector, W, R, Hw, variant)[1]
        _look_up_of_kind_backward(
            b, keys, strengths, masks, cells, scratch, variant, d_keys, d_strengths, d_masks,
            d_cells,
        )  # fmt: skip


@kernel
def _write(b, memory0, write1, parts, read0, variant, memory1):
    """Fill memory1."""
    before = memory0
    if variant is not None and variant.deallocate:
        before = variant.kept[b]
        variants.deallocate(memory0, parts[6], read0, variant.psi[b], before)
    memory.write_memory(before, write1, parts[4], parts[5], memory1)


@kernel
def _write_backward(b, memory0, write1, parts, d_parts, read0, scratch, variant, d_memory, d_write):
    """Backward of `_write`: d_memory goes to t - 1; adds to d_write, fills variant.d_psi."""
    erase, vectors, d_erase, d_vectors = parts[4], parts[5], d_parts[4], d_parts[5]
    before = memory0
    if variant is not None and variant.deallocate:
        before = variant.kept[b]
        variants.deallocate(memory0, parts[6], read0, variant.psi[b], before)
    memory.write_memory_backward(
        before, write1, erase, vectors, d_memory, d_write, d_erase, d_vectors, scratch.word[b]
    )
    if variant is not None and variant.deallocate:
        variants.deallocate_backward(memory0, variant.psi[b], d_memory, variant.d_psi[b])


@kernel
def _allocate_by_order(b, head, robust, scratch):
    """The paper's allocation weighting of a write head."""
    allocation.free_list(
        scratch.lifted[b, head],
        robust,
        scratch.orders[b, head],
        scratch.keys[b],
        scratch.wide_keys[b],
        scratch.other[b],
        scratch.counts[b],
    )
    allocation.allocation_weighting(
        scratch.lifted[b, head], scratch.orders[b, head], scratch.allocations[b, head]
    )


@kernel
def _allocation_weighting(b, head, robust, scratch, variant):
    """Fill scratch.allocations of a write head from scratch.lifted."""
    if variant is None or variant.allocation == SORTED:
        _allocate_by_order(b, head, robust, scratch)
    else:
        variants.smooth_allocation_weighting(
            scratch.lifted[b, head],
            variant.allocation,
            variant.steepness,
            scratch.allocations[b, head],
        )


@kernel
def _allocation_weighting_backward(b, head, scratch, variant, d_usage):
    """Add to d_usage from scratch.d_allocation."""
    d_allocation, lifted = scratch.d_allocation[b], scratch.lifted[b, head]
    work = scratch.products[b]
    if variant is None or variant.allocation == SORTED:
        allocation.allocation_weighting_backward(
            d_allocation, lifted, scratch.orders[b, head], work, d_usage
        )
    else:
        variants.smooth_allocation_weighting_backward(
            d_allocation, lifted, variant.allocation, variant.steepness, work, d_usage
        )


@kernel
def _allocate(b, usage, allocation_gates, write_gates, robust, scratch, variant, write_weights):
    """The write weightings of all heads, from scratch.found.

    Heads allocate one after another, each on a usage that includes what those before it allocate.
    """
    Hw, N = write_weights.shape
    one = usage.dtype.type(1)
    content_weights, seen, lifted = scratch.found[b], scratch.seen[b], scratch.lifted[b]
    allocations = scratch.allocations[b]
    for n in range(N):
        seen[0, n] = usage[n]
    for head in range(Hw):
        allocation.lifted_usage(seen[head], lifted[head])
        _allocation_weighting(b, head, robust, scratch, variant)
        gate, share = write_gates[head], allocation_gates[head]
        for n in range(N):
            found = allocations[head, n]
            write_weights[head, n] = gate * (
                share * found + (one - share) * content_weights[head, n]
            )
            if head + 1 < Hw:
                seen[head + 1, n] = seen[head, n] + (one - seen[head, n]) * gate * share * found


@kernel
def _forward_before(b, step, scratch, variant, choices):
    """Usage, write weightings, memory and precedence of step t."""
    memory0, write1, precedence0 = step.memory0[b], step.write1[b], step.precedence0[b]
    N, W = memory0.shape
    Hw, R = write1.shape[0], step.read0.shape[1]
    parts = _activate(b, step.vector[b], W, R, Hw, scratch, variant, choices.least_strength)
    _usage_before_writing(parts[6], step.usage0[b], step.write0[b], step.read0[b], step.usage1[b])
    _look_up_for_writing(b, parts, memory0, scratch, variant)
    _allocate(b, step.usage1[b], parts[7], parts[8], choices.robust, scratch, variant, write1)
    _write(b, memory0, write1, parts, step.read0[b], variant, step.memory1[b])
    for head in range(Hw):
        rest = memory0.dtype.type(1)
        for n in range(N):
            rest -= write1[head, n]
        for n in range(N):
            step.precedence1[b, head, n] = rest * precedence0[head, n] + write1[head, n]


@kernel
def _forward_link(b, strip, step, scratch):
    """A strip of rows of step t's link matrices, and its part of both directional weightings."""
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
def _mix_read_weightings(b, modes, scratch, read1):
    """Fill the read weightings (R, N) from content, forward and backward weightings."""
    R, N = read1.shape
    Hw, found = scratch.rows.shape[1], scratch.found[b]
    for r in range(R):
        mode = modes[r, Hw]
        for n in range(N):
            read1[r, n] = mode * found[r, n]
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


@kernel
def _read_weightings(b, modes, scratch, variant, read1):
    """`_mix_read_weightings`, with the directional ones sharpened if they are to be."""
    if variant is not None and variant.sharp:
        variants.sharp_read_weightings(
            b, modes, scratch.active[b], scratch.found[b], scratch.rows[b], scratch.columns[b],
            variant, read1,
        )  # fmt: skip
    else:
        _mix_read_weightings(b, modes, scratch, read1)


@kernel
def _forward_after(b, step, scratch, variant):
    """Read weightings and read vectors of step t."""
    memory1, read1 = step.memory1[b], step.read1[b]
    W, Hw, R = memory1.shape[1], step.write1.shape[1], read1.shape[0]
    parts = split(scratch.active[b], W, R, Hw)
    _look_up_for_reading(b, parts, memory1, scratch, variant)
    _read_weightings(b, parts[9], scratch, variant, read1)
    memory.read_memory(memory1, read1, step.reads[b])


@kernel
def forward(stage, first, last, step, scratch, variant, choices):
    """A stage of a step, for the batch elements [first, last), or for the strips (LINKS)."""
    strips = scratch.columns.shape[1]
    if stage == LINKS:
        for index in range(first, last):
            _forward_link(index // strips, index % strips, step, scratch)
        return
    for b in range(first, last):
        if stage != AFTER:
            _forward_before(b, step, scratch, variant, choices)
        if stage == ALL:
            for strip in range(strips):
                _forward_link(b, strip, step, scratch)
        if stage != BEFORE:
            _forward_after(b, step, scratch, variant)


@kernel
def rebuild(stage, first, last, step, scratch, variant):
    """Rebuild memory1 of batch elements [first, last) (BEFORE), or link1 of strips (LINKS)."""
    N, W = step.memory0.shape[1:]
    Hw, R = step.write1.shape[1], step.read0.shape[1]
    strips = scratch.columns.shape[1]
    for index in range(first, last):
        if stage == LINKS:
            b, strip = index // strips, index % strips
            for head in range(Hw):
                linkage.update_link(
                    strip * STRIP,
                    min(strip * STRIP + STRIP, N),
                    step.link0[b, head],
                    step.precedence0[b, head],
                    step.write1[b, head],
                    step.link1[b, head],
                )
        else:
            vector = step.vector[index]
            parts = _activate(index, vector, W, R, Hw, scratch, variant, 0.0)  # strengths not used
            _write(
                index, step.memory0[index], step.write1[index], parts, step.read0[index], variant,
                step.memory1[index],
            )  # fmt: skip


@kernel
def _backward_before(b, step, adjoint, scratch, variant, choices):
    """Backward of the read vectors and the read content weightings."""
    memory1 = step.memory1[b]
    N, W = memory1.shape
    Hw, R = step.write1.shape[1], step.read1.shape[1]
    d_memory, d_read = adjoint.memory[b], adjoint.read[b]
    memory.read_memory_backward(step.reads[b], memory1, step.read1[b], d_memory, d_read)
    parts = _activate(b, step.vector[b], W, R, Hw, scratch, variant, choices.least_strength)
    d_parts = split(adjoint.vector[b], W, R, Hw)
    modes, found, d_found = parts[9], scratch.found[b], scratch.d_found[b]
    _look_up_for_reading(b, parts, memory1, scratch, variant)
    for r in range(R):
        mode = modes[r, Hw]
        total = memory1.dtype.type(0)
        for n in range(N):
            total += d_read[r, n] * found[r, n]
        for n in range(N):
            d_found[r, n] = mode * d_read[r, n]
        d_parts[9][r, Hw] = total
        for head in range(Hw):
            scratch.modes[b, head, r, 0] = modes[r, 1 + Hw + head]
            scratch.modes[b, head, r, 1] = modes[r, head]
    _look_up_for_reading_backward(
        b, parts, d_parts, memory1, scratch, variant, adjoint.vector[b], d_memory
    )
    if variant is not None and variant.sharp:
        variants.sharp_read_weightings_backward(
            b, modes, scratch.active[b], d_read, step.read0[b], variant, d_parts[9],
            adjoint.vector[b],
        )  # fmt: skip


@kernel
def _backward_link(b, strip, step, adjoint, scratch, variant):
    """Backward of a strip of rows of the link matrices."""
    for head in range(step.write1.shape[1]):
        read0, d_read, modes = step.read0[b], adjoint.read[b], scratch.modes[b, head]
        toward, away = scratch.rows[b, head], scratch.columns[b, strip, head]
        if variant is not None and variant.sharp:
            # Each directional weighting counts as a read head of its own.
            read0, d_read, modes = variant.last[b], variant.changes[b, head], variant.modes
            toward, away = variant.toward[b, head], variant.away[b, strip, head]
        linkage.linkage_backward(
            strip * STRIP,
            min(strip * STRIP + STRIP, step.usage0.shape[1]),
            step.link0[b, head],
            step.precedence0[b, head],
            step.write1[b, head],
            read0,
            d_read,
            modes,
            adjoint.link[b, head],
            toward,
            away,
            scratch.row_sums[b, head],
            scratch.column_sums[b, strip, head],
            scratch.d_precedence[b, strip, head],
            scratch.new[b, strip],
        )


@kernel
def _read_weights_backward(b, step, adjoint, scratch, modes, d_modes):
    """Gradients of both directions' modes; adjoint.read goes from step t to t - 1."""
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
def _last_read_weights_backward(b, step, adjoint, scratch, variant, modes, d_modes):
    """`_read_weights_backward`, through sharpened weightings if they are."""
    if variant is not None and variant.sharp:
        variants.last_read_weights_backward(b, variant, adjoint.read[b])
    else:
        _read_weights_backward(b, step, adjoint, scratch, modes, d_modes)


@kernel
def _write_weights_backward(b, step, adjoint, scratch):
    """Add link matrix and precedence to adjoint.write; adjoint.precedence goes to t - 1."""
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
    b,
    d_write,
    allocation_gates,
    write_gates,
    scratch,
    variant,
    d_allocation_gates,
    d_write_gates,
    d_usage,
):
    """Backward of `_allocate`: fill scratch.d_found and the gates' gradients, add to d_usage."""
    Hw, N = d_write.shape
    one = d_write.dtype.type(1)
    zero = d_write.dtype.type(0)
    content_weights, d_content = scratch.found[b], scratch.d_found[b]
    seen, allocations = scratch.seen[b], scratch.allocations[b]
    d_seen, d_allocation = scratch.d_seen[b], scratch.d_allocation[b]
    for n in range(N):
        d_seen[n] = zero
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
        _allocation_weighting_backward(b, head, scratch, variant, d_seen)
    for n in range(N):
        d_usage[n] += d_seen[n]


@kernel
def _usage_backward(b, step, adjoint, free_gates, variant, through_writes, d_free_gates):
    """Backward of the usage: adjoint.usage and adjoint.write go to t - 1; adds to adjoint.read.

    through_writes: whether adjoint.write is that of the usage, or zero.
    """
    R, N = step.read0.shape[1:]
    Hw = step.write0.shape[1]
    one = step.usage0.dtype.type(1)
    for r in range(R):
        d_free_gates[r] = step.usage0.dtype.type(0)
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
            if variant is not None:
                d_factor += variant.d_psi[b, n]
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
            adjoint.write[b, head, n] = d_weight if through_writes else step.usage0.dtype.type(0)
        adjoint.usage[b, n] = d_filled * unwritten


@kernel
def _backward_after(b, step, adjoint, scratch, variant, choices):
    """Backward of the weightings, the writing, the allocation and the usage, to step t - 1."""
    memory0, d_write = step.memory0[b], adjoint.write[b]
    W = memory0.shape[1]
    Hw, R = step.write1.shape[1], step.read1.shape[1]
    active = scratch.active[b]
    parts = split(active, W, R, Hw)
    d_parts = split(adjoint.vector[b], W, R, Hw)
    free_gates, allocation_gates, write_gates, modes = parts[6:]
    _last_read_weights_backward(b, step, adjoint, scratch, variant, modes, d_parts[9])
    _write_weights_backward(b, step, adjoint, scratch)
    _write_backward(
        b, memory0, step.write1[b], parts, d_parts, step.read0[b], scratch, variant,
        adjoint.memory[b], d_write,
    )  # fmt: skip
    _look_up_for_writing(b, parts, memory0, scratch, variant)
    written = scratch.written[b]
    robust = choices.robust
    _allocate(b, step.usage1[b], allocation_gates, write_gates, robust, scratch, variant, written)
    _allocate_backward(
        b,
        d_write,
        allocation_gates,
        write_gates,
        scratch,
        variant,
        d_parts[7],
        d_parts[8],
        adjoint.usage[b],
    )
    _look_up_for_writing_backward(
        b, parts, d_parts, memory0, scratch, variant, adjoint.vector[b], adjoint.memory[b]
    )
    through_writes = choices.usage_gradient
    _usage_backward(b, step, adjoint, free_gates, variant, through_writes, d_parts[6])
    activate_backward(adjoint.vector[b], active, W, R, Hw, choices.least_strength)
    if variant is not None:
        variants.extras_backward(adjoint.vector[b], active, W, R, Hw, variant)


@kernel
def backward(stage, first, last, step, adjoint, scratch, variant, choices):
    """A stage of the backward step, for batch elements [first, last), or strips (LINKS)."""
    strips = scratch.columns.shape[1]
    if stage == LINKS:
        for index in range(first, last):
            _backward_link(index // strips, index % strips, step, adjoint, scratch, variant)
        return
    for b in range(first, last):
        if stage != AFTER:
            _backward_before(b, step, adjoint, scratch, variant, choices)
        if stage == ALL:
            for strip in range(strips):
                _backward_link(b, strip, step, adjoint, scratch, variant)
        if stage != BEFORE:
            _backward_after(b, step, adjoint, scratch, variant, choices)
