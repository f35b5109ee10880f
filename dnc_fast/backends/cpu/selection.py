"""The largest entries of long weightings, without a full sort."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...kernels.cpu import selection
from ...linkages import selection as plain
from ...linkages.selection import Kept
from .arrays import array

FEW = 4096
"""Up to this many cells, sorting in plain torch is as fast as a pass that selects."""


def largest(weights: np.ndarray, sign: int, count: int) -> np.ndarray:
    """The cells of the `count` largest of sign * weights, ties by cell, in increasing order."""
    if count == len(weights):
        return np.arange(count)
    room = 2 * count + 1
    cells = np.empty(room, np.int64)
    selection.largest(
        weights,
        weights.dtype.type(sign),
        count,
        np.empty(room, weights.dtype),
        cells,
        np.empty(room, np.int64),
        np.empty(room, np.int64),
    )
    return cells[:count]


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """See `linkages.selection.keep_largest`."""
    if weights.shape[-1] <= FEW or count >= weights.shape[-1]:
        return plain.keep_largest(weights, count, unit_sums)
    rows = array(weights.contiguous()).reshape(-1, weights.shape[-1])
    found = [torch.from_numpy(largest(row, 1, count)) for row in rows]
    cells = torch.stack(found).view(*weights.shape[:-1], count)
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)
