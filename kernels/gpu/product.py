"""Products of a few rows with a weight matrix, a tile of the result per program.

A program finds (MB, N): MB rows a (rows, inner) times N lines or columns of w. The inner dimension
is taken KS slices of BK at a time; each slice is multiplied separately, `tl.dot` with the slices as
a batch, so that every warp has one, and the slices are added up at the end, in a fixed order. HOW:

| value  | product                                                                             |
|--------|-------------------------------------------------------------------------------------|
| tf32x3 | tensor cores; each operand in two parts, three products: as exact as float32        |
| ieee   | operands widened to DTYPE, one rounding for each product                            |
| half   | tensor cores; operands in the weights' dtype, float16 or bfloat16; sums in float32  |
| row    | MB = 1, KS = 1: multiplied number by number, in any dtype; sums in DTYPE            |
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def empty_sum(
    MB: tl.constexpr, N: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr,
    HOW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Zeros, to which products are added."""
    if HOW == "row":
        return tl.zeros((BK, N), DTYPE)
    else:
        return tl.zeros((KS, MB, N), DTYPE)


@triton.jit
def whole_sum(found, HOW: tl.constexpr):
    """The (MB, N) that products were added to."""
    if HOW == "row":
        return tl.sum(found, 0)[None, :]
    else:
        return tl.sum(found, 0)


@triton.jit
def add_product(found, a, w, HOW: tl.constexpr, DTYPE: tl.constexpr):
    """found + a w for each slice, (KS, MB, BK) times (KS, BK, N)."""
    if HOW == "ieee":
        # In the weights' dtype first: what a product in half precision would be given.
        a, w = a.to(w.dtype).to(DTYPE), w.to(DTYPE)
        return tl.dot(a, w, found, input_precision="ieee", out_dtype=DTYPE)
    elif HOW == "half":
        return tl.dot(a.to(w.dtype), w, found)
    else:
        return tl.dot(a, w, found, input_precision=HOW)


@triton.jit
def load_rows(a, stride, row0, rows, k, end, MB: tl.constexpr):
    """(KS, MB, BK) of a (rows, inner) from row0 on, 0 from `end` on."""
    row = row0 + tl.arange(0, MB)
    place = a + row[None, :, None] * stride + k[:, None, :]
    return tl.load(place, mask=(row < rows)[None, :, None] & (k < end)[:, None, :], other=0.0)


@triton.jit
def inner(KS: tl.constexpr, BK: tl.constexpr):
    """(KS, BK): the inner indices of the slices of a block."""
    return tl.arange(0, KS)[:, None] * BK + tl.arange(0, BK)[None, :]


@triton.jit
def add_row_times_lines(
    found, a, w, w_stride, line, ok,
    K: tl.constexpr, BK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add one row a (K) times each of N lines of w (lines, K), without summing over K."""
    k = tl.arange(0, BK)
    for start in tl.static_range(0, K, BK):
        place = w + line[None, :] * w_stride + (start + k)[:, None]
        weights = tl.load(place, mask=ok[None, :] & (start + k < K)[:, None], other=0.0)
        numbers = tl.load(a + start + k, mask=start + k < K, other=0.0).to(weights.dtype)
        found += numbers.to(DTYPE)[:, None] * weights.to(DTYPE)
    return found


@triton.jit
def add_rows_times_lines(
    found, a0, a1, a2, stride0, stride1, stride2, row0, rows, w, w_stride, line, ok,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    MB: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr, HOW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add [a0 a1 a2] times N lines of w (lines, K0 + K1 + K2), the three of one dtype.

    K1 and K2 may be 0. A single loop goes through all three, so that its loads can run ahead of the
    products from one to the next.
    """
    if HOW == "row":
        a0, a1, a2 = a0 + row0 * stride0, a1 + row0 * stride1, a2 + row0 * stride2
        found = add_row_times_lines(found, a0, w, w_stride, line, ok, K0, BK, DTYPE)
        w += K0
        found = add_row_times_lines(found, a1, w, w_stride, line, ok, K1, BK, DTYPE)
        w += K1
        found = add_row_times_lines(found, a2, w, w_stride, line, ok, K2, BK, DTYPE)
        return found
    else:
        k = inner(KS, BK)
        BLOCK: tl.constexpr = KS * BK
        N0: tl.constexpr = (K0 + BLOCK - 1) // BLOCK
        N1: tl.constexpr = (K1 + BLOCK - 1) // BLOCK
        N2: tl.constexpr = (K2 + BLOCK - 1) // BLOCK
        for block in range(0, N0 + N1 + N2):
            a, stride, end, before, own = a0, stride0, K0, 0, block
            if K1 > 0:
                second = block >= N0
                a, stride = tl.where(second, a1, a), tl.where(second, stride1, stride)
                end, before = tl.where(second, K1, end), tl.where(second, K0, before)
                own = tl.where(second, block - N0, own)
            if K2 > 0:
                third = block >= N0 + N1
                a, stride = tl.where(third, a2, a), tl.where(third, stride2, stride)
                end, before = tl.where(third, K2, end), tl.where(third, K0 + K1, before)
                own = tl.where(third, block - N0 - N1, own)
            start = own * BLOCK
            numbers = load_rows(a + start, stride, row0, rows, k, end - start, MB)
            place = w + before + start + line[None, None, :] * w_stride + k[:, :, None]
            mask = ok[None, None, :] & (k < end - start)[:, :, None]
            found = add_product(found, numbers, tl.load(place, mask=mask, other=0.0), HOW, DTYPE)
        return found


@triton.jit
def add_rows_times_columns(
    found, a, stride, row0, rows, w, w_stride, column, ok,
    K: tl.constexpr, MB: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr,
    HOW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add a (rows, K) times N columns of w (K, columns)."""
    if HOW == "row":
        k = tl.arange(0, BK)
        a += row0 * stride
        for start in tl.static_range(0, K, BK):
            place = w + (start + k)[:, None] * w_stride + column[None, :]
            weights = tl.load(place, mask=ok[None, :] & (start + k < K)[:, None], other=0.0)
            numbers = tl.load(a + start + k, mask=start + k < K, other=0.0).to(weights.dtype)
            found += numbers.to(DTYPE)[:, None] * weights.to(DTYPE)
    else:
        k = inner(KS, BK)
        for start in range(0, K, KS * BK):
            numbers = load_rows(a + start, stride, row0, rows, k, K - start, MB)
            place = w + start * w_stride + k[:, :, None] * w_stride + column[None, None, :]
            mask = ok[None, None, :] & (k < K - start)[:, :, None]
            found = add_product(found, numbers, tl.load(place, mask=mask, other=0.0), HOW, DTYPE)
    return found
