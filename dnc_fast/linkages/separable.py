"""Temporal memory linkage without a link matrix: a sum of outer products, one per write.

The link matrix decays by (1 - ww_i) (1 - ww_j) instead of (1 - ww_i - ww_j). The two are equal
if a step writes to at most one cell, and the new one makes L_t a function of the writes alone:

    L_t = sum_s A_s C_s^T without its diagonal
    A_s = ww_s g_s;  C_s = p_{s-1} g_s;  g_s = prod over the writes k after s of (1 - ww_k)

Letters: S writes so far.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_integer
from ..kernels.arrays import Step
from ..portable import cumulative_product
from ..step_options import StepOptions
from .base import Linkage, LinkBudget, LinkGradients, LinkRun, LinkSizes


class SeparableLink(NamedTuple):
    """The writes so far, oldest first, that make up the link matrix.

    | field         | shape         | meaning                                               |
    |---------------|---------------|-------------------------------------------------------|
    | write_weights | (B, Hw, S, N) | ww_s                                                  |
    | precedence    | (B, Hw, S, N) | p_{s-1}, before the write                             |
    """

    write_weights: Tensor
    precedence: Tensor

    def last(self, count: int) -> SeparableLink:
        """The newest `count` writes; older ones and their links are forgotten.

        Raises:
            ValueError: count is negative.
        """
        check_integer("count", count, minimum=0)
        start = max(self.write_weights.shape[-2] - count, 0)
        return SeparableLink(*(tensor[..., start:, :] for tensor in self))

    def filled(self, count: int) -> SeparableLink:
        """The same link with `count` writes; the added ones are empty and change nothing."""
        room = (0, 0, 0, count - self.write_weights.shape[-2])
        return SeparableLink(*(torch.nn.functional.pad(tensor, room) for tensor in self))


def check_room(link: SeparableLink, steps: int, capacity: int) -> None:
    """Raise unless a link has room for `steps` more writes.

    Raises:
        ValueError: it would hold more than `capacity`.
    """
    held = link.write_weights.shape[-2]
    if held + steps > capacity:
        part = "" if steps <= capacity else f"give the sequence in parts of at most {capacity}, "
        raise ValueError(
            f"a separable link holds at most link_history={capacity} writes, got {held} in "
            f"state.memory.link and {steps} more to come; raise link_history, or {part}drop the "
            "oldest with state.memory.link.last(count)"
        )


def extend_separable_link(
    link: SeparableLink, precedence: Tensor, write_weights: Tensor
) -> SeparableLink:
    """The link with one more write, given the precedence before it and its write weightings."""
    return SeparableLink(
        torch.cat([link.write_weights, write_weights.unsqueeze(-2)], dim=-2),
        torch.cat([link.precedence, precedence.unsqueeze(-2)], dim=-2),
    )


def decays(write_weights: Tensor) -> Tensor:
    """g (B, Hw, S, N): how much of each write is left after the later ones."""
    after = torch.cat(
        [1 - write_weights[..., 1:, :], torch.ones_like(write_weights[..., :1, :])], dim=-2
    )
    return cumulative_product(after.flip(-2), dim=-2).flip(-2)


def separable_directional_weightings(
    link: SeparableLink, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """forward_r = L_t wr_{t-1,r};  backward_r = L_t^T wr_{t-1,r}.

    Args:
        link: of this step, S writes.
        read_weights: (B, R, N), of the previous step.

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
    """L v and L^T v for vectors (B, Hw or 1, R, N), each (B, Hw, R, N)."""
    diagonal = (rows * columns).sum(-2, keepdim=True) * vectors
    ahead = (vectors @ columns.mT) @ rows - diagonal
    return ahead, (vectors @ rows.mT) @ columns - diagonal


