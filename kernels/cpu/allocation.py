"""Allocation weighting of one batch element.

    u' = e + (1 - e) u;  a[i] = (1 - u'_i) prod over j before i of u'_j;  e = 1e-6

Cells are ordered by u', or by u' rounded to 1/256 (`robust`), ties by index. A few cells are sorted
by counting the cells before each, many by a stable radix sort of the keys' bits.
"""

from __future__ import annotations

import numpy as np

from .compile import kernel

EPSILON = 1e-6
GRID = 2.0**-8
SHORT = 256
LONG = 2048
COUNTS = 2048
SIGN = np.int64(-(2**63))


@kernel
def lifted_usage(usage, out):
    """out = u'."""
    epsilon = usage.dtype.type(EPSILON)
    rest = usage.dtype.type(1 - EPSILON)
    for n in range(usage.shape[0]):
        out[n] = epsilon + rest * usage[n]


@kernel
def _count_places(keys, order):
    """Fill order: the place of a cell is the number of cells before it."""
    for n in range(keys.shape[0]):
        earlier, later = keys[:n], keys[n:]
        key, place = keys[n], np.int32(0)
        for cell in range(earlier.shape[0]):
            place += np.int32(earlier[cell] <= key)
        for cell in range(later.shape[0]):
            place += np.int32(later[cell] < key)
        order[place] = n


@kernel
def free_list(lifted, robust, order, keys, wide_keys, other, counts):
    """Fill order with the cells from the least used to the most used, ties by index.

    keys (N) of the dtype, wide_keys (N) of float64, other (N) and counts (COUNTS) of int64 are work
    space. NaN counts as the most used.
    """
    N = lifted.shape[0]
    scale = lifted.dtype.type(1 / GRID)
    most = lifted.dtype.type(np.inf)
    for n in range(N):
        key = np.rint(lifted[n] * scale) if robust else lifted[n]
        keys[n] = key if key == key else most
    if N <= SHORT:
        _count_places(keys, order)
        return
    for n in range(N):
        wide_keys[n] = keys[n]
        order[n] = n
    # The bits of a double sort like unsigned integers once the sign bit is flipped, or for negative
    # numbers all bits. The last 29 bits of a float32 converted to a double are always the same.
    bits = wide_keys.view(np.int64)
    for n in range(N):
        if bits[n] == SIGN:  # -0.0 equals 0.0
            bits[n] = 0
        bits[n] = ~bits[n] if bits[n] < 0 else bits[n] ^ SIGN
    first = 29 if lifted.itemsize == 4 else 0
    digit_bits = 8 if N < LONG else 11
    mask = (1 << digit_bits) - 1
    source, target = order, other
    swapped = False
    for shift in range(first, 64, digit_bits):
        for digit in range(1 << digit_bits):
            counts[digit] = 0
        for n in range(N):
            counts[(bits[n] >> shift) & mask] += 1
        if counts[(bits[0] >> shift) & mask] == N:
            continue  # all keys have the same digit here
        start = 0
        for digit in range(1 << digit_bits):
            count = counts[digit]
            counts[digit] = start
            start += count
        for place in range(N):
            cell = source[place]
            digit = (bits[cell] >> shift) & mask
            target[counts[digit]] = cell
            counts[digit] += 1
        source, target = target, source
        swapped = not swapped
    if swapped:
        for n in range(N):
            order[n] = other[n]


@kernel
def allocation_weighting(lifted, order, out):
    """Fill out with the allocation weighting of cells in a given order."""
    one = lifted.dtype.type(1)
    product = one
    for place in range(order.shape[0]):
        cell = order[place]
        out[cell] = (one - lifted[cell]) * product
        product *= lifted[cell]


@kernel
def allocation_weighting_backward(d_allocation, lifted, order, products, d_usage):
    """Add to d_usage: du'_i = (sum over k after i of da_k a_k) / u'_i - P_i da_i.

    P_i is the product of the u' before i; products (N) is work space for them, in this order.
    """
    one = lifted.dtype.type(1)
    rest = lifted.dtype.type(1 - EPSILON)
    product = one
    for place in range(order.shape[0]):
        products[place] = product
        product *= lifted[order[place]]
    after = lifted.dtype.type(0)
    for place in range(order.shape[0] - 1, -1, -1):
        cell = order[place]
        term = products[place] * d_allocation[cell]
        d_usage[cell] += rest * (after / lifted[cell] - term)
        after += term * (one - lifted[cell])
