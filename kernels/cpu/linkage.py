"""The link matrix of one batch element and write head, by strips of rows, each in one pass.

    L_t[i, j] = (1 - ww_i - ww_j) L[i, j] + ww_i p[j], diagonal 0
    forward_r = L_t wr_r;  backward_r = L_t^T wr_r

L and p are of step t - 1, wr are the read weightings of step t - 1. Column sums of a strip go to
the strip's own partial sums, which the caller adds up in the order of the strips: the result does
not depend on the number of threads.

Shapes: link (N, N), precedence and write_weights (N), read_weights (R, N).
"""

from __future__ import annotations

import numpy as np

from .compile import kernel

STRIP = 256
"""Rows in a strip. Fixed, so that sums are the same however the strips are shared out."""


@kernel
def _update_row(i, link, precedence, write_weights, out):
    """out = row i of L_t."""
    one = link.dtype.type(1)
    row = link[i]
    weight = write_weights[i]
    rest = one - weight
    for j in range(row.shape[0]):
        out[j] = (rest - write_weights[j]) * row[j] + weight * precedence[j]
    out[i] = 0


@kernel
def update_link(first, last, link, precedence, write_weights, new_link):
    """Rows [first, last) of L_t alone, to rebuild it."""
    for i in range(first, last):
        _update_row(i, link, precedence, write_weights, new_link[i])


@kernel
def linkage(
    first, last, link, precedence, write_weights, read_weights, new_link, forward, backward
):
    """Rows [first, last) of L_t; fill forward (R, N) there, backward (R, N) with column sums."""
    zero = link.dtype.type(0)
    R, N = read_weights.shape
    backward[:] = zero
    i = first
    while i + 4 <= last:  # four rows at a time: weights and sums are loaded once for all
        for k in range(4):
            _update_row(i + k, link, precedence, write_weights, new_link[i + k])
        row0, row1, row2, row3 = new_link[i], new_link[i + 1], new_link[i + 2], new_link[i + 3]
        for r in range(R):
            weights, sums = read_weights[r], backward[r]
            w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            t0 = t1 = t2 = t3 = zero
            for j in range(N):
                t0 += row0[j] * weights[j]
                t1 += row1[j] * weights[j]
                t2 += row2[j] * weights[j]
                t3 += row3[j] * weights[j]
                sums[j] += row0[j] * w0 + row1[j] * w1 + row2[j] * w2 + row3[j] * w3
            forward[r, i], forward[r, i + 1] = t0, t1
            forward[r, i + 2], forward[r, i + 3] = t2, t3
        i += 4
    for k in range(i, last):
        _update_row(k, link, precedence, write_weights, new_link[k])
        row0 = new_link[k]
        for r in range(R):
            weights, sums = read_weights[r], backward[r]
            w0 = weights[k]
            t0 = zero
            for j in range(N):
                t0 += row0[j] * weights[j]
                sums[j] += row0[j] * w0
            forward[r, k] = t0


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
):
    """Rows [first, last) of the adjoint, in one pass; L_t is made anew row by row.

    With x = d_read_weights (R, N), the gradient of the read weightings of step t, and
    G = dL_t + sum_r pi_f,r x_r wr_r^T + pi_b,r wr_r x_r^T without its diagonal:

        toward_r = L_t x_r (rows of the strip);  away_r = L_t^T x_r (column sums)
        row_sums = sum_j G (p - L) (rows);  column_sums = sum_i G L;  d_precedence = sum_i ww_i G
        d_link becomes (1 - ww_i - ww_j) G
    """
    zero = link.dtype.type(0)
    one = link.dtype.type(1)
    R, N = read_weights.shape
    away[:] = zero
    column_sums[:] = zero
    d_precedence[:] = zero
    new = np.empty((4, N), link.dtype)
    new0, new1, new2, new3 = new[0], new[1], new[2], new[3]
    # Four rows at a time, as in `linkage`, and each loop writes to one array only: of more, the
    # compiler cannot see that they are apart, and would not vectorise.
    i = first
    while i + 4 <= last:
        for k in range(4):
            _update_row(i + k, link, precedence, write_weights, new[k])
        for r in range(R):
            changes, sums = d_read_weights[r], away[r]
            c0, c1, c2, c3 = changes[i], changes[i + 1], changes[i + 2], changes[i + 3]
            t0 = t1 = t2 = t3 = zero
            for j in range(N):
                t0 += new0[j] * changes[j]
                t1 += new1[j] * changes[j]
                t2 += new2[j] * changes[j]
                t3 += new3[j] * changes[j]
                sums[j] += new0[j] * c0 + new1[j] * c1 + new2[j] * c2 + new3[j] * c3
            toward[r, i], toward[r, i + 1] = t0, t1
            toward[r, i + 2], toward[r, i + 3] = t2, t3
        for k in range(i, i + 4):
            _add_gradient(k, read_weights, d_read_weights, forward_modes, backward_modes, d_link[k])
            row_sums[k] = _row_sum(d_link[k], precedence, link[k])
        a0, a1, a2, a3 = link[i], link[i + 1], link[i + 2], link[i + 3]
        g0, g1, g2, g3 = d_link[i], d_link[i + 1], d_link[i + 2], d_link[i + 3]
        w0, w1 = write_weights[i], write_weights[i + 1]
        w2, w3 = write_weights[i + 2], write_weights[i + 3]
        for j in range(N):
            column_sums[j] += g0[j] * a0[j] + g1[j] * a1[j] + g2[j] * a2[j] + g3[j] * a3[j]
        for j in range(N):
            d_precedence[j] += g0[j] * w0 + g1[j] * w1 + g2[j] * w2 + g3[j] * w3
        for k in range(i, i + 4):
            gradient = d_link[k]
            rest = one - write_weights[k]
            for j in range(N):
                gradient[j] *= rest - write_weights[j]
        i += 4
    for k in range(i, last):
        _update_row(k, link, precedence, write_weights, new0)
        for r in range(R):
            changes, sums = d_read_weights[r], away[r]
            c0 = changes[k]
            t0 = zero
            for j in range(N):
                t0 += new0[j] * changes[j]
                sums[j] += new0[j] * c0
            toward[r, k] = t0
        gradient, row = d_link[k], link[k]
        _add_gradient(k, read_weights, d_read_weights, forward_modes, backward_modes, gradient)
        row_sums[k] = _row_sum(gradient, precedence, row)
        w0 = write_weights[k]
        for j in range(N):
            column_sums[j] += gradient[j] * row[j]
        for j in range(N):
            d_precedence[j] += w0 * gradient[j]
        for j in range(N):
            gradient[j] *= one - w0 - write_weights[j]


