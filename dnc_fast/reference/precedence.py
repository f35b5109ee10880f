"""Precedence: how far each cell was the last one written (Graves et al. 2016, Methods)."""

from __future__ import annotations

from torch import Tensor


def update_precedence(precedence: Tensor, write_weights: Tensor) -> Tensor:
    """p_t = (1 - sum_i ww_i) p_{t-1} + ww_t.

    Equation (9) of docs/primer.md.

    Args:
        precedence: (B, Hw, N), of the previous step.
        write_weights: (B, Hw, N), of this step.

    Returns:
        (B, Hw, N), sums to at most 1.
    """
    return (1 - write_weights.sum(-1, keepdim=True)) * precedence + write_weights


def update_precedence_backward(
    d_precedence: Tensor, precedence: Tensor, write_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `update_precedence`: of precedence and write_weights, each (B, Hw, N)."""
    d_write_weights = d_precedence - (d_precedence * precedence).sum(-1, keepdim=True)
    return (1 - write_weights.sum(-1, keepdim=True)) * d_precedence, d_write_weights
