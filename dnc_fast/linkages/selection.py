"""Weightings of which only the largest entries are kept (after Rae et al. 2016)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Kept(NamedTuple):
    """The entries that are kept of a weighting, in rising order of their cells.

    | field   | shape    | what                                                        |
    |---------|----------|-------------------------------------------------------------|
    | cells   | (..., K) | int64                                                       |
    | entries | (..., K) | as they were                                                |
    | total   | (..., 1) | what they are scaled to sum to: the sum of the whole        |
    """

    cells: Tensor
    entries: Tensor
    total: Tensor

    @property
    def values(self) -> Tensor:
        """(..., K): the entries, scaled; those that sum to zero are not.

        With a total of one they are divided by their sum: of a single entry, x / x is one exactly
        and x (1 / x) is not, and a link would live or die by that.
        """
        part = self.entries.sum(-1, keepdim=True)
        shares = self.entries / part.masked_fill(part == 0, 1)
        return torch.where(self.total == 1, shares, self.entries * self.scale)

    @property
    def scale(self) -> Tensor:
        """(..., 1): what entries are multiplied by."""
        part = self.entries.sum(-1, keepdim=True)
        empty = part == 0
        return torch.where(empty, 1.0, self.total / part.masked_fill(empty, 1))

    def spread(self, num_cells: int) -> Tensor:
        """The weighting (..., N), zero where nothing was kept."""
        zeros = self.entries.new_zeros(*self.entries.shape[:-1], num_cells)
        return zeros.scatter(-1, self.cells, self.values)


def largest_cells(weights: Tensor, count: int) -> Tensor:
    """The cells of the `count` largest entries, ties by index, in rising order.

    Args:
        weights: (..., N).
        count: K.

    Returns:
        (..., min(K, N)) int64. No gradient.
    """
    order = torch.argsort(weights.detach(), dim=-1, descending=True, stable=True)
    return order[..., :count].sort(-1).values


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """The K largest entries, scaled so that their sum is that of all.

    Args:
        weights: (..., N).
        count: K; of N or more, all entries stay as they are.
        unit_sums: scale to sum one instead.
    """
    cells = largest_cells(weights, count)
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)


def keep_largest_backward(
    d_values: Tensor, kept: Kept, num_cells: int, unit_sums: bool = False
) -> Tensor:
    """Gradient of `keep_largest`, derived by hand.

    With v the entries, s their sum and S the total, so that the values are v S / s:

        dv = (d - d.v / s) S / s, and for all entries, where S is their sum, dS = d.v / s

    Args:
        d_values: (..., K), gradient of the values.
        kept: what `keep_largest` returned.
        num_cells: N.
        unit_sums: what it was given.

    Returns:
        gradient of weights (..., N).
    """
    part = kept.entries.sum(-1, keepdim=True)
    empty = part == 0
    pull = (d_values * kept.entries).sum(-1, keepdim=True) / part.masked_fill(empty, 1)
    pull = pull.masked_fill(empty, 0)
    everywhere = torch.zeros_like(pull) if unit_sums else pull
    d_weights = everywhere.expand(*pull.shape[:-1], num_cells).clone()
    return d_weights.scatter_add_(-1, kept.cells, kept.scale * (d_values - pull))
