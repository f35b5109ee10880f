"""What a memory step does otherwise than the paper's: settings, work space, and the arithmetic.

Kernels take a `Variant`, or None for the paper's step. Numba drops what a branch on None leaves out
before it compiles, so the paper's step is compiled as if there were no variants.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .. import arrays
from .compile import kernel
from .elementary import exp, sigmoid
from .interface import oneplus, split_masks, split_sharpness, times_oneplus_slope

EPSILON = 1e-6


class Variant(NamedTuple):
    """Settings of a variant, and its work space; unused arrays have a size of 0. S strips.

    | field        | shape               | what                                                   |
    |--------------|---------------------|--------------------------------------------------------|
    | similarity   |                     | COSINE, EUCLIDEAN, MANHATTAN or DOT                    |
    | masked       |                     | whether keys have masks                                |
    | mask_floor   |                     | the least value of a mask                              |
    | allocation   |                     | SORTED, PROPORTIONAL or SOFTMAX                        |
    | steepness    |                     | power of the one, 1 / temperature of the other         |
    | deallocate   |                     | whether freed cells are erased                         |
    | sharp        |                     | whether directional weightings are sharpened           |
    | ones         | (heads, W)          | masks where there are none                             |
    | d_masks      | (B, heads, W)       | gradients of those                                     |
    | kept         | (B, N, W)           | the memory before the write, freed cells erased        |
    | psi, d_psi   | (B, N)              | retention; gradient of it, from that memory            |
    | linked       | (rows, 2, Hw, R, N) | forward and backward weightings, not yet sharpened     |
    | sharpened    | (B, N)              | and one after, at a time                               |
    | last         | (B, 2 R, N)         | backward: the last read weightings, twice              |
    | changes      | (B, Hw, 2 R, N)     | backward: gradients of `linked`                        |
    | modes        | (2 R, 2)            | backward: R times (1, 0), for forward, R times (0, 1)  |
    | toward, away | (B, Hw, 2 R, N) and (B, S, Hw, 2 R, N): L_t and L_t^T times changes          |
    """

    similarity: Any
    masked: Any
    mask_floor: Any
    allocation: Any
    steepness: Any
    deallocate: Any
    sharp: Any
    ones: Any
    d_masks: Any
    kept: Any
    psi: Any
    d_psi: Any
    linked: Any
    sharpened: Any
    last: Any
    changes: Any
    modes: Any
    toward: Any
    away: Any


def make_variant(
    B: int, N: int, W: int, R: int, Hw: int, strips: int, dtype: Any, **settings: Any
) -> Variant:
    """A variant with work space for steps of these sizes, except `linked`.

    Args:
        settings: the fields up to `sharp`.
    """
    heads = max(R, Hw)
    cells, ways = B if settings["deallocate"] else 0, B if settings["sharp"] else 0

    def new(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    kind = np.dtype(dtype).type
    for name in ("mask_floor", "steepness"):
        settings[name] = kind(settings[name])
    modes = new(2 * R, 2)
    modes[:R, 0] = modes[R:, 1] = 1
    return Variant(
        **settings,
        ones=np.ones((heads, W), dtype),
        d_masks=new(B, heads, W),
        kept=new(cells, N, W),
        psi=new(cells, N),
        d_psi=new(B, N),
        linked=new_linked(0, N, R, Hw, dtype),
        sharpened=new(ways, N),
        last=new(ways, 2 * R, N),
        changes=new(ways, Hw, 2 * R, N),
        modes=modes,
        toward=new(ways, Hw, 2 * R, N),
        away=new(ways, strips, Hw, 2 * R, N),
    )


def new_linked(rows: int, N: int, R: int, Hw: int, dtype: Any) -> np.ndarray:
    """Room for what `rows` sequences and steps keep of their directional weightings."""
    return np.empty((rows, 2, Hw, R, N), dtype)


# The interface


@kernel
def activate_extras(active, W, R, Hw, variant):
    """Activate the parts of a vector that the paper's lacks, in place."""
    floor, one = variant.mask_floor, active.dtype.type(1)
    if variant.masked:
        for masks in split_masks(active, W, R, Hw):
            for head in range(masks.shape[0]):
                for w in range(W):
                    masks[head, w] = floor + (one - floor) * sigmoid(masks[head, w])
    if variant.sharp:
        for sharpness in split_sharpness(active, R, Hw):
            for r in range(R):
                oneplus(sharpness[r], 1.0)