@kernel
def _add_gradient(i, read_weights, d_read_weights, forward_modes, backward_modes, gradient):
    """Row i of G: add sum_r pi_f,r x_r wr_r^T + pi_b,r wr_r x_r^T, without the diagonal."""
    R, N = read_weights.shape
    r = 0
    while r + 2 <= R:  # two heads at a time, for fewer passes over the row
        w0, w1 = read_weights[r], read_weights[r + 1]
        x0, x1 = d_read_weights[r], d_read_weights[r + 1]
        a0, a1 = forward_modes[r] * x0[i], forward_modes[r + 1] * x1[i]
        b0, b1 = backward_modes[r] * w0[i], backward_modes[r + 1] * w1[i]
        for j in range(N):
            gradient[j] += a0 * w0[j] + b0 * x0[j] + a1 * w1[j] + b1 * x1[j]
        r += 2
    if r < R:
        w0, x0 = read_weights[r], d_read_weights[r]
        a0, b0 = forward_modes[r] * x0[i], backward_modes[r] * w0[i]
        for j in range(N):
            gradient[j] += a0 * w0[j] + b0 * x0[j]
    gradient[i] = 0


@kernel
def _row_sum(gradient, precedence, row):
    """sum_j G_ij (p_j - L_ij)."""
    total = gradient.dtype.type(0)
    for j in range(row.shape[0]):
        total += gradient[j] * (precedence[j] - row[j])
    return total
