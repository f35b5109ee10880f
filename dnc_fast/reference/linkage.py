"""Temporal memory linkage (Graves et al. 2016, Methods, "Temporal memory linkage").

With several write heads each has a link matrix and a precedence of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


def update_link(link: Tensor, precedence: Tensor, write_weights: Tensor) -> Tensor:
    """L_t[i, j] = (1 - ww_i - ww_j) L_{t-1}[i, j] + ww_i p_{t-1}[j], and L_t[i, i] = 0.

    Args:
        link: (B, Hw, N, N), of the step before.
        precedence: (B, Hw, N), of the step before.
        write_weights: (B, Hw, N), of this step.

    Returns:
        (B, Hw, N, N).
    """
    row, column = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)
    link = (1 - row - column) * link + row * precedence.unsqueeze(-2)
    diagonal = torch.eye(link.shape[-1], dtype=torch.bool, device=link.device)
    return link.masked_fill(diagonal, 0)


def update_precedence(precedence: Tensor, write_weights: Tensor) -> Tensor:
    """p_t = (1 - sum_i ww_i) p_{t-1} + ww_t.

    Args:
        precedence: (B, Hw, N), of the step before.
        write_weights: (B, Hw, N), of this step.

    Returns:
        (B, Hw, N), sums to at most 1.
    """
    return (1 - write_weights.sum(-1, keepdim=True)) * precedence + write_weights


def directional_weightings(link: Tensor, read_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Where the link matrix leads from what was read last, in both directions of time.

        forward_r = L_t wr_{t-1,r};  backward_r = L_t^T wr_{t-1,r}

    Args:
        link: (B, Hw, N, N), of this step.
        read_weights: (B, R, N), of the step before.

    Returns:
        forward and backward weightings, each (B, R, Hw, N).
    """
    read_weights = read_weights.unsqueeze(1)
    forward, backward = read_weights @ link.mT, read_weights @ link
    return forward.transpose(1, 2), backward.transpose(1, 2)
