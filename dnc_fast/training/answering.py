"""Batches whose inputs depend on the answers: a model answers them step by step."""

from __future__ import annotations

import torch

from ..dnc import DNC
from ..tasks import Batch, Task


def answered(
    model: DNC,
    task: Task,
    batch: Batch,
    generator: torch.Generator | None = None,
    num_cells: int | None = None,
) -> Batch:
    """The batch with the inputs that the model's own answers lead to.

    No gradient is recorded: what comes back is trained on, or scored, like any other batch, and
    gives the same outputs again. Of a task without an answerer it is the batch itself.

    Args:
        model: of the task's sizes.
        task: that drew the batch.
        batch: on the model's device.
        generator: of the task's chance in training; None for none.
        num_cells: memory cells to run with; None for the model's own.
    """
    answerer = task.answerer(batch, generator)
    if answerer is None:
        return batch
    training = model.training
    model.eval()
    with torch.no_grad():
        state = model.zero_state(batch.inputs.shape[1], num_cells)
        outputs, state = model(answerer.inputs(0, answerer.first), state)
        answerer.take(answerer.first, outputs[-1])
        for step in range(answerer.first + 1, answerer.last + 1):
            outputs, state = model(answerer.inputs(step, step), state)
            answerer.take(step, outputs[-1])
    model.train(training)
    return answerer.batch()
