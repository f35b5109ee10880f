"""Passes over strips of cells, for memories too large for one thread or its caches.

Strips are numbered across the whole batch: strip s of batch element b is b S + s. Sums over all
cells are stored as a part per strip; the caller adds up the parts in order.
"""

from __future__ import annotations

from . import content, memory
from . import similarity as similar
from .compile import kernel

STRIP = 1024
"""Cells in a strip; fixed, so that sums do not depend on how strips are shared among threads."""


def num_strips(N: int) -> int:
    """How many strips N cells have."""
    return -(-N // STRIP)


@kernel
def _part(index, N):
    """Batch element, strip within it, and the range of cells of a strip."""
    count = -(-N // STRIP)
    b, strip = index // count, index % count
    return b, strip, strip * STRIP, min(strip * STRIP + STRIP, N)


@kernel
def look_up(first, last, keys, strengths, cells, key_norms, cell_norms, similarity, weights, parts):
    """Fill cell_norms, similarity, and weights relative to each strip's highest similarity.

    parts (B, S, heads, 2) gets that highest similarity and the sum of the strip's weights.
    """
    for index in range(first, last):
        b, strip, start, stop = _part(index, cells.shape[1])
        some, norms = cells[b, start:stop], cell_norms[b, start:stop]
        content.norms(some, norms)
        for head in range(keys.shape[1]):
            found = similarity[b, head, start:stop]
            content.similarities(keys[b, head], some, key_norms[b, head], norms, found)
            highest, total = content.exponentials(
                strengths[b, head], found, weights[b, head, start:stop]
            )
            parts[b, strip, head, 0] = highest
            parts[b, strip, head, 1] = total


@kernel
def scale(first, last, factors, weights):
    """Multiply weights (B, heads, N) by the factor of each strip (B, S, heads)."""
    for index in range(first, last):
        b, strip, start, stop = _part(index, weights.shape[2])
        for head in range(weights.shape[1]):
            factor = factors[b, strip, head]
            some = weights[b, head, start:stop]
            for n in range(some.shape[0]):
                some[n] *= factor


@kernel
def means(first, last, weights, d_weights, parts):
    """parts (B, S, heads) = each strip's w.dw."""
    for index in range(first, last):
        b, strip, start, stop = _part(index, weights.shape[2])
        for head in range(weights.shape[1]):
            parts[b, strip, head] = content.mean_gradient(
                weights[b, head, start:stop], d_weights[b, head, start:stop]
            )


@kernel
def look_up_backward(
    first, last, mean, d_weights, weights, similarity, keys, strengths, cells, key_norms,
    cell_norms, d_keys, sums, d_memory,
):  # fmt: skip
    """Add to d_memory; d_weights and similarity are overwritten.

    Parts of each strip: d_keys (B, S, heads, W), without what comes through the keys' norms; sums
    (B, S, heads, 2), gradients of the strengths and of those norms.
    """
    for index in range(first, last):
        b, strip, start, stop = _part(index, cells.shape[1])
        some, norms, gradient = (
            cells[b, start:stop],
            cell_norms[b, start:stop],
            d_memory[b, start:stop],
        )
        for head in range(keys.shape[1]):
            d_key = d_keys[b, strip, head]
            for w in range(d_key.shape[0]):
                d_key[w] = some.dtype.type(0)
            sums[b, strip, head, 0], sums[b, strip, head, 1] = content.through_cells(
                mean[b, head], weights[b, head, start:stop], d_weights[b, head, start:stop],
                similarity[b, head, start:stop], keys[b, head], strengths[b, head], some,
                key_norms[b, head], norms, d_key, gradient,
            )  # fmt: skip


@kernel
def varied_look_up(first, last, kind, keys, strengths, masks, cells, similarity, weights, parts):
    """`look_up` by any similarity, with masks."""
    for index in range(first, last):
        b, strip, start, stop = _part(index, cells.shape[1])
        for head in range(keys.shape[1]):
            found = similarity[b, head, start:stop]
            similar.similarities(kind, keys[b, head], masks[b, head], cells[b, start:stop], found)
            highest, total = content.exponentials(
                strengths[b, head], found, weights[b, head, start:stop]
            )
            parts[b, strip, head, 0] = highest
            parts[b, strip, head, 1] = total


@kernel
def varied_look_up_backward(
    first, last, kind, mean, d_weights, weights, similarity, keys, strengths, masks, cells, d_keys,
    d_strengths, d_masks, d_memory,
):  # fmt: skip
    """Its backward: add to d_memory; d_weights is overwritten.

    Parts of each strip: d_keys and d_masks (B, S, heads, W), d_strengths (B, S, heads).
    """
    for index in range(first, last):
        b, strip, start, stop = _part(index, cells.shape[1])
        for head in range(keys.shape[1]):
            d_strengths[b, strip, head] = similar.through_cells(
                kind, mean[b, head], weights[b, head, start:stop], d_weights[b, head, start:stop],
                similarity[b, head, start:stop], keys[b, head], masks[b, head], strengths[b, head],
                cells[b, start:stop], d_keys[b, strip, head], d_masks[b, strip, head],
                d_memory[b, start:stop],
            )  # fmt: skip


@kernel
def write_memory(first, last, cells, write_weights, erase_vectors, write_vectors, new_cells):
    """Fill new_cells."""
    for index in range(first, last):
        b, _, start, stop = _part(index, cells.shape[1])
        memory.write_memory(
            cells[b, start:stop], write_weights[b, :, start:stop], erase_vectors[b],
            write_vectors[b], new_cells[b, start:stop],
        )  # fmt: skip


@kernel
def write_memory_backward(
    first, last, cells, write_weights, erase_vectors, write_vectors, d_memory, d_write_weights,
    d_erase, d_vectors, word,
):  # fmt: skip
    """Take d_memory to the previous step; add to d_write_weights (B, Hw, N).

    Parts of each strip: d_erase and d_vectors (B, S, Hw, W). word (B, S, W) is work space.
    """
    for index in range(first, last):
        b, strip, start, stop = _part(index, cells.shape[1])
        memory.write_memory_backward(
            cells[b, start:stop], write_weights[b, :, start:stop], erase_vectors[b],
            write_vectors[b], d_memory[b, start:stop], d_write_weights[b, :, start:stop],
            d_erase[b, strip], d_vectors[b, strip], word[b, strip],
        )  # fmt: skip


@kernel
def usage(first, last, free_gates, usage0, write0, read0, usage1):
    """usage1 = (u + (1 - u) (1 - prod_h (1 - ww_h))) prod_r (1 - f_r wr_r)."""
    one = usage0.dtype.type(1)
    for index in range(first, last):
        b, _, start, stop = _part(index, usage0.shape[1])
        for n in range(start, stop):
            unwritten = one
            for head in range(write0.shape[1]):
                unwritten *= one - write0[b, head, n]
            kept = one
            for r in range(read0.shape[1]):
                kept *= one - free_gates[b, r] * read0[b, r, n]
            before = usage0[b, n]
            usage1[b, n] = (before + (one - before) * (one - unwritten)) * kept


@kernel
def usage_backward(
    first, last, free_gates, usage0, write0, read0, d_usage, d_write, d_read, d_gates
):
    """Take d_usage to the previous step; fill d_write, add to d_read.

    d_gates (B, S, R) are the parts of each strip of the free gates' gradients.
    """
    one = usage0.dtype.type(1)
    Hw, R = write0.shape[1], read0.shape[1]
    for index in range(first, last):
        b, strip, start, stop = _part(index, usage0.shape[1])
        for r in range(R):
            d_gates[b, strip, r] = usage0.dtype.type(0)
        for n in range(start, stop):
            kept = one
            for r in range(R):
                kept *= one - free_gates[b, r] * read0[b, r, n]
            unwritten = one
            for head in range(Hw):
                unwritten *= one - write0[b, head, n]
            before, change = usage0[b, n], d_usage[b, n]
            d_kept = change * (before + (one - before) * (one - unwritten))
            for r in range(R):
                others = d_kept
                for other in range(R):
                    if other != r:
                        others *= one - free_gates[b, other] * read0[b, other, n]
                d_gates[b, strip, r] -= others * read0[b, r, n]
                d_read[b, r, n] -= others * free_gates[b, r]
            for head in range(Hw):
                others = change * kept * (one - before)
                for other in range(Hw):
                    if other != head:
                        others *= one - write0[b, other, n]
                d_write[b, head, n] = others
            d_usage[b, n] = change * kept * unwritten
