"""Content-based addressing (Graves et al. 2016, Methods, "Content-based addressing")."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added inside both norms and to their product, so that zero keys and zero cells stay finite."""


def cosine_similarity(keys: Tensor, memory: Tensor) -> Tensor:
    """How alike each key and each cell are.

        D(k, m) = k.m / (sqrt(k.k + e) sqrt(m.m + e) + e),  e = 1e-6

    Args:
        keys: (B, heads, W).
        memory: (B, N, W).

    Returns:
        (B, heads, N), in [-1, 1].
    """
    key_norms = (keys.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    cell_norms = (memory.square().sum(-1) + EPSILON).sqrt().unsqueeze(-2)
    return keys @ memory.mT / (key_norms * cell_norms + EPSILON)


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """Softmax over the cells of strength times similarity, C(M, k, beta).

    Args:
        keys: (B, heads, W).
        strengths: (B, heads), at least 1.
        memory: (B, N, W).

    Returns:
        (B, heads, N), each row sums to 1.
    """
    return torch.softmax(strengths.unsqueeze(-1) * cosine_similarity(keys, memory), dim=-1)
