"""A model that answers without learning, and batches whose inputs depend on its answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..dnc import DNC
from ..tasks import Batch, Task
from ..trace import Trace


@contextmanager
def inference(model: nn.Module) -> Iterator[torch.device]:
    """Without gradients and dropout; gives the model's device."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield next(model.parameters()).device
    finally:
        model.train(training)


def traced(model: Any, inputs: Tensor, state: Any) -> tuple[Tensor, Any, Trace | None]:
    """Outputs, state and, of a DNC, what its memory did at each step; None of another model."""
    if isinstance(model, DNC):
        return model(inputs, state, return_trace=True)
    return *model(inputs, state), None


def answered(
    model: Any,
    task: Task,
    batch: Batch,
    generator: torch.Generator | None = None,
    num_cells: int | None = None,
) -> Batch:
    """The batch with the inputs that follow from the model's own answers.

    No gradient is recorded: the result is trained on, or scored, like any other batch, and leads to
    the same outputs again. A task without an answerer leaves the batch as it is.

    Args:
        model: its sizes must be the task's.
        task: the task that drew the batch.
        batch: on the model's device.
        generator: for the random choices that a task makes in training; None for none of them.
        num_cells: memory cells to run with; None for the model's own.
    """
    answerer = task.answerer(batch, generator)
    if answerer is None:
        return batch
    with inference(model):
        state = model.zero_state(batch.inputs.shape[1], num_cells)
        outputs, state = model(answerer.inputs(0, answerer.first), state)
        answerer.take(answerer.first, outputs[-1])
        for step in range(answerer.first + 1, answerer.last + 1):
            outputs, state = model(answerer.inputs(step, step), state)
            answerer.take(step, outputs[-1])
    return answerer.batch()
