"""The link matrix of one batch element and write head, in one pass over strips of its rows.

    L_t[i, j] = (1 - ww_i - ww_j) L[i, j] + ww_i p[j], diagonal 0
    forward_r = L_t wr_r;  backward_r = L_t^T wr_r

L, p and the read weightings wr are those of step t - 1. Each strip stores its own partial
column sums; the caller adds them up in the order of the strips, so that the result does not depend
on the number of threads.

Shapes: link (N, N), precedence and write_weights (N), read_weights (R, N).
"""

from __future__ import annotations

from .compile import apart, kernel

STRIP = 256
"""Rows in a strip; fixed, so that sums do not depend on how strips are shared among threads."""


@kernel
def _update_row(i, link, precedence, write_weights, out, k):
    """Row k of out = row i of L_t."""
    weight = write_weights[i]
    rest = link.dtype.type(1) - weight
    for j in range(precedence.shape[0]):
        out[k, j] = (rest - write_weights[j]) * link[i, j] + weight * precedence[j]
    out[k, i] = 0


@kernel
def update_link(first, last, link, precedence, write_weights, new_link):
    """Rows [first, last) of L_t without anything else, to rebuild it."""
    for i in range(first, last):
        _update_row(i, link, precedence, write_weights, new_link, i)


# Each loop over j takes four rows at a time, so that weights and sums are loaded once for all four.
# The rows are arguments of their own, so that the compiler may assume that they do not overlap.


@apart
def _update_rows(x0, x1, x2, x3, precedence, write_weights, w0, w1, w2, w3, out0, out1, out2, out3):
    """out = rows of L_t except the diagonal, from rows x of L and their write weights w."""
    one = precedence.dtype.type(1)
    rest0, rest1, rest2, rest3 = one - w0, one - w1, one - w2, one - w3
    for j in range(precedence.shape[0]):
        out0[j] = (rest0 - write_weights[j]) * x0[j] + w0 * precedence[j]
        out1[j] = (rest1 - write_weights[j]) * x1[j] + w1 * precedence[j]
        out2[j] = (rest2 - write_weights[j]) * x2[j] + w2 * precedence[j]
        out3[j] = (rest3 - write_weights[j]) * x3[j] + w3 * precedence[j]


@apart
def _sums_of_rows(x0, x1, x2, x3, weights, w0, w1, w2, w3, dots, sums):
    """dots[m] = x_m . weights;  sums += sum_m w_m x_m."""
    t0 = t1 = t2 = t3 = weights.dtype.type(0)
    for j in range(weights.shape[0]):
        t0 += x0[j] * weights[j]
        t1 += x1[j] * weights[j]
        t2 += x2[j] * weights[j]
        t3 += x3[j] * weights[j]
        sums[j] += x0[j] * w0 + x1[j] * w1 + x2[j] * w2 + x3[j] * w3
    dots[0], dots[1], dots[2], dots[3] = t0, t1, t2, t3


@apart
def _add_gradients(g0, g1, g2, g3, i, read, d_read, other, d_other, modes, other_modes):
    """Add pi_f x_i wr + pi_b wr_i x of two read heads to rows of G; modes are pi_f, pi_b."""
    a0, a1 = modes[0] * d_read[i], modes[0] * d_read[i + 1]
    a2, a3 = modes[0] * d_read[i + 2], modes[0] * d_read[i + 3]
    b0, b1 = modes[1] * read[i], modes[1] * read[i + 1]
    b2, b3 = modes[1] * read[i + 2], modes[1] * read[i + 3]
    c0, c1 = other_modes[0] * d_other[i], other_modes[0] * d_other[i + 1]
    c2, c3 = other_modes[0] * d_other[i + 2], other_modes[0] * d_other[i + 3]
    d0, d1 = other_modes[1] * other[i], other_modes[1] * other[i + 1]
    d2, d3 = other_modes[1] * other[i + 2], other_modes[1] * other[i + 3]
    for j in range(read.shape[0]):
        g0[j] += a0 * read[j] + b0 * d_read[j] + c0 * other[j] + d0 * d_other[j]
        g1[j] += a1 * read[j] + b1 * d_read[j] + c1 * other[j] + d1 * d_other[j]
        g2[j] += a2 * read[j] + b2 * d_read[j] + c2 * other[j] + d2 * d_other[j]
        g3[j] += a3 * read[j] + b3 * d_read[j] + c3 * other[j] + d3 * d_other[j]