@kernel
def extras_backward(gradient, active, W, R, Hw, variant):
    """Turn the gradient of the activated parts into that of the raw ones, in place."""
    floor, one = variant.mask_floor, active.dtype.type(1)
    if variant.masked:
        masks, d_masks = split_masks(active, W, R, Hw), split_masks(gradient, W, R, Hw)
        for kind in range(2):
            for head in range(masks[kind].shape[0]):
                for w in range(W):
                    mask = masks[kind][head, w]
                    d_masks[kind][head, w] *= (mask - floor) * (one - mask) / (one - floor)
    if variant.sharp:
        sharpness, gradients = split_sharpness(active, R, Hw), split_sharpness(gradient, R, Hw)
        for way in range(2):
            for r in range(R):
                times_oneplus_slope(gradients[way][r], sharpness[way][r], 1.0)


@kernel
def masks_of(active, W, R, Hw, variant):
    """The masks of read keys (R, W) and of write keys (Hw, W)."""
    if variant.masked:
        return split_masks(active, W, R, Hw)
    return variant.ones[:R], variant.ones[:Hw]


@kernel
def d_masks_of(b, gradient, W, R, Hw, variant):
    """Their gradients, to be filled."""
    if variant.masked:
        return split_masks(gradient, W, R, Hw)
    return variant.d_masks[b, :R], variant.d_masks[b, :Hw]


# Allocation


@kernel
def _first_come(n, lifted):
    """1 - n / 2N."""
    return lifted.dtype.type(1) - lifted.dtype.type(n) / lifted.dtype.type(2 * lifted.shape[0])


@kernel
def _shares(lifted, allocation, steepness, out):
    """out = the softmax of `smooth_allocation_weighting`; returns prod u'."""
    epsilon, one = lifted.dtype.type(EPSILON), lifted.dtype.type(1)
    N = lifted.shape[0]
    for n in range(N):
        free = (one - lifted[n] + epsilon) * _first_come(n, lifted)
        if allocation == arrays.PROPORTIONAL:
            out[n] = steepness * math.log(free)
        else:
            out[n] = steepness * free
    highest = out[0]
    for n in range(N):
        highest = max(highest, out[n])
    for n in range(N):
        out[n] = exp(out[n] - highest)
    total, product = lifted.dtype.type(0), one
    for n in range(N):
        total += out[n]
        product *= lifted[n]
    for n in range(N):
        out[n] /= total
    return product


@kernel
def smooth_allocation_weighting(lifted, allocation, steepness, out):
    """out = (1 - prod u') softmax(l), l = p log f or f / temperature.

    f = (1 - u' + e) (1 - n / 2N).
    """
    product = _shares(lifted, allocation, steepness, out)
    rest = lifted.dtype.type(1) - product
    for n in range(out.shape[0]):
        out[n] *= rest


@kernel
def smooth_allocation_weighting_backward(
    d_allocation, lifted, allocation, steepness, shares, d_usage
):
    """Add to d_usage; shares (N) is work space.

    With q the softmax and S = 1 - prod u': dl = S q (da - q.da), dS = q.da.
    """
    epsilon, one = lifted.dtype.type(EPSILON), lifted.dtype.type(1)
    product = _shares(lifted, allocation, steepness, shares)
    mean = lifted.dtype.type(0)
    for n in range(lifted.shape[0]):
        mean += shares[n] * d_allocation[n]
    for n in range(lifted.shape[0]):
        slope = steepness
        if allocation == arrays.PROPORTIONAL:
            slope /= one - lifted[n] + epsilon
        else:
            slope *= _first_come(n, lifted)
        d_logit = (one - product) * shares[n] * (d_allocation[n] - mean)
        d_usage[n] -= (one - epsilon) * (slope * d_logit + mean * product / lifted[n])


# De-allocation


@kernel
def deallocate(memory, free_gates, read_weights, psi, out):
    """psi = prod_r (1 - f_r wr_r), and out = memory psi 1^T."""
    one = memory.dtype.type(1)
    for n in range(memory.shape[0]):
        kept = one
        for r in range(read_weights.shape[0]):
            kept *= one - free_gates[r] * read_weights[r, n]
        psi[n] = kept
        row, new_row = memory[n], out[n]
        for w in range(row.shape[0]):
            new_row[w] = kept * row[w]


