"""How far back a gradient reaches: vanishing and exploding gradients, by time lag."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..tasks import Task
from .answering import answered, inference
from .random import stream_generator

SEQUENCES = 32


def gradient_by_lag(model: Any, task: Task, seed: int) -> Tensor | None:
    """The norm of the gradient of the last answer's loss, for the input k steps earlier, (lags).

    The mean over those of the seed's held-out sequences that are long enough, in nats per unit of
    the input; None if the model passes no gradient to its inputs, as when it reads words.

    Args:
        model: its sizes must be the task's.
        task: draws the sequences.
        seed: of the stream; the same seed gives the same sequences.
    """
    task = task.held_out()
    device = next(model.parameters()).device
    batch = task.batch(SEQUENCES, stream_generator(seed, "held-out")).to(device)
    batch = answered(model, task, batch)
    steps = torch.arange(len(batch.mask), device=device).unsqueeze(1)
    last = (steps * batch.mask).amax(0)
    inputs = batch.inputs.clone().requires_grad_()
    # cuDNN has no backward pass outside training.
    with inference(model), torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        loss = task.loss(model(inputs)[0], batch._replace(mask=steps == last))
        (gradient,) = torch.autograd.grad(loss, inputs, allow_unused=True)
    if gradient is None:
        return None
    norms = SEQUENCES * gradient.norm(dim=-1)
    longest = int(last.max()) + 1
    lags = [norms[last - lag, torch.arange(SEQUENCES)][last >= lag] for lag in range(longest)]
    return torch.stack([of_lag.mean() for of_lag in lags]).cpu()
