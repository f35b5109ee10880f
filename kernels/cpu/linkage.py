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
    while i + 4 <= last:  # four rows at a time, so that weights and sums are loaded once for four
        for k in range(4):
            _update_row(i + k, link, precedence, write_weights, new_link[i + k])
        row0, row1, row2, row3 = new_link[i], new_link[i + 1], new_link[i + 2], new_link[i + 3]
        for r in range(R):
            weights, sums = read_weights[r], backward[r]
            w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            f0 = f1 = f2 = f3 = zero
            for j in range(N):
                f0 += row0[j] * weights[j]
                f1 += row1[j] * weights[j]
                f2 += row2[j] * weights[j]
                f3 += row3[j] * weights[j]
                sums[j] += row0[j] * w0 + row1[j] * w1 + row2[j] * w2 + row3[j] * w3
            forward[r, i], forward[r, i + 1] = f0, f1
            forward[r, i + 2], forward[r, i + 3] = f2, f3
        i += 4
    for i in range(i, last):
        row = new_link[i]
        _update_row(i, link, precedence, write_weights, row)
        for r in range(R):
            weights, sums = read_weights[r], backward[r]
            w0 = weights[i]
            f0 = zero
            for j in range(N):
                f0 += row[j] * weights[j]
                sums[j] += row[j] * w0
            forward[r, i] = f0


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
    new_row = np.empty(N, link.dtype)
    for i in range(first, last):
        _update_row(i, link, precedence, write_weights, new_row)
        row, gradient = link[i], d_link[i]
        for r in range(R):
            weights, changes, sums = read_weights[r], d_read_weights[r], away[r]
            change = changes[i]
            ahead = forward_modes[r] * change
            behind = backward_modes[r] * weights[i]
            total = zero
            for j in range(N):
                gradient[j] += ahead * weights[j] + behind * changes[j]
                total += new_row[j] * changes[j]
                sums[j] += new_row[j] * change
            toward[r, i] = total
        gradient[i] = zero
        weight = write_weights[i]
        rest = one - weight
        total = zero
        for j in range(N):
            product = gradient[j] * row[j]
            total += gradient[j] * precedence[j] - product
            column_sums[j] += product
            d_precedence[j] += weight * gradient[j]
            gradient[j] *= rest - write_weights[j]
        row_sums[i] = total
