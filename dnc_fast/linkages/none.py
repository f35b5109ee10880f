"""No temporal memory linkage: a link matrix that stays zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.arrays import Step
from ..step_options import StepOptions
from .base import Linkage, LinkBudget, LinkGradients, LinkRun, LinkSizes


class NoRun(LinkRun):
    """Nothing is linked."""

    def forward(self, step: Step) -> None:
        return None

    def backward(self, *arguments: Any) -> LinkGradients | None:
        return None

    def final(self, matrix: Tensor) -> None:
        return None


class NoLinkage(Linkage):
    """The state's link is None."""

    name = "none"
    link_type = type(None)
    run_type = NoRun

    def empty(self, sizes: LinkSizes, dtype: torch.dtype, device: Any) -> None:
        return None

    def shapes(self, link: None, sizes: LinkSizes) -> dict[str, tuple[int, ...]]:
        return {}

    def step(
        self,
        link: None,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[None, Tensor, Tensor]:
        B, Hw, N = write_weights.shape
        nowhere = write_weights.new_zeros(B, read_weights.shape[1], Hw, N)
        return None, nowhere, nowhere

    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        return 0
