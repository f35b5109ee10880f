"""Products of a few row vectors with a matrix, for use inside kernels."""

from __future__ import annotations

from .compile import in_order, kernel

TILE = 1024
"""Columns per tile: two rows of sums stay in the first-level cache."""


@in_order
def _add_to_two(x, y, w0, w1, w2, w3, w4, w5, w6, w7, x_sums, y_sums):
    """Add to two rows of sums: eight numbers of x, and of y, times eight rows of the matrix."""
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    y0, y1, y2, y3, y4, y5, y6, y7 = y[0], y[1], y[2], y[3], y[4], y[5], y[6], y[7]
    for j in range(x_sums.shape[0]):
        s, t = x_sums[j], y_sums[j]
        s, t = s + x0 * w0[j], t + y0 * w0[j]
        s, t = s + x1 * w1[j], t + y1 * w1[j]
        s, t = s + x2 * w2[j], t + y2 * w2[j]
        s, t = s + x3 * w3[j], t + y3 * w3[j]
        s, t = s + x4 * w4[j], t + y4 * w4[j]
        s, t = s + x5 * w5[j], t + y5 * w5[j]
        s, t = s + x6 * w6[j], t + y6 * w6[j]
        s, t = s + x7 * w7[j], t + y7 * w7[j]
        x_sums[j], y_sums[j] = s, t


@in_order
def _add(x, weights, sums):
    """Add the product of a number and a row of the matrix to a row of sums."""
    for j in range(sums.shape[0]):
        sums[j] += x * weights[j]


@kernel
def add_product(rows, first, matrix, out, out_first, count):
    """For m < count: out[out_first + m] += rows[first + m, :K] @ matrix, with matrix (K, columns).

    Eight rows of the matrix at a time are multiplied with two rows after another. The sum of a row
    does not depend on the other rows.
    """
    K, columns = matrix.shape
    for start in range(0, columns, TILE):
        stop = min(start + TILE, columns)
        twos = count - count % 2
        whole = K - K % 8
        for k in range(0, whole, 8):
            w0, w1 = matrix[k, start:stop], matrix[k + 1, start:stop]
            w2, w3 = matrix[k + 2, start:stop], matrix[k + 3, start:stop]
            w4, w5 = matrix[k + 4, start:stop], matrix[k + 5, start:stop]
            w6, w7 = matrix[k + 6, start:stop], matrix[k + 7, start:stop]
            for m in range(0, twos, 2):
                x, y = rows[first + m, k : k + 8], rows[first + m + 1, k : k + 8]
                x_sums, y_sums = out[out_first + m, start:stop], out[out_first + m + 1, start:stop]
                _add_to_two(x, y, w0, w1, w2, w3, w4, w5, w6, w7, x_sums, y_sums)
        for m in range(count):
            for k in range(whole if m < twos else 0, K):
                _add(rows[first + m, k], matrix[k, start:stop], out[out_first + m, start:stop])
