"""Operations that ONNX lacks, made of those it has while torch.onnx exports a model."""

from __future__ import annotations

import torch
from torch import Tensor

from .untraced import constant


@constant
def _to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def stable_order(keys: Tensor, descending: bool = False) -> Tensor:
    """The index of the entry at each place of the order, ties by index: (..., n), int64.

    For ONNX it is TopK, which puts the lower index first there, though not in torch.
    """
    if _to_onnx():
        return torch.topk(keys, keys.shape[-1], largest=descending).indices
    return torch.argsort(keys, dim=-1, descending=descending, stable=True)


def cumulative_product(factors: Tensor, dim: int) -> Tensor:
    """`torch.cumprod`. For ONNX: products of 1, 2, 4, ... neighbours, each from those before."""
    if not _to_onnx():
        return torch.cumprod(factors, dim)
    products, length = factors.transpose(dim, -1), factors.shape[dim]
    reach = 1
    while reach < length:
        first, last = products[..., :reach], products[..., reach:]
        products = torch.cat([first, last * products[..., : length - reach]], dim=-1)
        reach *= 2
    return products.transpose(dim, -1)
