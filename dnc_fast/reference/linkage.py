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


def update_link_backward(
    d_link: Tensor, link: Tensor, precedence: Tensor, write_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `update_link`, derived by hand. With G = dL_t without its diagonal:

        dL_{t-1} = (1 - ww_i - ww_j) G;  dp_{t-1} = G^T ww
        dww_i = sum_j G_ij (p_{t-1}[j] - L_{t-1}[i, j]) - sum_j G_ji L_{t-1}[j, i]

    Args:
        d_link: (B, Hw, N, N), gradient of the new link matrix.
        link, precedence, write_weights: what `update_link` was given.

    Returns:
        gradients of link, precedence and write_weights.
    """
    row, column = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)
    diagonal = torch.eye(link.shape[-1], dtype=torch.bool, device=link.device)
    d_link = d_link.masked_fill(diagonal, 0)
    product = d_link * link
    d_write_weights = (d_link @ precedence.unsqueeze(-1)).squeeze(-1)
    d_write_weights = d_write_weights - product.sum(-1) - product.sum(-2)
    d_precedence = (column @ d_link).squeeze(-2)
    return (1 - row - column) * d_link, d_precedence, d_write_weights


def update_precedence_backward(
    d_precedence: Tensor, precedence: Tensor, write_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `update_precedence`: of precedence and write_weights, each (B, Hw, N)."""
    d_write_weights = d_precedence - (d_precedence * precedence).sum(-1, keepdim=True)
    return (1 - write_weights.sum(-1, keepdim=True)) * d_precedence, d_write_weights


def directional_weightings_backward(
    d_forward: Tensor, d_backward: Tensor, link: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `directional_weightings`: of link (B, Hw, N, N) and read_weights (B, R, N).

    dL = sum_r dfwd_r wr_r^T + wr_r dbwd_r^T;  dwr_r = sum_h L^T dfwd_r + L dbwd_r.
    """
    d_forward, d_backward = d_forward.transpose(1, 2), d_backward.transpose(1, 2)
    read_weights = read_weights.unsqueeze(1)
    d_link = d_forward.mT @ read_weights + read_weights.mT @ d_backward
    return d_link, (d_forward @ link + d_backward @ link.mT).sum(1)
