"""Step after step, differentiated by autograd: works for every controller and every option."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sequences import Sequences
from ..state import DNCState, join_batches, map_tensors
from .scan import Step, scan


def unroll(
    step: Step, rows: Tensor, sequences: Sequences, state: DNCState
) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through `step`.

    Args:
        step: maps inputs (b, X) and a state to features (b, F) and the next state.
        rows: (rows, X), one step after another.
        sequences: how many rows each step has.
        state: the state before the first step.

    Returns:
        features (rows, F), and the state of each sequence after its own last step.
    """
    if isinstance(sequences.steps, torch.SymInt):
        x = rows.clone(memory_format=torch.contiguous_format).view(
            sequences.steps, sequences.batch_size, -1
        )
        features, final = scan(step, x, state)
        return features.flatten(0, 1), final
    if torch._C._are_functorch_transforms_active() and rows.shape[0]:
        # torch's cells add to a product with the state in place: it must be batched by vmap
        # wherever the inputs are.
        zero = torch.zeros_like(rows[0, 0])
        state = state._replace(
            controller=map_tensors(lambda part: part + zero.to(part.dtype), state.controller)
        )
    outputs, finished = [], []
    active, batch_sizes = sequences.batch_size, sequences.batch_sizes
    for inputs, size in zip(rows.split(batch_sizes), batch_sizes, strict=True):
        if size < active:
            finished.append(state.slice_batch(slice(size, active)))
            state = state.slice_batch(slice(0, size))
            active = size
        output, state = step(inputs, state)
        outputs.append(output)
    if finished:
        state = join_batches([state, *reversed(finished)])
    return torch.cat(outputs), state
