"""Tensors as the arrays that the CPU kernels take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .team import ranges_of, run_ranges


def array(tensor: Tensor) -> np.ndarray:
    """A NumPy array on the memory of a tensor."""
    return tensor.detach().numpy()


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Contiguous arrays, on the memory of those tensors that are contiguous themselves."""
    return [array(tensor.contiguous()) for tensor in tensors]


def run_strips(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """A kernel on so many strips, shared out over torch's threads."""
    run_ranges(ranges_of(count, torch.get_num_threads()), function, *arguments)
