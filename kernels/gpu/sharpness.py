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
    """s log(d + e).

    Adding zero rounds it here, so that no compiler fuses the product with a subtraction: the
    sharpened weights would not add up to one when several launches calculate them.
    """
    return sharpness * tl.log(tl.maximum(weights, 0.0) + EPSILON) + 0.0


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
def d_sharpness_terms(d_logits, weights):
    """What each cell (n) of a weighting adds to the gradient of its sharpness."""
    return d_logits * sharp_logits(weights, 1.0)


@triton.jit
def d_unsharpened(d_logits, weights, sharpness):
    """The gradient of a weighting (n) before it was sharpened."""
    found = sharpness * d_logits / (tl.maximum(weights, 0.0) + EPSILON)
    return tl.where(weights < 0.0, 0.0, found)
