"""The sparse link matrix of a batch element and write head, updated in place.

"Rows" are rows of the link matrix. Each keeps K entries: values and columns (N, K), in increasing
order of columns, then empty places with column -1 and value 0. A step writes to some rows with the
weights `written`, and to the columns `cells` with the weights `precedence`.
"""

from __future__ import annotations

from .compile import kernel

STRIP = 4096
WRITTEN, TOUCHED = 1, 2
"""Bits of `marked`, see `touch`."""


def num_strips(N: int) -> int:
    """How many strips of STRIP rows N rows have."""
    return -(-N // STRIP)


@kernel
def touch(first, last, values, columns, marked, threshold):
    """Mark the rows that a step may change: those it writes to, or with a column it writes to.

    Also rows with an entry below the threshold, which only a link given by a user can have. The
    strips of all heads (H, N, K) have consecutive numbers, of which this takes [first, last).
    marked (H, N) has `WRITTEN` where a row is written to, and gets `TOUCHED` where it may change.
    """
    _, N, K = columns.shape
    strips = -(-N // STRIP)
    for index in range(first, last):
        head, strip = index // strips, index % strips
        for i in range(strip * STRIP, min(strip * STRIP + STRIP, N)):
            found = marked[head, i] & WRITTEN != 0
            k = 0
            while not found and k < K and columns[head, i, k] >= 0:
                found = marked[head, columns[head, i, k]] & WRITTEN != 0
                found = found or (threshold > 0 and values[head, i, k] < threshold)
                k += 1
            if found:
                marked[head, i] |= TOUCHED


@kernel
def _put(value, column, place, new_values, new_columns):
    new_values[place] = value
    new_columns[place] = column
    return place + 1


@kernel
def _write_row(
    i, values, columns, weight, written, cells, precedence, threshold, new_values, new_columns
):
    """Fill in the entries of row i after a step, by increasing columns; return how many."""
    one = values.dtype.type(1)
    count = a = b = 0
    limit = cells.shape[0]
    while True:
        old = columns[a] if a < columns.shape[0] else -1
        new = cells[b] if b < limit else -1
        if old < 0 and new < 0:
            return count
        if new < 0 or (old >= 0 and old <= new):
            column = old
            value = (one - weight - written[old]) * values[a]
            if old == new:
                value += weight * precedence[b]
                b += 1
            a += 1
        else:
            column = new
            value = weight * precedence[b]
            b += 1
        if column != i and not (threshold > 0 and value < threshold):
            count = _put(value, column, count, new_values, new_columns)


@kernel
def _decay_row(values, columns, written, threshold, new_values, new_columns):
    """The same for a row that is not written to, only some of its columns."""
    one = values.dtype.type(1)
    count = 0
    for k in range(columns.shape[0]):
        column = columns[k]
        if column < 0:
            break
        value = (one - written[column]) * values[k]
        if not (threshold > 0 and value < threshold):
            count = _put(value, column, count, new_values, new_columns)
    return count


@kernel
def update(
    first, last, heads, rows, values, columns, marked, written, cells, precedence, threshold,
    new_values, new_columns,
):  # fmt: skip
    """Take the rows [first, last) of a list of (head, row) to the next step, in place.

    new_values and new_columns (n, 2 K) are work space for each row of the list.
    """
    K = values.shape[2]
    zero = values.dtype.type(0)
    for index in range(first, last):
        head, i = heads[index], rows[index]
        row, places = values[head, i], columns[head, i]
        found, at = new_values[index], new_columns[index]
        if marked[head, i] & WRITTEN != 0:
            count = _write_row(
                i, row, places, written[head, i], written[head], cells[head], precedence[head],
                threshold, found, at,
            )  # fmt: skip
        else:
            count = _decay_row(row, places, written[head], threshold, found, at)
        kept = 0
        for k in range(count):
            before = 0
            if count > K:  # keep the K largest, ties by lower column
                for other in range(count):
                    if found[other] > found[k] or (found[other] == found[k] and other < k):
                        before += 1
            if before < K and kept < K:  # NaN comes before nothing
                row[kept] = found[k]
                places[kept] = at[k]
                kept += 1
        for k in range(kept, K):
            row[k] = zero
            places[k] = -1


@kernel
def products(first, last, values, columns, vectors, ahead, behind):
    """ahead = L v and behind = L^T v, (H, R, N) each.

    vectors (B, R, N) belong to batch elements, and H = B Hw. [first, last) are numbers of pairs of
    head and vector.
    """
    H, N, K = values.shape
    B, R, _ = vectors.shape
    zero = values.dtype.type(0)
    for index in range(first, last):
        head, r = index // R, index % R
        vector = vectors[head // (H // B), r]
        forward, backward = ahead[head, r], behind[head, r]
        for i in range(N):
            backward[i] = zero
        for i in range(N):
            total = zero
            weight = vector[i]
            for k in range(K):
                column = columns[head, i, k]
                if column < 0:
                    break
                value = values[head, i, k]
                total += value * vector[column]
                backward[column] += value * weight
            forward[i] = total


@kernel
def gradient(first, last, columns, d_read, last_read, modes, d_values):
    """Add to d_values what both directional weightings add; strips are numbered as in `touch`.

    modes (H, R, 2) are the read modes forward and backward of each head.
    """
    H, N, K = columns.shape
    B, R, _ = d_read.shape
    strips = -(-N // STRIP)
    for index in range(first, last):
        head, strip = index // strips, index % strips
        b = head // (H // B)
        for i in range(strip * STRIP, min(strip * STRIP + STRIP, N)):
            for k in range(K):
                column = columns[head, i, k]
                if column < 0:
                    break
                total = d_values[head, i, k]
                for r in range(R):
                    total += modes[head, r, 0] * d_read[b, r, i] * last_read[b, r, column]
                    total += modes[head, r, 1] * last_read[b, r, i] * d_read[b, r, column]
                d_values[head, i, k] = total
