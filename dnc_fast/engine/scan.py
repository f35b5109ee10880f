"""Step after step in a graph for any number of steps, recorded by torch.export."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..linkages import linkage_of
from ..state import DNCState, map_tensors, tensors

Step = Callable[[Tensor, DNCState], tuple[Tensor, DNCState]]


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

    likes = [(tensor.shape[1:], tensor.dtype) for tensor in tensors(state)]

    def carried(state: DNCState) -> list[Tensor]:
        """Matrices (B, ...) of floats, whose contiguity torch can tell, in memory of their own."""
        parts = [tensor.flatten(1) for tensor in tensors(state)]
        return [p.to(p.dtype if p.is_floating_point() else torch.float64, copy=True) for p in parts]

    def restored(parts: list[Tensor]) -> DNCState:
        given = iter(
            [p.view(-1, *shape).to(dtype) for p, (shape, dtype) in zip(parts, likes, strict=True)]
        )
        return map_tensors(lambda _: next(given), state)

    def next_step(parts: list[Tensor], inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        features, after = step(inputs, restored(parts))
        return carried(after), features

    if not torch.compiler.is_dynamo_compiling():
        torch.compiler.reset()  # else it may take over the sizes of an earlier export
    with torch.no_grad():
        final, features = torch_scan(next_step, carried(state), x)
    return features, restored(final)
