"""What a backend is: the parts of a memory step, and where they can run.

A backend is a subclass of `Backend` (which itself is "eager") and an entry in
`dnc_fast.backends.choice.REGISTRY`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .. import reference
from ..state import MemoryState
from ..step_options import StepOptions
from . import autograd
from .parts import Parts

FULL_DTYPES = (torch.float32, torch.float64)
"""The dtypes in which hand-derived gradients are computed."""


def full_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic on a state of some dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Backend(Parts):
    """The hand-derived step in plain torch, on every device: the backend "eager".

    Attributes:
        name: its name in `DNC(backend=...)`.
    """

    name: ClassVar[str] = "eager"

    def problem(self, device: torch.device, dtype: torch.dtype) -> Exception | None:
        """The error to raise if it cannot run such a state; None if it can."""
        if dtype in FULL_DTYPES:
            return None
        return ValueError(
            f"backend {self.name!r} needs float32 or float64, got {dtype}; "
            '"reference" accepts every float dtype'
        )

    def step_is_operation(self, state: MemoryState, options: StepOptions) -> bool:
        """Whether `memory_step` can be recorded as it is, see `opaque`."""
        return False

    def memory_step(
        self, vector: Tensor, state: MemoryState, options: StepOptions
    ) -> tuple[Tensor, MemoryState]:
        """One differentiable step; arguments and results as in `memory_step`."""
        dtype = state.memory.dtype
        arithmetic = full_dtype(dtype)
        if dtype == arithmetic:
            return autograd.hand_derived_step(self, vector.to(dtype), state, options)
        reads, final = autograd.hand_derived_step(
            self, vector.to(arithmetic), state.to(arithmetic), options
        )
        return reads.to(dtype), final.to(dtype)

    # The parts as differentiable functions

    def content_weighting(
        self,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> Tensor:
        """See `functional.content_weighting`."""
        return autograd.ContentWeighting.apply(self, similarity, keys, strengths, memory, masks)

    def allocation_weighting(self, usage: Tensor, options: StepOptions) -> Tensor:
        """See `functional.allocation_weighting`."""
        return autograd.AllocationWeighting.apply(self, usage, options)

    def linkage(
        self, link: Tensor, precedence: Tensor, write_weights: Tensor, read_weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `functional.linkage`."""
        found = autograd.DenseLink.apply(self, link, precedence, write_weights, read_weights)
        precedence = reference.update_precedence(precedence, write_weights)
        return found[0], precedence, *found[1:]

    def write_memory(self, *given: Tensor) -> Tensor:
        """See `functional.write_memory`."""
        return autograd.WriteMemory.apply(self, *given)

    def read_memory(self, memory: Tensor, read_weights: Tensor) -> Tensor:
        """See `functional.read_memory`."""
        with torch.autocast(memory.device.type, enabled=False):
            return reference.read_memory(memory, read_weights)
