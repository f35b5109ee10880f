"""Step after step in a graph for any number of steps, recorded by torch.export."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linkages import linkage_of
from ..state import DNCState, map_tensors, tensors
from .unroll import Step


def scan(step: Step, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through `step`, without gradients.

    Args:
        step: maps inputs (B, X) and a state to features (B, F) and the next state.
        x: (T, B, X).
        state: the state before the first step.

    Returns:
        features (T, B, F), and the state after the last step.

    Raises:
        ValueError: the state grows with every step.
    """
    from torch._higher_order_ops.scan import scan as torch_scan

    linkage = linkage_of(state.memory.link)
    if linkage.lengthened(state.memory.link, 1) is not state.memory.link:
        raise ValueError(
            f"linkage must be one whose state keeps its size to export any number of steps with "
            f'backend "reference" or "auto", got {linkage.name!r}; export a fixed number of steps, '
            'or a single one (DNCCell), or with backend "cpu", "eager" or "triton"'
        )

    def next_step(carried: list[Tensor], inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        features, after = step(inputs, like_state(carried))
        return [tensor.to(_carried(tensor), copy=True) for tensor in tensors(after)], features

    def like_state(carried: list[Tensor]) -> DNCState:
        parts = iter(carried)
        return map_tensors(lambda tensor: next(parts).to(tensor.dtype), state)

    if not torch.compiler.is_dynamo_compiling():
        torch.compiler.reset()  # else it may take over the sizes of an earlier export
    first = [tensor.to(_carried(tensor)) for tensor in tensors(state)]
    with torch.no_grad():
        final, features = torch_scan(next_step, first, x)
    return features, like_state(final)


def _carried(tensor: Tensor) -> torch.dtype:
    """The dtype in which `scan` carries a tensor: a floating-point one, also for integers."""
    return tensor.dtype if tensor.is_floating_point() else torch.float64
