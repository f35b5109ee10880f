"""Weightings that keep only their largest entries (after Rae et al. 2016)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..portable import stable_order


class Kept(NamedTuple):
    """The kept entries of a weighting, in increasing order of their cells.

    | field   | shape    | what                                                        |
    |---------|----------|-------------------------------------------------------------|
    | cells   | (..., K) | int64                                                       |
    | entries | (..., K) | before scaling                                              |
    | total   | (..., 1) | what they are scaled to sum to: the sum of the whole        |
    """

    cells: Tensor
    entries: Tensor
    total: Tensor

    @property
    def values(self) -> Tensor:
        """(..., K): the entries, `scaled`."""
        return scaled(self)

    def spread(self, num_cells: int) -> Tensor:
        """The weighting (..., N), zero where nothing was kept."""
        zeros = self.entries.new_zeros(*self.entries.shape[:-1], num_cells)
        return zeros.scatter(-1, self.cells, scaled(self))


def scaled(kept: Kept) -> Tensor:
    """(..., K): the kept entries, scaled; unscaled if they sum to zero.

    With a total of one they are divided by their sum: for a single entry, x / x is exactly
    one and x (1 / x) is not, and that can decide whether a link is dropped.
    """
    part = kept.entries.sum(-1, keepdim=True)
    shares = kept.entries / part.masked_fill(part == 0, 1)
    return torch.where(kept.total == 1, shares, kept.entries * scale_of(kept))


def scale_of(kept: Kept) -> Tensor:
    """(..., 1): the factor of the kept entries."""
    part = kept.entries.sum(-1, keepdim=True)
    empty = part == 0
    return torch.where(empty, 1.0, kept.total / part.masked_fill(empty, 1))


def largest_cells(weights: Tensor, count: int) -> Tensor:
    """The cells of the `count` largest entries, ties by index, in increasing order.

    Args:
        weights: (..., N).
        count: K.

    Returns:
        (..., min(K, N)) int64. No gradient.
    """
    order = stable_order(weights.detach(), descending=True)
    return order[..., :count].sort(-1).values


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """The K largest entries, scaled to the sum of all entries.

    Args:
        weights: (..., N).
        count: K; with N or more, all entries stay as they are.
        unit_sums: scale to a sum of one instead.
    """
    cells = largest_cells(weights, count)
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)


def keep_largest_backward(
    d_values: Tensor, kept: Kept, num_cells: int, unit_sums: bool = False
) -> Tensor:
    """Hand-derived gradient of `keep_largest`.

    With v the entries, s their sum and S the total, so that the values are v S / s:

        dv = (d - d.v / s) S / s, and for all entries, where S is their sum, dS = d.v / s

    Args:
        d_values: (..., K), gradient of the values.
        kept: what `keep_largest` returned.
        num_cells: N.
        unit_sums: its argument.

    Returns:
        gradient of weights (..., N).
    """
    part = kept.entries.sum(-1, keepdim=True)
    empty = part == 0
    pull = (d_values * kept.entries).sum(-1, keepdim=True) / part.masked_fill(empty, 1)
    pull = pull.masked_fill(empty, 0)
    everywhere = torch.zeros_like(pull) if unit_sums else pull
    d_weights = everywhere.expand(*pull.shape[:-1], num_cells).clone()
    return d_weights.scatter_add_(-1, kept.cells, scale_of(kept) * (d_values - pull))
