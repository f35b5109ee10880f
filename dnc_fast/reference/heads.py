"""Products over heads, and their gradients without a division (a factor may be zero)."""

from __future__ import annotations

import torch
from torch import Tensor


def product_over_heads(factors: Tensor) -> Tensor:
    """(B, heads, ...) -> (B, ...). Head after head: `prod`'s gradient would divide by a factor."""
    product, *others = factors.unbind(1)
    for factor in others:
        product = product * factor
    return product


def products_of_others(factors: Tensor) -> Tensor:
    """(B, heads, ...): for each head, the product of all the others."""
    if factors.shape[1] == 1:
        return torch.ones_like(factors)
    ones = torch.ones_like(factors[:, :1])
    before = torch.cat([ones, factors[:, :-1]], dim=1).cumprod(1)
    after = torch.cat([ones, factors.flip(1)[:, :-1]], dim=1).cumprod(1).flip(1)
    return before * after