@apart
def _add_gradient(g0, g1, g2, g3, i, read, d_read, modes):
    """The same for one read head."""
    a0, a1 = modes[0] * d_read[i], modes[0] * d_read[i + 1]
    a2, a3 = modes[0] * d_read[i + 2], modes[0] * d_read[i + 3]
    b0, b1 = modes[1] * read[i], modes[1] * read[i + 1]
    b2, b3 = modes[1] * read[i + 2], modes[1] * read[i + 3]
    for j in range(read.shape[0]):
        g0[j] += a0 * read[j] + b0 * d_read[j]
        g1[j] += a1 * read[j] + b1 * d_read[j]
        g2[j] += a2 * read[j] + b2 * d_read[j]
        g3[j] += a3 * read[j] + b3 * d_read[j]


@apart
def _take_gradients(
    g0, g1, g2, g3, x0, x1, x2, x3, precedence, write_weights, w0, w1, w2, w3, row_sums,
    column_sums, d_precedence,
):  # fmt: skip
    """Add to the sums from rows of G, and x of L; then G becomes (1 - ww_i - ww_j) G."""
    one = precedence.dtype.type(1)
    rest0, rest1, rest2, rest3 = one - w0, one - w1, one - w2, one - w3
    t0 = t1 = t2 = t3 = precedence.dtype.type(0)
    for j in range(precedence.shape[0]):
        y0, y1, y2, y3 = g0[j], g1[j], g2[j], g3[j]
        column_sums[j] += y0 * x0[j] + y1 * x1[j] + y2 * x2[j] + y3 * x3[j]
        d_precedence[j] += y0 * w0 + y1 * w1 + y2 * w2 + y3 * w3
        t0 += y0 * (precedence[j] - x0[j])
        t1 += y1 * (precedence[j] - x1[j])
        t2 += y2 * (precedence[j] - x2[j])
        t3 += y3 * (precedence[j] - x3[j])
        g0[j] = y0 * (rest0 - write_weights[j])
        g1[j] = y1 * (rest1 - write_weights[j])
        g2[j] = y2 * (rest2 - write_weights[j])
        g3[j] = y3 * (rest3 - write_weights[j])
    row_sums[0], row_sums[1], row_sums[2], row_sums[3] = t0, t1, t2, t3


# The remaining rows are taken one at a time.


@kernel
def _sums_of_row(k, rows, i, weights, dots, sums):
    """For each read head r: dots[r, i] = rows[k] . weights[r], sums[r] += weights[r, i] rows[k]."""
    for r in range(weights.shape[0]):
        w0 = weights[r, i]
        total = rows.dtype.type(0)
        for j in range(weights.shape[1]):
            total += rows[k, j] * weights[r, j]
        for j in range(weights.shape[1]):
            sums[r, j] += rows[k, j] * w0
        dots[r, i] = total


@kernel
def _take_gradient_of_row(
    i, link, precedence, write_weights, read_weights, d_read_weights, modes, d_link, row_sums,
    column_sums, d_precedence,
):  # fmt: skip
    """Row i of G: add to the sums from it; then it becomes (1 - ww_i - ww_j) G."""
    N = precedence.shape[0]
    for r in range(read_weights.shape[0]):
        ahead, behind = modes[r, 0] * d_read_weights[r, i], modes[r, 1] * read_weights[r, i]
        for j in range(N):
            d_link[i, j] += ahead * read_weights[r, j] + behind * d_read_weights[r, j]
    d_link[i, i] = 0
    weight = write_weights[i]
    rest = d_link.dtype.type(1) - weight
    total = link.dtype.type(0)
    for j in range(N):
        total += d_link[i, j] * (precedence[j] - link[i, j])
    row_sums[i] = total
    for j in range(N):
        column_sums[j] += d_link[i, j] * link[i, j]
    for j in range(N):
        d_precedence[j] += d_link[i, j] * weight
    for j in range(N):
        d_link[i, j] *= rest - write_weights[j]


