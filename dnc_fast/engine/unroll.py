"""Step after step, differentiated by autograd: works for every controller and every option."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..state import DNCState, join_batches, map_tensors

Step = Callable[[Tensor, DNCState], tuple[Tensor, DNCState]]


def unroll(
    step: Step, rows: Tensor, batch_sizes: list[int], state: DNCState
) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through `step`.

    Args:
        step: maps inputs (b, X) and a state to features (b, F) and the next state.
        rows: (sum of batch_sizes, X), one step after another.
        batch_sizes: number of sequences at each step; never increases.
        state: the state before the first step, of batch_sizes[0] sequences.

    Returns:
        features (rows, F), and the state of each sequence after its own last step.
    """
    if torch._C._are_functorch_transforms_active() and len(rows):
        # torch's cells add to a product with the state in place: it must be batched by vmap
        # wherever the inputs are.
        zero = torch.zeros_like(rows[0, 0])
        state = state._replace(
            controller=map_tensors(lambda part: part + zero.to(part.dtype), state.controller)
        )
    features, finished = [], []
    active = batch_sizes[0]
    for inputs, size in zip(rows.split(batch_sizes), batch_sizes, strict=True):
        if size < active:
            finished.append(state.slice_batch(slice(size, active)))
            state = state.slice_batch(slice(0, size))
            active = size
        output, state = step(inputs, state)
        features.append(output)
    if finished:
        state = join_batches([state, *reversed(finished)])
    return torch.cat(features), state
