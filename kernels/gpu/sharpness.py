"""Sharpened forward and backward weightings: S(d, s) = softmax_n(s log(d + e)), e = 1e-6.

Weights below zero count as zero. The number of a weighting, of 2 Hw R, is (way Hw + head) R + r,
where way is 0 for forward and 1 for backward.
"""

from __future__ import annotations

import triton
import triton.language as tl

EPSILON = tl.constexpr(1e-6)


@triton.jit
def sharp_logits(weights, sharpness):
    """s log(d + e)."""
    return sharpness * tl.log(tl.maximum(weights, 0.0) + EPSILON)


@triton.jit
def sharpened_row(weights, sharpness, inside):
    """S of a weighting (n), 0 where it is not inside."""
    logits = tl.where(inside, sharp_logits(weights, sharpness), -float("inf"))
    powers = tl.exp(logits - tl.max(logits, 0))
    return powers * (1.0 / tl.sum(powers, 0))


@triton.jit
def d_sharp_logits(change, mean, mode, sharp):
    """The gradient of `sharp_logits`.

    Args:
        change: (n), gradient of the read weighting.
        mean: the sum of S times change, which is also the gradient of the mode.
        mode: of the read head, the factor of S in the read weighting.
        sharp: (n), S.
    """
    return mode * sharp * (change - mean)


@triton.jit
def d_sharpness(d_logits, weights):
    """What some cells (n) of a weighting add to the gradient of its sharpness."""
    return tl.sum(d_logits * sharp_logits(weights, 1.0), 0)


@triton.jit
def d_unsharpened(d_logits, weights, sharpness):
    """The gradient of a weighting (n) before it was sharpened."""
    found = sharpness * d_logits / (tl.maximum(weights, 0.0) + EPSILON)
    return tl.where(weights < 0.0, 0.0, found)
