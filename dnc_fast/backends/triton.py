"""The memory step by the Triton kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, Step
from ..kernels.gpu import step as kernels
from ..kernels.gpu.lstm import backward as lstm_backward
from ..kernels.gpu.lstm import forward as lstm_forward
from ..state import MemorySizes, MemoryState

__all__ = [
    "array",
    "backward",
    "forward",
    "lstm_backward",
    "lstm_forward",
    "make_scratch",
    "rebuild",
]


def array(tensor: Tensor) -> Tensor:
    """What the primitives take for a tensor: itself."""
    return tensor.detach()


def make_scratch(
    sizes: MemorySizes, dtype: torch.dtype, device: torch.device
) -> kernels.Scratch | None:
    """Arrays that the kernels of a step leave for each other."""
    return kernels.make_scratch(*sizes, dtype, device)


def forward(step: Step, scratch: kernels.Scratch | None, usage_order: str) -> None:
    """Fill step.*1 and step.reads."""
    kernels.forward(step, scratch, usage_order == "robust")


def rebuild(step: Step, scratch: kernels.Scratch | None, with_link: bool) -> None:
    """Fill memory1, and link1 if asked, from memory0, link0 and the vectors."""
    kernels.rebuild(step, scratch, with_link)


def backward(
    step: Step, adjoint: Adjoint, scratch: kernels.Scratch | None, usage_order: str
) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place.
    """
    kernels.backward(step, adjoint, scratch, usage_order == "robust")


def memory_step(vector: Tensor, state: MemoryState, usage_order: str) -> tuple[Tensor, MemoryState]:
    """One step as an op that torch knows; a state in half precision is calculated in float32."""
    dtype = state.memory.dtype
    arithmetic = torch.promote_types(dtype, torch.float32)
    fields = state if dtype == arithmetic else state.to(arithmetic)
    read_vectors, *new_state = kernels.memory_step(vector, *fields, usage_order == "robust")
    result = MemoryState(*new_state)
    if dtype != arithmetic:
        return read_vectors.to(dtype), result.to(dtype)
    return read_vectors, result
