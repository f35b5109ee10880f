"""Temporal memory linkage without a link matrix: a sum of outer products, one for each write.

The link matrix decays by (1 - ww_i) (1 - ww_j) instead of (1 - ww_i - ww_j). That is the same where
a step writes to one cell at most; and with it L_t is made of the writes so far alone:

    L_t = sum_s A_s C_s^T without its diagonal
    A_s = ww_s g_s;  C_s = p_{s-1} g_s;  g_s = prod over the writes k after s of (1 - ww_k)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..links import SeparableLink


def check_room(link: SeparableLink, steps: int, capacity: int) -> None:
    """Raise unless a link has room for so many more writes.

    Raises:
        ValueError: it would hold more than `capacity`.
    """
    held = link.write_weights.shape[-2]
    if held + steps > capacity:
        part = "" if steps <= capacity else f"give the sequence in parts of at most {capacity}, "
        raise ValueError(
            f"a separable link holds at most link_history={capacity} writes, got {held} in "
            f"state.memory.link and {steps} more to come; raise link_history, or {part}let the "
            "oldest go with state.memory.link.last(count)"
        )


def extend_separable_link(
    link: SeparableLink, precedence: Tensor, write_weights: Tensor
) -> SeparableLink:
    """The link with one more write: of the precedence before it, and the write weightings."""
    return SeparableLink(
        torch.cat([link.write_weights, write_weights.unsqueeze(-2)], dim=-2),
        torch.cat([link.precedence, precedence.unsqueeze(-2)], dim=-2),
    )


def decays(write_weights: Tensor) -> Tensor:
    """g (B, Hw, S, N): how much of each write is left after those that followed it."""
    after = torch.cat(
        [1 - write_weights[..., 1:, :], torch.ones_like(write_weights[..., :1, :])], dim=-2
    )
    return after.flip(-2).cumprod(-2).flip(-2)


def separable_directional_weightings(
    link: SeparableLink, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """forward_r = L_t wr_{t-1,r};  backward_r = L_t^T wr_{t-1,r}.

    Args:
        link: of this step, S writes.
        read_weights: (B, R, N), of the step before.

    Returns:
        forward and backward weightings, each (B, R, Hw, N).
    """
    rows, columns = _factors(link)
    last = read_weights.unsqueeze(1)
    ahead, behind = _products(rows, columns, last)
    return ahead.transpose(1, 2), behind.transpose(1, 2)


def _factors(link: SeparableLink) -> tuple[Tensor, Tensor]:
    """A and C, each (B, Hw, S, N)."""
    left = decays(link.write_weights)
    return link.write_weights * left, link.precedence * left


def _products(rows: Tensor, columns: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v of vectors (B, Hw or 1, R, N), each (B, Hw, R, N)."""
    diagonal = (rows * columns).sum(-2, keepdim=True) * vectors
    ahead = (vectors @ columns.mT) @ rows - diagonal
    return ahead, (vectors @ rows.mT) @ columns - diagonal


def separable_products(link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L_t v and L_t^T v of vectors (B, R, N), each (B, Hw, R, N)."""
    return _products(*_factors(link), vectors.unsqueeze(1))


def separable_directional_weightings_backward(
    d_ahead: Tensor, d_behind: Tensor, link: SeparableLink, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `separable_directional_weightings` of the link, derived by hand.

    With D = sum_r (dfwd_r + dbwd_r) wr_r:

        dA_s = sum_r dfwd_r (C_s.wr_r) + wr_r (C_s.dbwd_r) - C_s D
        dC_s = sum_r wr_r (A_s.dfwd_r) + dbwd_r (A_s.wr_r) - A_s D
        dww_s = g_s (dA_s - e_{s-1});  dp_{s-1} = g_s dC_s
        e_s = ww_s dA_s + p_{s-1} dC_s + (1 - ww_s) e_{s-1},  e_0 = 0

    e_s is the gradient of g_s. That of the read weightings is L^T dfwd + L dbwd, see
    `separable_products`.

    Args:
        d_ahead, d_behind: (B, R, Hw, N).
        link, read_weights: what the function was given.

    Returns:
        gradients of link.write_weights and link.precedence, each (B, Hw, S, N).
    """
    left = decays(link.write_weights)
    rows, columns = link.write_weights * left, link.precedence * left
    d_ahead, d_behind = d_ahead.transpose(1, 2), d_behind.transpose(1, 2)
    last = read_weights.unsqueeze(1)
    diagonal = ((d_ahead + d_behind) * last).sum(-2, keepdim=True)
    d_rows = (columns @ last.mT) @ d_ahead + (columns @ d_behind.mT) @ last - columns * diagonal
    d_columns = (rows @ d_ahead.mT) @ last + (rows @ last.mT) @ d_behind - rows * diagonal
    d_write = left * d_rows
    d_left = torch.zeros_like(link.write_weights[..., 0, :])
    for s in range(link.write_weights.shape[-2]):
        weight = link.write_weights[..., s, :]
        d_write[..., s, :] -= left[..., s, :] * d_left
        d_left = (
            weight * d_rows[..., s, :]
            + link.precedence[..., s, :] * d_columns[..., s, :]
            + (1 - weight) * d_left
        )
    return d_write, left * d_columns