def separable_products(link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L_t v and L_t^T v for vectors (B, R, N), each (B, Hw, R, N)."""
    return _products(*_factors(link), vectors.unsqueeze(1))


def separable_directional_weightings_backward(
    d_ahead: Tensor, d_behind: Tensor, link: SeparableLink, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Hand-derived gradients of `separable_directional_weightings` with respect to the link.

    With D = sum_r (dfwd_r + dbwd_r) wr_r:

        dA_s = sum_r dfwd_r (C_s.wr_r) + wr_r (C_s.dbwd_r) - C_s D
        dC_s = sum_r wr_r (A_s.dfwd_r) + dbwd_r (A_s.wr_r) - A_s D
        dww_s = g_s (dA_s - e_{s-1});  dp_{s-1} = g_s dC_s
        e_s = ww_s dA_s + p_{s-1} dC_s + (1 - ww_s) e_{s-1},  e_0 = 0

    e_s is the gradient of g_s. That of the read weightings is L^T dfwd + L dbwd, see
    `separable_products`.

    Args:
        d_ahead, d_behind: (B, R, Hw, N).
        link, read_weights: the function's arguments.

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


class SeparableRun(LinkRun):
    """A separable link in plain torch, to which each step adds its write.

    A backend overrides `products`, and `products_backward` or all of `add_gradient`.
    """

    def __init__(self, link: SeparableLink, options: StepOptions, steps: int, keep: bool) -> None:
        super().__init__(link, options, steps, keep)
        check_room(link, steps, options.link_history)
        B, Hw, held, N = link.write_weights.shape
        self._first = self._writes = held
        self._history = SeparableLink(
            *(tensor.new_zeros(held + steps, B, Hw, N) for tensor in link)
        )
        for history, tensor in zip(self._history, link, strict=True):
            history[:held] = tensor.detach().permute(2, 0, 1, 3)
        self._gradient = self._history
        self._versions: list[int] = []

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        active = len(step.read0)
        self._history.write_weights[self._writes, :active] = step.write1
        self._history.precedence[self._writes, :active] = step.precedence0
        self._writes += 1
        return self.products(self._so_far(self._history, active), step.read0)

    def final(self, matrix: Tensor) -> SeparableLink:
        if self.keep:
            self._versions = [tensor._version for tensor in self._history]
        return self._so_far(self._history, self._history.precedence.shape[1])

    def _so_far(self, tensors: SeparableLink, active: int) -> SeparableLink:
        """The writes so far, for the sequences in a step, (b, Hw, S, N) each."""
        return SeparableLink(
            *(tensor[: self._writes, :active].permute(1, 2, 0, 3) for tensor in tensors)
        )

    def begin_backward(self, d_final: list[Tensor | None]) -> None:
        handed_out = bool(self._versions)
        if handed_out and self._versions != [tensor._version for tensor in self._history]:
            raise RuntimeError(
                "state.memory.link was modified in place before the backward pass, which needs the "
                "writes that it holds; modify a copy instead"
            )
        self._gradient = SeparableLink(
            *(
                torch.zeros_like(history)
                if given is None
                else given.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
                for given, history in zip(d_final, self._history, strict=True)
            )
        )

    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients:
        link = self._so_far(self._history, len(step.read0))
        x, y = self.products(link, d_read)
        gradient = self._so_far(self._gradient, len(step.read0))
        self.add_gradient(gradient, link, d_read, step.read0, modes_ahead, modes_behind)
        self._writes -= 1
        d_write, d_precedence = (tensor[:, :, -1] for tensor in gradient)
        return LinkGradients(x, y, d_write, d_precedence)

    def gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        return [part[: self._first].permute(1, 2, 0, 3) for part in self._gradient]

    def products(self, link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """L_t v and L_t^T v for vectors (B, R, N), each (B, Hw, R, N)."""
        return separable_products(link, vectors)

    def products_backward(
        self, d_ahead: Tensor, d_behind: Tensor, link: SeparableLink, read_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `separable_directional_weightings_backward`."""
        return separable_directional_weightings_backward(d_ahead, d_behind, link, read_weights)

    def add_gradient(
        self,
        gradient: SeparableLink,
        link: SeparableLink,
        d_read: Tensor,
        last: Tensor,
        modes_ahead: Tensor,
        modes_behind: Tensor,
    ) -> None:
        """Add the gradients of both directional weightings to those of the writes.

        Args:
            gradient, link: at step t, (B, Hw, S, N) each.
            d_read: (B, R, N), gradient of the read weightings of step t.
            last: (B, R, N), those of step t - 1.
            modes_ahead, modes_behind: (B, R, Hw).
        """
        d_ahead, d_behind = (
            modes.unsqueeze(-1) * d_read.unsqueeze(2) for modes in (modes_ahead, modes_behind)
        )
        parts = self.products_backward(d_ahead, d_behind, link, last)
        for tensor, part in zip(gradient, parts, strict=True):
            tensor += part


class SeparableLinkage(Linkage):
    """The writes so far, a `SeparableLink`."""

    name = "separable"
    link_type = SeparableLink
    run_type = SeparableRun

    def empty(self, sizes: LinkSizes, dtype: torch.dtype, device: Any) -> SeparableLink:
        B, Hw, N, _ = sizes
        return SeparableLink(
            *(torch.zeros(B, Hw, 0, N, dtype=dtype, device=device) for _ in range(2))
        )

    def shapes(self, link: SeparableLink, sizes: LinkSizes) -> dict[str, tuple[int, ...]]:
        B, Hw, N, _ = sizes
        writes = link.write_weights
        shape = (B, Hw, writes.shape[-2] if writes.dim() == 4 else 0, N)
        return {"link.write_weights": shape, "link.precedence": shape}

    def lengthened(self, link: SeparableLink, steps: int) -> SeparableLink:
        """See `Linkage.lengthened`; it grows with each write."""
        return link.filled(link.write_weights.shape[-2] + steps)

    def join(self, links: list[SeparableLink]) -> list[SeparableLink]:
        """Pad links that have fewer writes with empty ones."""
        most = max(link.write_weights.shape[-2] for link in links)
        return [link.filled(most) for link in links]

    def step(
        self,
        link: SeparableLink,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[SeparableLink, Tensor, Tensor]:
        """See `Linkage.step`.

        Raises:
            ValueError: the link is full.
        """
        check_room(link, 1, options.link_history)
        link = extend_separable_link(link, precedence, write_weights)
        return link, *separable_directional_weightings(link, read_weights)

    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        """All writes, and their gradients."""
        B, Hw, N, _ = sizes
        return 4 * budget.steps * B * Hw * N * budget.itemsize + budget.in_passing(sizes)
