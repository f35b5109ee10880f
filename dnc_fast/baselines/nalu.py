"""Layers that add, subtract, multiply and divide: NAC and NALU (Trask et al. 2018).

What they learn holds for numbers far outside those of training, since their weights tend to -1, 0
and 1, and no activation bounds their outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-7
"""Added to the sizes of numbers before their logarithms are taken."""


class NAC(nn.Module):
    """y = W x with W = tanh(V) sigmoid(M), each of which is learned: sums and differences.

    Args:
        in_features, out_features: sizes of x (..., in_features) and y (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.signs = nn.Parameter(torch.empty(out_features, in_features))
        self.sizes = nn.Parameter(torch.empty(out_features, in_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        for parameter in (self.signs, self.sizes):
            nn.init.xavier_uniform_(parameter)

    @property
    def weight(self) -> Tensor:
        """W, (out_features, in_features), in (-1, 1)."""
        return self.signs.tanh() * self.sizes.sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class NALU(nn.Module):
    """y = g (W x) + (1 - g) exp(W log(|x| + epsilon)) with g = sigmoid(G x): products and quotients
    too, without their signs.

    Args:
        in_features, out_features: sizes of x (..., in_features) and y (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.sums = NAC(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        products = F.linear((x.abs() + EPSILON).log(), self.sums.weight).exp()
        return gate * self.sums(x) + (1 - gate) * products
