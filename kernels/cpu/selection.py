"""The largest entries of a weighting, and the cells that allocation reaches, without a full sort.

One pass over the cells keeps those that can still be among the largest.
"""

from __future__ import annotations

from .compile import kernel


@kernel
def _keep_half(values, cells, size, count, order, other):
    """Move the `count` largest of `size` candidates to the front without changing their order.

    Ties are won by the first. values and cells change in place; order and other are work space of
    the same length. Returns the smallest value that is kept.
    """
    for place in range(size):
        order[place] = place
    width = 1
    source, target = order, other
    while width < size:  # a stable merge sort, the largest first
        for start in range(0, size, 2 * width):
            middle, end = min(start + width, size), min(start + 2 * width, size)
            a, b = start, middle
            for place in range(start, end):
                if a < middle and (b >= end or values[source[a]] >= values[source[b]]):
                    target[place] = source[a]
                    a += 1
                else:
                    target[place] = source[b]
                    b += 1
        source, target = target, source
        width *= 2
    bound = values[source[count - 1]]
    # Marked first and then taken in their order, so that cells stay in increasing order.
    for place in range(size):
        target[place] = 0
    for place in range(count):
        target[source[place]] = 1
    kept = 0
    for place in range(size):
        if target[place] == 1:
            values[kept] = values[place]
            cells[kept] = cells[place]
            kept += 1
    return bound


@kernel
def largest(weights, sign, count, values, cells, order, other):
    """The `count` largest of sign * weights, ties by lower cell, in increasing order of cells.

    NaN counts as the largest. values, cells, order and other hold 2 * count + 1 each; the first
    `count` of values and cells are the result. count is at most N.
    """
    N = weights.shape[0]
    size = 0
    full = False
    bound = weights.dtype.type(0)
    for n in range(N):
        value = sign * weights[n]
        if full and value <= bound:
            continue
        values[size] = value
        cells[size] = n
        size += 1
        if size == 2 * count + 1:
            bound = _keep_half(values, cells, size, count, order, other)
            size = count
            full = True
    if size > count:
        _keep_half(values, cells, size, count, order, other)
