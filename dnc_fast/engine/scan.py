"""Step after step in a graph for any number of steps, as torch.export records it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..linkages import linkage_of
from ..state import DNCState, map_tensors, tensors

Step = Callable[[Tensor, DNCState], tuple[Tensor, DNCState]]

TOO_OLD = torch.__version__ < "2.8"  # not as strings: it is a TorchVersion
"""Whether torch's scan takes no step that has parameters."""


def scan(step: Step, x: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through `step`, without gradients.

    Args:
        step: maps inputs (B, X) and a state to features (B, F) and the next state.
        x: (T, B, X).
        state: complete, before the first step.

    Returns:
        features (T, B, F), and the state after the last step.

    Raises:
        ValueError: the state grows with every step.
        RuntimeError: torch is too old.
    """
    from torch._higher_order_ops.scan import scan as torch_scan  # as slow to import as torch

    _check_that_it_can(state)
    likes = [(tensor.shape[1:], tensor.dtype) for tensor in tensors(state)]

    def flat(state: DNCState) -> list[Tensor]:
        """A state as torch carries it: matrices (B, ...), whose layout it can tell, of floats."""
        floats = [one if one.is_floating_point() else one.double() for one in tensors(state)]
        return [one.flatten(1).clone() for one in floats]

    def restored(parts: list[Tensor]) -> DNCState:
        pairs = zip(parts, likes, strict=True)
        given = iter([part.view(-1, *shape).to(dtype) for part, (shape, dtype) in pairs])
        return map_tensors(lambda _: next(given), state)

    def next_step(parts: list[Tensor], inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        features, after = step(inputs, restored(parts))
        return flat(after), features

    if not torch.compiler.is_dynamo_compiling():
        torch.compiler.reset()  # otherwise scan may take over the sizes of an earlier export
    with torch.no_grad():
        final, features = torch_scan(next_step, flat(state), x)
    return features, restored(final)


def _check_that_it_can(state: DNCState) -> None:
    link = None if state.memory is None else state.memory.link
    linkage = linkage_of(link)
    others = (
        "export a fixed number of steps, or a single one (DNCCell), or a model with backend "
        '"cpu", "eager" or "triton"'
    )
    if linkage.lengthened(link, 1) is not link:
        raise ValueError(
            "linkage must be one whose state keeps its size for torch.export to take any number of "
            f"steps of the reference, got {linkage.name!r}; {others}"
        )
    if TOO_OLD:
        raise RuntimeError(
            "torch.export of any number of steps of the reference needs torch 2.8 or newer, got "
            f"{torch.__version__}; {others}"
        )
