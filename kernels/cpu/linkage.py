"""The link matrix of one batch element and write head, by strips of rows, each in one pass.

    L_t[i, j] = (1 - ww_i - ww_j) L[i, j] + ww_i p[j], diagonal 0
    forward_r = L_t wr_r;  backward_r = L_t^T wr_r

L and p are of step t - 1, wr are the read weightings of step t - 1. Column sums of a strip go to
the strip's own partial sums, which the caller adds up in the order of the strips: the result does
not depend on the number of threads.

Shapes: link (N, N), precedence and write_weights (N), read_weights (R, N).
"""

from __future__ import annotations

from .compile import kernel

STRIP = 256
"""Rows in a strip. Fixed, so that sums are the same however the strips are shared out."""


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
    """Rows [first, last) of L_t alone, to rebuild it."""
    for i in range(first, last):
        _update_row(i, link, precedence, write_weights, new_link, i)


# In the loops below rows are named by their numbers, not by views of them, which Numba would count
# references to; four rows go at a time, so that weights and sums are loaded once for all; and each
# loop over j writes to one array only: of more, the compiler cannot see that they are apart, and
# would not vectorise.


@kernel
def _sums_of_rows(k, rows, i, weights, dots, sums):
    """For m < 4: dots[r, i + m] = rows[k + m].weights[r]; sums[r] += weights[r, i + m] rows[k + m].

    rows may hold rows of the link matrix from its first on (k = i) or a few of them (k = 0).
    """
    zero = rows.dtype.type(0)
    for r in range(weights.shape[0]):
        w0, w1, w2, w3 = weights[r, i], weights[r, i + 1], weights[r, i + 2], weights[r, i + 3]
        t0 = t1 = t2 = t3 = zero
        for j in range(weights.shape[1]):
            weight = weights[r, j]
            x0, x1, x2, x3 = rows[k, j], rows[k + 1, j], rows[k + 2, j], rows[k + 3, j]
            t0 += x0 * weight
            t1 += x1 * weight
            t2 += x2 * weight
            t3 += x3 * weight
            sums[r, j] += x0 * w0 + x1 * w1 + x2 * w2 + x3 * w3
        dots[r, i], dots[r, i + 1], dots[r, i + 2], dots[r, i + 3] = t0, t1, t2, t3


@kernel
def _sums_of_row(k, rows, i, weights, dots, sums):
    """The same for one row."""
    for r in range(weights.shape[0]):
        w0 = weights[r, i]
        total = rows.dtype.type(0)
        for j in range(weights.shape[1]):
            total += rows[k, j] * weights[r, j]
            sums[r, j] += rows[k, j] * w0
        dots[r, i] = total


@kernel
def linkage(
    first, last, link, precedence, write_weights, read_weights, new_link, forward, backward
):
    """Rows [first, last) of L_t; fill forward (R, N) there, backward (R, N) with column sums."""
    for r in range(backward.shape[0]):
        for j in range(backward.shape[1]):
            backward[r, j] = link.dtype.type(0)
    fours = last - (last - first) % 4
    for i in range(first, fours, 4):
        for k in range(i, i + 4):
            _update_row(k, link, precedence, write_weights, new_link, k)
        _sums_of_rows(i, new_link, i, read_weights, forward, backward)
    for i in range(fours, last):
        _update_row(i, link, precedence, write_weights, new_link, i)
        _sums_of_row(i, new_link, i, read_weights, forward, backward)


@kernel
def _add_gradient(i, read_weights, d_read_weights, forward_modes, backward_modes, d_link):
    """Row i of G: add sum_r pi_f,r x_r wr_r^T + pi_b,r wr_r x_r^T, without the diagonal."""
    R, N = read_weights.shape
    for r in range(0, R - 1, 2):  # two heads at a time, for fewer passes over the row
        q = r + 1
        a0, a1 = forward_modes[r] * d_read_weights[r, i], forward_modes[q] * d_read_weights[q, i]
        b0, b1 = backward_modes[r] * read_weights[r, i], backward_modes[q] * read_weights[q, i]
        for j in range(N):
            d_link[i, j] += (
                a0 * read_weights[r, j]
                + b0 * d_read_weights[r, j]
                + a1 * read_weights[q, j]
                + b1 * d_read_weights[q, j]
            )
    if R % 2:
        r = R - 1
        a0, b0 = forward_modes[r] * d_read_weights[r, i], backward_modes[r] * read_weights[r, i]
        for j in range(N):
            d_link[i, j] += a0 * read_weights[r, j] + b0 * d_read_weights[r, j]
    d_link[i, i] = 0


