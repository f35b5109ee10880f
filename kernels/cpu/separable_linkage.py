"""The separable link: passes over its writes, for one strip of cells at a time.

    L_t = sum_s A_s C_s^T without its diagonal;  A_s = ww_s g_s;  C_s = p_{s-1} g_s
    g_s = prod over the writes k after s of (1 - ww_k)

Shapes: write and precedence (S, B, Hw, N). The strips of all batch elements and write heads have
consecutive numbers. Dot products with A_s and C_s are stored as a part per strip; the caller adds
up the parts in order.
"""

from __future__ import annotations

from .compile import kernel

STRIP = 1024
"""Cells in a strip."""


def num_strips(N: int) -> int:
    """How many strips N cells have."""
    return -(-N // STRIP)


@kernel
def _part(index, Hw, N):
    """Batch element, write head, strip within them, and the range of cells of a strip."""
    count = -(-N // STRIP)
    head, strip = index // count, index % count
    return head // Hw, head % Hw, strip, strip * STRIP, min(strip * STRIP + STRIP, N)


@kernel
def dots(first, last, write, precedence, vectors, left, out):
    """out (strips, S, R, 2) = C_s.v and A_s.v of each strip; left (strips, STRIP) will hold g."""
    S, _, Hw, N = write.shape
    one = write.dtype.type(1)
    for index in range(first, last):
        b, h, _, start, stop = _part(index, Hw, N)
        g = left[index, : stop - start]
        for n in range(g.shape[0]):
            g[n] = one
        for s in range(S - 1, -1, -1):
            w, p = write[s, b, h, start:stop], precedence[s, b, h, start:stop]
            for r in range(vectors.shape[1]):
                v = vectors[b, r, start:stop]
                column = row = write.dtype.type(0)
                for n in range(g.shape[0]):
                    column += p[n] * g[n] * v[n]
                for n in range(g.shape[0]):
                    row += w[n] * g[n] * v[n]
                out[index, s, r, 0] = column
                out[index, s, r, 1] = row
            for n in range(g.shape[0]):
                g[n] *= one - w[n]


@kernel
def combine(first, last, write, precedence, vectors, sums, left, diagonal, ahead, behind):
    """ahead = L v and behind = L^T v, (B, Hw, R, N) each.

    sums (B Hw, S, R, 2) are the dots of all strips; left, diagonal (strips, STRIP) are work space.
    """
    S, _, Hw, N = write.shape
    one, zero = write.dtype.type(1), write.dtype.type(0)
    for index in range(first, last):
        b, h, _, start, stop = _part(index, Hw, N)
        count = stop - start
        g, same = left[index, :count], diagonal[index, :count]
        for n in range(count):
            g[n] = one
            same[n] = zero
        for r in range(vectors.shape[1]):
            for n in range(count):
                ahead[b, h, r, start + n] = zero
                behind[b, h, r, start + n] = zero
        for s in range(S - 1, -1, -1):
            w, p = write[s, b, h, start:stop], precedence[s, b, h, start:stop]
            for r in range(vectors.shape[1]):
                to, fro = sums[b * Hw + h, s, r, 0], sums[b * Hw + h, s, r, 1]
                forward, backward = ahead[b, h, r, start:stop], behind[b, h, r, start:stop]
                for n in range(count):
                    forward[n] += to * w[n] * g[n]
                for n in range(count):
                    backward[n] += fro * p[n] * g[n]
            for n in range(count):
                same[n] += w[n] * p[n] * g[n] * g[n]
            for n in range(count):
                g[n] *= one - w[n]
        for r in range(vectors.shape[1]):
            v = vectors[b, r, start:stop]
            forward, backward = ahead[b, h, r, start:stop], behind[b, h, r, start:stop]
            for n in range(count):
                forward[n] -= same[n] * v[n]
            for n in range(count):
                backward[n] -= same[n] * v[n]


@kernel
def gradients(
    first, last, starts, write, precedence, d_read, last_read, modes, sums, d_sums, left, room,
    d_write, d_precedence,
):  # fmt: skip
    """Add to d_write and d_precedence (S, B, Hw, N); see reference/separable_linkage.py.

    sums and d_sums (B Hw, S, R, 2) are the dots with the read weightings of the previous step, and
    with the gradient of those of this step. modes (B, Hw, R, 2). left (ranges, S, STRIP) and room
    (ranges, 4, STRIP) are work space for each of the ranges that begin at `starts`.
    """
    S, _, Hw, N = write.shape
    R = d_read.shape[1]
    one, zero = write.dtype.type(1), write.dtype.type(0)
    place = 0
    while starts[place] != first:
        place += 1
    for index in range(first, last):
        b, h, _, start, stop = _part(index, Hw, N)
        count = stop - start
        d_left, diagonal = room[place, 0, :count], room[place, 1, :count]
        d_row, d_column = room[place, 2, :count], room[place, 3, :count]
        for n in range(count):
            left[place, S - 1, n] = one
            d_left[n] = zero
            diagonal[n] = zero
        for s in range(S - 1, 0, -1):
            w = write[s, b, h, start:stop]
            for n in range(count):
                left[place, s - 1, n] = left[place, s, n] * (one - w[n])
        for r in range(R):
            both = modes[b, h, r, 0] + modes[b, h, r, 1]
            change, before = d_read[b, r, start:stop], last_read[b, r, start:stop]
            for n in range(count):
                diagonal[n] += both * change[n] * before[n]
        for s in range(S):
            w, p = write[s, b, h, start:stop], precedence[s, b, h, start:stop]
            g = left[place, s, :count]
            for n in range(count):
                d_row[n] = -p[n] * g[n] * diagonal[n]
                d_column[n] = -w[n] * g[n] * diagonal[n]
            for r in range(R):
                forward, backward = modes[b, h, r, 0], modes[b, h, r, 1]
                change, before = d_read[b, r, start:stop], last_read[b, r, start:stop]
                head = b * Hw + h
                row_change = forward * sums[head, s, r, 0]
                row_before = backward * d_sums[head, s, r, 0]
                column_before = forward * d_sums[head, s, r, 1]
                column_change = backward * sums[head, s, r, 1]
                for n in range(count):
                    d_row[n] += row_change * change[n] + row_before * before[n]
                for n in range(count):
                    d_column[n] += column_before * before[n] + column_change * change[n]
            d_w, d_p = d_write[s, b, h, start:stop], d_precedence[s, b, h, start:stop]
            for n in range(count):
                d_w[n] += g[n] * (d_row[n] - d_left[n])
            for n in range(count):
                d_p[n] += g[n] * d_column[n]
            for n in range(count):
                d_left[n] = w[n] * d_row[n] + p[n] * d_column[n] + (one - w[n]) * d_left[n]
