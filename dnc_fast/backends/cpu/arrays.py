"""Tensors as NumPy arrays for the CPU kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .thread_team import ranges_of, run_ranges


def array(tensor: Tensor) -> np.ndarray:
    """A NumPy array that shares a tensor's memory."""
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    """Contiguous arrays; those of contiguous tensors share their memory."""
    return [array(tensor.contiguous()) for tensor in tensors]


def run_strips(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on `count` strips, shared among as many threads as torch uses."""
    run_ranges(ranges_of(count, torch.get_num_threads()), function, *arguments)