@kernel
def _row_sum(i, d_link, precedence, link):
    """sum_j G_ij (p_j - L_ij)."""
    total = link.dtype.type(0)
    for j in range(precedence.shape[0]):
        total += d_link[i, j] * (precedence[j] - link[i, j])
    return total


@kernel
def _scale_row(i, d_link, write_weights):
    """Row i of (1 - ww_i - ww_j) G."""
    rest = d_link.dtype.type(1) - write_weights[i]
    for j in range(write_weights.shape[0]):
        d_link[i, j] *= rest - write_weights[j]


@kernel
def linkage_backward(
    first,
    last,
    link,
    precedence,
    write_weights,
    read_weights,
    d_read_weights,
    forward_modes,
    backward_modes,
    d_link,
    toward,
    away,
    row_sums,
    column_sums,
    d_precedence,
    new,
):
    """Rows [first, last) of the adjoint, in one pass; L_t is made anew row by row.

    With x = d_read_weights (R, N), the gradient of the read weightings of step t, and
    G = dL_t + sum_r pi_f,r x_r wr_r^T + pi_b,r wr_r x_r^T without its diagonal:

        toward_r = L_t x_r (rows of the strip);  away_r = L_t^T x_r (column sums)
        row_sums = sum_j G (p - L) (rows);  column_sums = sum_i G L;  d_precedence = sum_i ww_i G
        d_link becomes (1 - ww_i - ww_j) G

    new (4, N) is room for rows of L_t.
    """
    zero = link.dtype.type(0)
    N = precedence.shape[0]
    for r in range(away.shape[0]):
        for j in range(N):
            away[r, j] = zero
    for j in range(N):
        column_sums[j] = zero
    for j in range(N):
        d_precedence[j] = zero
    fours = last - (last - first) % 4
    for i in range(first, fours, 4):
        for k in range(4):
            _update_row(i + k, link, precedence, write_weights, new, k)
        _sums_of_rows(0, new, i, d_read_weights, toward, away)
        for k in range(i, i + 4):
            _add_gradient(k, read_weights, d_read_weights, forward_modes, backward_modes, d_link)
            row_sums[k] = _row_sum(k, d_link, precedence, link)
        for j in range(N):
            column_sums[j] += (
                d_link[i, j] * link[i, j]
                + d_link[i + 1, j] * link[i + 1, j]
                + d_link[i + 2, j] * link[i + 2, j]
                + d_link[i + 3, j] * link[i + 3, j]
            )
        w0, w1 = write_weights[i], write_weights[i + 1]
        w2, w3 = write_weights[i + 2], write_weights[i + 3]
        for j in range(N):
            d_precedence[j] += (
                d_link[i, j] * w0
                + d_link[i + 1, j] * w1
                + d_link[i + 2, j] * w2
                + d_link[i + 3, j] * w3
            )
        for k in range(i, i + 4):
            _scale_row(k, d_link, write_weights)
    for i in range(fours, last):
        _update_row(i, link, precedence, write_weights, new, 0)
        _sums_of_row(0, new, i, d_read_weights, toward, away)
        _add_gradient(i, read_weights, d_read_weights, forward_modes, backward_modes, d_link)
        row_sums[i] = _row_sum(i, d_link, precedence, link)
        weight = write_weights[i]
        for j in range(N):
            column_sums[j] += d_link[i, j] * link[i, j]
        for j in range(N):
            d_precedence[j] += d_link[i, j] * weight
        _scale_row(i, d_link, write_weights)
