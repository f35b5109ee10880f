"""The order in which cells are allocated: the least used first, equally used ones by index.

Usages are kept above zero, u' = e + (1 - e) u. Without fused multiplications and additions
(enable_fp_fusion=False) u' has the same bits as in plain torch, so that the same cells are equal.
"""

from __future__ import annotations

import triton
import triton.language as tl

EPSILON = tl.constexpr(1e-6)

OTHERS = tl.constexpr(4)
"""In float64, how many cells each cell is compared with at a time."""


@triton.jit
def lift(usage):
    """u' = e + (1 - e) u, never zero."""
    return usage * (1.0 - EPSILON) + EPSILON


@triton.jit
def order_key(lifted, ROBUST: tl.constexpr):
    """What cells are ordered by: u', rounded to a multiple of 2^-8 (ties to even) if ROBUST."""
    key = lifted
    if ROBUST:
        # The last bit of a number this large is 2^-8, so that the addition rounds to it.
        if lifted.dtype == tl.float64:
            key = (lifted + 1.5 * 2.0**44) - 1.5 * 2.0**44
        else:
            key = (lifted + 1.5 * 2.0**15) - 1.5 * 2.0**15
    return key


@triton.jit
def cell_key(lifted, in_n, ROBUST: tl.constexpr):
    """`order_key` of cells; places outside come last."""
    return tl.where(in_n, order_key(lifted, ROBUST), float("inf"))


@triton.jit
def comes_before(key_a, a, key_b, b):
    """Whether cell a is allocated before cell b: by lower key, then by lower index."""
    return (key_a < key_b) | ((key_a == key_b) & (a < b))


@triton.jit
def sort_key(lifted, in_n, ROBUST: tl.constexpr):
    """`order_key` as integers of the same width, in the same order.

    NaN comes after all numbers, as in torch.sort, and places outside come last.
    """
    key = order_key(lifted, ROBUST)
    if lifted.dtype == tl.float64:
        bits = key.to(tl.int64, bitcast=True)
        bits = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
        bits = tl.where(key == key, bits, 0x7FFFFFFFFFFFFFFE)
        bits = tl.where(in_n, bits, 0x7FFFFFFFFFFFFFFF)
    else:
        bits = key.to(tl.int32, bitcast=True)
        bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        bits = tl.where(key == key, bits, 0x7FFFFFFE)
        bits = tl.where(in_n, bits, 0x7FFFFFFF)
    return bits


@triton.jit
def lifted_of(key):
    """u' in float32 from its `sort_key` in the exact order."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def load_lifted(usage, n, mask, DTYPE: tl.constexpr):
    """u' of cells n, 1 where masked out."""
    return lift(tl.load(usage + n, mask=mask, other=1.0).to(DTYPE))


@triton.jit
def ranks(
    key, usage, start,
    N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The place of each of the cells start .. start + BN - 1 among them, by comparing them all."""
    n = start + tl.arange(0, BN)
    BO: tl.constexpr = BN if BN < OTHERS else OTHERS
    rank = tl.zeros([BN], tl.int32)
    for first in range(0, BN, BO):
        other = start + first + tl.arange(0, BO)
        other_key = sort_key(load_lifted(usage, other, other < N, DTYPE), other < N, ROBUST)
        before = comes_before(other_key[None, :], other[None, :], key[:, None], n[:, None])
        rank += tl.sum(before.to(tl.int32), 1)
    return rank


@triton.jit
def sorted_cells(
    seen, usage, order, start,
    N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The cells start .. start + BN - 1 of a batch element in the order of allocation.

    In float32, key and index are sorted as one integer. There is no integer that holds both in
    float64, in which cells are compared instead.

    Args:
        seen: (BN), the usage of these cells, anything beyond the last.
        usage: (N), the same in memory, where threads of this program may have stored it just now.
        order: filled with the index of the cell at each place, for all places that hold one.

    Returns:
        the index of the cell at each place (BN), at least N beyond the last; u' of it, 1 there.
    """
    place = tl.arange(0, BN)
    n = start + place
    key = sort_key(lift(seen), n < N, ROBUST)
    element = order.dtype.element_ty
    if seen.dtype == tl.float64:
        tl.debug_barrier()  # all threads must have stored their usages
        rank = ranks(key, usage, start, N, BN, ROBUST, DTYPE)
        tl.store(order + rank, n.to(element), mask=n < N)
        tl.debug_barrier()
        index = tl.load(order + place, mask=n < N, other=N).to(tl.int32)
        lifted = load_lifted(usage, index, index < N, DTYPE)
    else:
        packed = tl.sort((key.to(tl.int64) << 32) | n.to(tl.int64))
        index = packed.to(tl.int32)
        tl.store(order + place, index.to(element), mask=n < N)
        if ROBUST:
            tl.debug_barrier()  # all threads must have stored their usages
            lifted = load_lifted(usage, index, index < N, DTYPE)
        else:
            lifted = lifted_of((packed >> 32).to(tl.int32))
    return index, tl.where(index < N, lifted, 1.0)