@kernel
def deallocate_backward(memory, psi, d_memory, d_psi):
    """Fill d_psi, and take d_memory to the memory before."""
    for n in range(memory.shape[0]):
        row, gradient = memory[n], d_memory[n]
        total = memory.dtype.type(0)
        for w in range(row.shape[0]):
            total += gradient[w] * row[w]
        d_psi[n] = total
        for w in range(row.shape[0]):
            gradient[w] *= psi[n]


# Sharpness


@kernel
def sharpen(weights, sharpness, out):
    """out = (d + e)^s, divided by its sum; weights below zero count as zero."""
    epsilon, zero = weights.dtype.type(EPSILON), weights.dtype.type(0)
    N = weights.shape[0]
    for n in range(N):
        out[n] = sharpness * math.log(max(weights[n], zero) + epsilon)
    highest = out[0]
    for n in range(N):
        highest = max(highest, out[n])
    for n in range(N):
        out[n] = exp(out[n] - highest)
    total = zero
    for n in range(N):
        total += out[n]
    for n in range(N):
        out[n] /= total


@kernel
def sharpen_backward(mode, d_read, sharpened, weights, sharpness, d_weights):
    """Fill d_weights from the gradient mode d_read of the sharpened weights.

    Returns the gradients of the mode and of the sharpness.
    """
    epsilon, zero = weights.dtype.type(EPSILON), weights.dtype.type(0)
    mean = zero
    for n in range(weights.shape[0]):
        mean += sharpened[n] * d_read[n]
    d_sharpness = zero
    for n in range(weights.shape[0]):
        lifted = max(weights[n], zero) + epsilon
        d_logit = mode * sharpened[n] * (d_read[n] - mean)
        d_sharpness += d_logit * math.log(lifted)
        d_weights[n] = sharpness * d_logit / lifted if weights[n] >= zero else zero
    return mean, d_sharpness


@kernel
def sharp_read_weightings(b, modes, active, found, rows, columns, variant, read):
    """Fill read (R, N) from content weightings and sharpened forward and backward weightings.

    rows (Hw, R, N) are the forward weightings, columns (S, Hw, R, N) parts of the backward ones.
    """
    R, N = read.shape
    Hw = rows.shape[0]
    sharpness = split_sharpness(active, R, Hw)
    linked, out = variant.linked[b], variant.sharpened[b]
    for r in range(R):
        for n in range(N):
            read[r, n] = modes[r, Hw] * found[r, n]
        for head in range(Hw):
            for n in range(N):
                linked[0, head, r, n] = rows[head, r, n]
            for n in range(N):
                linked[1, head, r, n] = columns[0, head, r, n]
            for strip in range(1, columns.shape[0]):
                for n in range(N):
                    linked[1, head, r, n] += columns[strip, head, r, n]
            for way in range(2):
                mode = modes[r, head] if way else modes[r, 1 + Hw + head]
                sharpen(linked[way, head, r], sharpness[way][r, head], out)
                for n in range(N):
                    read[r, n] += mode * out[n]


@kernel
def sharp_read_weightings_backward(b, modes, active, d_read, read0, variant, d_modes, d_vector):
    """Fill variant.changes and variant.last, and the gradients of directional modes and sharpness.

    d_read (R, N) is the gradient of the read weightings; read0 (R, N) are those of step t - 1.
    """
    R, N = read0.shape
    Hw = variant.changes.shape[1]
    sharpness, d_sharpness = split_sharpness(active, R, Hw), split_sharpness(d_vector, R, Hw)
    linked, out = variant.linked[b], variant.sharpened[b]
    for r in range(R):
        for way in range(2):
            for n in range(N):
                variant.last[b, way * R + r, n] = read0[r, n]
            for head in range(Hw):
                place = head if way else 1 + Hw + head
                weights = linked[way, head, r]
                sharpen(weights, sharpness[way][r, head], out)
                d_modes[r, place], d_sharpness[way][r, head] = sharpen_backward(
                    modes[r, place], d_read[r], out, weights, sharpness[way][r, head],
                    variant.changes[b, head, way * R + r],
                )  # fmt: skip


@kernel
def last_read_weights_backward(b, variant, d_read):
    """Fill d_read (R, N), the gradient of the read weightings of step t - 1, from the links."""
    R, N = d_read.shape
    toward, away = variant.toward[b], variant.away[b]
    for r in range(R):
        for n in range(N):
            d_read[r, n] = d_read.dtype.type(0)
        for head in range(toward.shape[0]):
            for n in range(N):
                d_read[r, n] += toward[head, R + r, n]
            for strip in range(away.shape[0]):
                for n in range(N):
                    d_read[r, n] += away[strip, head, r, n]
