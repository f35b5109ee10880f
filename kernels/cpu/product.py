"""Products of a few rows with a matrix, for use inside of kernels."""

from __future__ import annotations

from .compile import kernel

TILE = 256
"""Columns that are worked on at a time: a few rows of them stay in the nearest cache."""


@kernel
def add_product(rows, first, matrix, out, out_first, count):
    """For m < count: out[out_first + m] += rows[first + m, :K] @ matrix, with matrix (K, columns).

    Eight rows of the matrix at a time are held against one row of the result after another. A row's
    sum does not depend on what other rows there are.
    """
    K, columns = matrix.shape
    whole = K - K % 8
    for start in range(0, columns, TILE):
        stop = min(start + TILE, columns)
        for k in range(0, whole, 8):
            w0, w1 = matrix[k, start:stop], matrix[k + 1, start:stop]
            w2, w3 = matrix[k + 2, start:stop], matrix[k + 3, start:stop]
            w4, w5 = matrix[k + 4, start:stop], matrix[k + 5, start:stop]
            w6, w7 = matrix[k + 6, start:stop], matrix[k + 7, start:stop]
            for m in range(count):
                row, sums = rows[first + m, k : k + 8], out[out_first + m, start:stop]
                x0, x1, x2, x3 = row[0], row[1], row[2], row[3]
                x4, x5, x6, x7 = row[4], row[5], row[6], row[7]
                for j in range(sums.shape[0]):
                    sums[j] += (
                        x0 * w0[j]
                        + x1 * w1[j]
                        + x2 * w2[j]
                        + x3 * w3[j]
                        + x4 * w4[j]
                        + x5 * w5[j]
                        + x6 * w6[j]
                        + x7 * w7[j]
                    )
        for k in range(whole, K):
            weights = matrix[k, start:stop]
            for m in range(count):
                x, sums = rows[first + m, k], out[out_first + m, start:stop]
                for j in range(sums.shape[0]):
                    sums[j] += x * weights[j]
