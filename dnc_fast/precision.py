"""The precision of a run: memory and activations in full, matrix products in full or half."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .backends import FULL_DTYPES
from .checks import autocasts

HALF_DTYPES = (torch.float16, torch.bfloat16)


class Precision(NamedTuple):
    """The dtypes of a run.

    | field | used for                                                                        |
    |-------|---------------------------------------------------------------------------------|
    | full  | the memory, the controller's activations and cells, sums over steps             |
    | half  | operands and results of the controller's matrix products, and so its outputs;   |
    |       | None for full                                                                   |
    """

    full: torch.dtype
    half: torch.dtype | None = None

    @property
    def output(self) -> torch.dtype:
        """Dtype of hidden activations and read vectors, as operands of matrix products."""
        return self.full if self.half is None else self.half

    def operand(self, tensor: Tensor) -> Tensor:
        """A tensor in the dtype of matrix products."""
        return tensor if self.half is None else tensor.to(self.half)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a b."""
        return self.operand(a) @ self.operand(b)

    def fill(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None) -> None:
        """out = a b + bias, out in full."""
        if self.half is not None:
            product = self.product(a, b)
            out.copy_(product) if bias is None else torch.add(product, bias, out=out)
        elif bias is None:
            torch.mm(a, b, out=out)
        else:
            torch.addmm(bias, a, b, out=out)

    def add(self, out: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """out += a b, out in full; returns out."""
        return out.addmm_(a, b) if self.half is None else out.add_(self.product(a, b))


def run_precision(weight: Tensor, x: Tensor, memory: torch.dtype) -> Precision | None:
    """The precision of a run; None if the engine does not support the dtypes.

    Args:
        weight: a parameter of the cell.
        x: its inputs.
        memory: dtype of the memory.
    """
    if memory not in FULL_DTYPES:
        return None
    if autocasts(x.device):
        dtype = torch.get_autocast_dtype(x.device.type)
        half = dtype if dtype in HALF_DTYPES else None
        fits = weight.dtype == memory == torch.float32 and half is not None
        return Precision(memory, half) if fits else None
    if x.dtype != weight.dtype:
        return None
    if weight.dtype in HALF_DTYPES:
        return Precision(memory, weight.dtype)
    return Precision(memory, None) if weight.dtype == memory else None
