"""Content-based addressing (Graves et al. 2016, Methods, "Content-based addressing")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

softmax_backward = torch.ops.aten._softmax_backward_data

EPSILON = 1e-6
"""Added inside both norms and to their product, so that zero keys and zero cells stay finite."""


class LookUp(NamedTuple):
    """The result of a content look-up.

    | field   | shape         | what                                                          |
    |---------|---------------|---------------------------------------------------------------|
    | weights | (B, heads, N) | the content weightings                                        |
    | kept    | any           | what else the gradient needs, in its maker's own format       |
    """

    weights: Tensor
    kept: tuple[Tensor, ...] = ()


def look_up(keys: Tensor, strengths: Tensor, memory: Tensor) -> LookUp:
    """`content_weighting`, with everything that its gradient needs."""
    key_norms = (keys.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    cell_norms = (memory.square().sum(-1) + EPSILON).sqrt().unsqueeze(-2)
    scale = key_norms * cell_norms + EPSILON
    similarity = keys @ memory.mT / scale
    weights = torch.softmax(strengths.unsqueeze(-1) * similarity, dim=-1)
    return LookUp(weights, (similarity, key_norms, cell_norms, scale))


def cosine_similarity(keys: Tensor, memory: Tensor) -> Tensor:
    """Similarity of each key and each cell.

        D(k, m) = k.m / (sqrt(k.k + e) sqrt(m.m + e) + e),  e = 1e-6

    Equation (2) of docs/primer.md.

    Args:
        keys: (B, heads, W).
        memory: (B, N, W).

    Returns:
        (B, heads, N), in [-1, 1].
    """
    return look_up(keys, keys.new_ones(keys.shape[:-1]), memory).kept[0]


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """Softmax over the cells of strength times similarity, C(M, k, beta).

    Equation (3) of docs/primer.md.

    Args:
        keys: (B, heads, W).
        strengths: (B, heads), not negative.
        memory: (B, N, W).

    Returns:
        (B, heads, N), each row sums to 1.
    """
    return look_up(keys, strengths, memory).weights


def content_weighting_backward(
    d_weights: Tensor, found: LookUp, keys: Tensor, strengths: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand-derived gradients of `content_weighting`.

    With s = beta D, D = k.m / q, q = |k| |m| + e, |x| = sqrt(x.x + e):

        ds = w (dw - w.dw);  dbeta = ds.D;  g = beta ds / q
        dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m exchanged

    Args:
        d_weights: (B, heads, N), gradient of the weighting.
        found: what `look_up` returned.
        keys, strengths, memory: the arguments of `look_up`.

    Returns:
        gradients of keys, strengths and memory.
    """
    weights, (similarity, key_norms, cell_norms, scale) = found
    d_logits = softmax_backward(d_weights, weights, -1, weights.dtype)
    d_strengths = (d_logits * similarity).sum(-1)
    d_product = strengths.unsqueeze(-1) * d_logits / scale
    d_scale = -d_product * similarity
    d_key_norms = (d_scale * cell_norms).sum(-1, keepdim=True)
    d_cell_norms = (d_scale * key_norms).sum(-2, keepdim=True)
    d_keys = d_product @ memory + d_key_norms / key_norms * keys
    d_memory = d_product.mT @ keys + (d_cell_norms / cell_norms).mT * memory
    return d_keys, d_strengths, d_memory
