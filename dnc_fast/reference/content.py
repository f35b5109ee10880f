"""Content-based addressing (Graves et al. 2016, Methods, "Content-based addressing")."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .similarity import SIMILARITY_FUNCTIONS

softmax_backward = torch.ops.aten._softmax_backward_data


class LookUp(NamedTuple):
    """The result of a content look-up.

    | field   | shape         | what                                                          |
    |---------|---------------|---------------------------------------------------------------|
    | weights | (B, heads, N) | the content weightings                                        |
    | kept    | any           | what else the gradient needs, in its maker's own format       |
    """

    weights: Tensor
    kept: tuple[Tensor, ...] = ()


def look_up(
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
    similarity: str = "cosine",
) -> LookUp:
    """`content_weighting`, with everything that its gradient needs."""
    found = SIMILARITY_FUNCTIONS[similarity].forward(keys, memory, masks)
    return LookUp(torch.softmax(strengths.unsqueeze(-1) * found[0], dim=-1), found)


def content_weighting(
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
    similarity: str = "cosine",
) -> Tensor:
    """Softmax over the cells of strength times similarity, C(M, k, beta).

    Equation (3) of docs/primer.md.

    Args:
        keys: (B, heads, W).
        strengths: (B, heads), not negative.
        memory: (B, N, W).
        masks: (B, heads, W), in [0, 1]; None for ones.
        similarity: one of `SIMILARITIES`, see `similarity`.

    Returns:
        (B, heads, N), each row sums to 1.
    """
    return look_up(keys, strengths, memory, masks, similarity).weights


def content_weighting_backward(
    d_weights: Tensor,
    found: LookUp,
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
    similarity: str = "cosine",
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Hand-derived gradients of `content_weighting`.

    With s = beta D:

        ds = w (dw - w.dw);  dbeta = ds.D;  dD = beta ds

    Args:
        d_weights: (B, heads, N), gradient of the weighting.
        found: what `look_up` returned.
        keys, strengths, memory, masks, similarity: the arguments of `look_up`.

    Returns:
        gradients of keys, strengths, memory and masks.
    """
    weights, kept = found
    d_logits = softmax_backward(d_weights, weights, -1, weights.dtype)
    d_strengths = (d_logits * kept[0]).sum(-1)
    d_keys, d_memory, d_masks = SIMILARITY_FUNCTIONS[similarity].backward(
        strengths.unsqueeze(-1) * d_logits, kept, keys, memory, masks
    )
    return d_keys, d_strengths, d_memory, d_masks
