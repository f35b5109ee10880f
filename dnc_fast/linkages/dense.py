"""Temporal memory linkage by a link matrix (Graves et al. 2016, Methods).

With several write heads, each has its own link matrix and precedence.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.arrays import Step
from ..step_options import StepOptions
from .base import Linkage, LinkBudget, LinkGradients, LinkRun, LinkSizes


def update_link(link: Tensor, precedence: Tensor, write_weights: Tensor) -> Tensor:
    """L_t[i, j] = (1 - ww_i - ww_j) L_{t-1}[i, j] + ww_i p_{t-1}[j], and L_t[i, i] = 0.

    Equation (10) of docs/primer.md.

    Args:
        link: (B, Hw, N, N), of the previous step.
        precedence: (B, Hw, N), of the previous step.
        write_weights: (B, Hw, N), of this step.

    Returns:
        (B, Hw, N, N).
    """
    row, column = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)
    link = (1 - row - column) * link + row * precedence.unsqueeze(-2)
    diagonal = torch.eye(link.shape[-1], dtype=torch.bool, device=link.device)
    return link.masked_fill(diagonal, 0)


def directional_weightings(link: Tensor, read_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Where the link matrix leads from what was read last, forward and backward in time.

        forward_r = L_t wr_{t-1,r};  backward_r = L_t^T wr_{t-1,r}

    Equation (11) of docs/primer.md.

    Args:
        link: (B, Hw, N, N), of this step.
        read_weights: (B, R, N), of the previous step.

    Returns:
        forward and backward weightings, each (B, R, Hw, N).
    """
    read_weights = read_weights.unsqueeze(1)
    forward, backward = read_weights @ link.mT, read_weights @ link
    return forward.transpose(1, 2), backward.transpose(1, 2)


class DenseRun(LinkRun):
    """The link matrix in plain torch, held in the arrays of the steps."""

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        self.rebuild(step)
        last = step.read0.unsqueeze(1)
        return last @ step.link1.mT, last @ step.link1

    def rebuild(self, step: Step) -> None:
        _update(step, step.link1)

    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients:
        """See `LinkRun`; hand-derived.

        With G = dL_t + sum_r pi_f,r d_r wr_r^T + pi_b,r wr_r d_r^T, without its diagonal:

            dL_{t-1} = (1 - ww_i - ww_j) G;  dp_{t-1} = G^T ww
            dww_i = sum_j G_ij (p_{t-1}[j] - L_{t-1}[i, j]) - sum_j G_ji L_{t-1}[j, i]
        """
        changes = d_read.unsqueeze(1)
        link = torch.empty_like(step.link0)
        _update(step, link)
        x, y = changes @ link.mT, changes @ link
        last = step.read0.unsqueeze(1).expand_as(x)
        ahead = modes_ahead.mT.unsqueeze(-1) * changes
        behind = modes_behind.mT.unsqueeze(-1) * changes
        d_link.flatten(0, 1).baddbmm_(
            torch.cat([ahead, last], dim=2).flatten(0, 1).mT,
            torch.cat([last, behind], dim=2).flatten(0, 1),
        )
        d_link.diagonal(dim1=-2, dim2=-1).zero_()
        product = torch.mul(d_link, step.link0, out=link)
        d_write = (d_link @ step.precedence0.unsqueeze(-1)).squeeze(-1)
        d_write -= product.sum(-1)
        d_write -= product.sum(-2)
        d_precedence = (step.write1.unsqueeze(-2) @ d_link).squeeze(-2)
        d_link.mul_(_kept(step.write1))
        return LinkGradients(x, y, d_write, d_precedence)

    def matrix(self, link: Tensor, like: Tensor) -> Tensor:
        return link

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        return d_final[0]

    def gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        return [d_matrix]


def _update(step: Step, out: Tensor) -> None:
    """out = L_t; must not share memory with L_{t-1}."""
    torch.mul(step.link0, _kept(step.write1), out=out)
    row, column = step.write1.unsqueeze(-1), step.precedence0.unsqueeze(-2)
    out.flatten(0, 1).baddbmm_(row.flatten(0, 1), column.flatten(0, 1))
    out.diagonal(dim1=-2, dim2=-1).zero_()


def _kept(write_weights: Tensor) -> Tensor:
    """(B, Hw, N, N): 1 - ww_i - ww_j."""
    return (1 - write_weights).unsqueeze(-1) - write_weights.unsqueeze(-2)


class DenseLinkage(Linkage):
    """The paper's link matrix, (B, Hw, N, N)."""

    name = "dense"
    link_type = Tensor
    is_matrix = True
    run_type = DenseRun

    def empty(self, sizes: LinkSizes, dtype: torch.dtype, device: Any) -> Tensor:
        B, Hw, N, _ = sizes
        return torch.zeros(B, Hw, N, N, dtype=dtype, device=device)

    def shapes(self, link: Tensor, sizes: LinkSizes) -> dict[str, tuple[int, ...]]:
        B, Hw, N, _ = sizes
        return {"link": (B, Hw, N, N)}

    def tensors(self, link: Tensor) -> dict[str, Any]:
        return {"link": link}

    def step(
        self,
        link: Tensor,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[Tensor, Tensor, Tensor]:
        link = update_link(link, precedence, write_weights)
        return link, *directional_weightings(link, read_weights)

    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        B, Hw, N, _ = sizes
        held = budget.matrices * budget.itemsize + budget.checkpoints * budget.checkpoint_itemsize
        return held * B * Hw * N * N
