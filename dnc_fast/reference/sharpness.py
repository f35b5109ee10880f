"""Sharpness of the temporal links (Csordas & Schmidhuber 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

softmax_backward = torch.ops.aten._softmax_backward_data

EPSILON = 1e-6
"""Added to each weight, so that a logarithm stays finite."""


def sharpen(weights: Tensor, sharpness: Tensor) -> Tensor:
    """S(d, s)_i = (d_i + e)^s / sum_j (d_j + e)^s, where weights below zero count as zero.

    The result sums to one whatever the weights sum to; weights that are all zero become equal.

    Args:
        weights: (..., N), forward or backward weightings.
        sharpness: (...), at least 1.

    Returns:
        (..., N), each row sums to 1.
    """
    return torch.softmax(sharpness.unsqueeze(-1) * (weights.clamp(min=0) + EPSILON).log(), dim=-1)


def sharpen_backward(
    d_sharpened: Tensor, sharpened: Tensor, weights: Tensor, sharpness: Tensor
) -> tuple[Tensor, Tensor]:
    """Hand-derived gradients of `sharpen`: of weights and sharpness.

    With l = log(d + e):

        dsl = S (dS - S.dS);  ds = dsl.l;  dd = s dsl / (d + e)

    Args:
        d_sharpened: gradient of its result.
        sharpened: its result.
        weights, sharpness: its arguments.
    """
    lifted = weights.clamp(min=0) + EPSILON
    d_logits = softmax_backward(d_sharpened, sharpened, -1, sharpened.dtype)
    d_sharpness = (d_logits * lifted.log()).sum(-1)
    d_weights = sharpness.unsqueeze(-1) * d_logits / lifted
    return d_weights.masked_fill(weights < 0, 0), d_sharpness