@kernel
def linkage(
    first, last, link, precedence, write_weights, read_weights, new_link, forward, backward
):
    """Fill rows [first, last) of L_t, these cells of forward (R, N), and backward (R, N).

    backward gets the column sums of these rows.
    """
    R, N = read_weights.shape
    for r in range(R):
        for j in range(N):
            backward[r, j] = link.dtype.type(0)
    fours = last - (last - first) % 4
    for i in range(first, fours, 4):
        y0, y1, y2, y3 = new_link[i], new_link[i + 1], new_link[i + 2], new_link[i + 3]
        _update_rows(
            link[i], link[i + 1], link[i + 2], link[i + 3], precedence, write_weights,
            write_weights[i], write_weights[i + 1], write_weights[i + 2], write_weights[i + 3],
            y0, y1, y2, y3,
        )  # fmt: skip
        y0[i] = y1[i + 1] = y2[i + 2] = y3[i + 3] = 0
        for r in range(R):
            weights = read_weights[r]
            _sums_of_rows(
                y0, y1, y2, y3, weights, weights[i], weights[i + 1], weights[i + 2], weights[i + 3],
                forward[r, i : i + 4], backward[r],
            )  # fmt: skip
    for i in range(fours, last):
        _update_row(i, link, precedence, write_weights, new_link, i)
        _sums_of_row(i, new_link, i, read_weights, forward, backward)


@kernel
def linkage_backward(
    first, last, link, precedence, write_weights, read_weights, d_read_weights, modes, d_link,
    toward, away, row_sums, column_sums, d_precedence, new,
):  # fmt: skip
    """Rows [first, last) of the adjoint, in one pass; L_t is rebuilt row by row.

    With x = d_read_weights (R, N), the gradient of the read weightings of step t, and
    G = dL_t + sum_r pi_f,r x_r wr_r^T + pi_b,r wr_r x_r^T without its diagonal:

        toward_r = L_t x_r (rows of the strip);  away_r = L_t^T x_r (column sums)
        row_sums = sum_j G (p - L) (rows);  column_sums = sum_i G L;  d_precedence = sum_i ww_i G
        d_link becomes (1 - ww_i - ww_j) G

    modes (R, 2) are pi_f and pi_b; new (4, N) is work space for rows of L_t.
    """
    zero = link.dtype.type(0)
    R, N = read_weights.shape
    for r in range(R):
        for j in range(N):
            away[r, j] = zero
    for j in range(N):
        column_sums[j] = zero
    for j in range(N):
        d_precedence[j] = zero
    y0, y1, y2, y3 = new[0], new[1], new[2], new[3]
    fours = last - (last - first) % 4
    for i in range(first, fours, 4):
        w0, w1 = write_weights[i], write_weights[i + 1]
        w2, w3 = write_weights[i + 2], write_weights[i + 3]
        x0, x1, x2, x3 = link[i], link[i + 1], link[i + 2], link[i + 3]
        g0, g1, g2, g3 = d_link[i], d_link[i + 1], d_link[i + 2], d_link[i + 3]
        _update_rows(
            x0, x1, x2, x3, precedence, write_weights, w0, w1, w2, w3, y0, y1, y2, y3
        )  # fmt: skip
        y0[i] = y1[i + 1] = y2[i + 2] = y3[i + 3] = 0
        for r in range(R):
            changes = d_read_weights[r]
            _sums_of_rows(
                y0, y1, y2, y3, changes, changes[i], changes[i + 1], changes[i + 2], changes[i + 3],
                toward[r, i : i + 4], away[r],
            )  # fmt: skip
        for r in range(0, R - 1, 2):
            _add_gradients(
                g0, g1, g2, g3, i, read_weights[r], d_read_weights[r], read_weights[r + 1],
                d_read_weights[r + 1], modes[r], modes[r + 1],
            )  # fmt: skip
        if R % 2:
            r = R - 1
            _add_gradient(g0, g1, g2, g3, i, read_weights[r], d_read_weights[r], modes[r])
        g0[i] = g1[i + 1] = g2[i + 2] = g3[i + 3] = 0
        _take_gradients(
            g0, g1, g2, g3, x0, x1, x2, x3, precedence, write_weights, w0, w1, w2, w3,
            row_sums[i : i + 4], column_sums, d_precedence,
        )  # fmt: skip
    for i in range(fours, last):
        _update_row(i, link, precedence, write_weights, new, 0)
        _sums_of_row(0, new, i, d_read_weights, toward, away)
        _take_gradient_of_row(
            i, link, precedence, write_weights, read_weights, d_read_weights, modes, d_link,
            row_sums, column_sums, d_precedence,
        )  # fmt: skip
