"""One held-out sequence and everything that the model did at each step: for pictures."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dnc import DNC
from ..state import tensors
from ..tasks import GraphTask, Names, Task
from ..trace import Trace
from .answering import answered, inference
from .random import stream_generator

CANDIDATES = 16
"""How many sequences are drawn; the longest is taken."""

MOST_STEPS = 120
"""Longer sequences are cut here, since a picture could not show more steps. Episodes on graphs are
kept whole, because their answers come last."""


class Probe(NamedTuple):
    """A sequence and what the model did.

    | field   | shape  | dtype   | meaning                                                       |
    |---------|--------|---------|---------------------------------------------------------------|
    | inputs  | (T, X) | float32 | what the model saw                                            |
    | targets | (T, Y) | float32 | what it should have answered                                  |
    | mask    | (T)    | bool    | the steps on which the answer counts                          |
    | outputs | (T, Y) | float32 | probabilities                                                 |
    | hidden  | (T, H) | float32 | the hidden state of the controller's last layer               |
    | trace   |        |         | what the memory did, see `Trace`                              |
    | names   |        |         | what the labels of a graph task stand for; otherwise None     |

    A feed-forward controller has no state; its `hidden` has H = 0.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    outputs: Tensor
    hidden: Tensor
    trace: Trace
    names: Names | None


def probe(model: DNC, task: Task, seed: int) -> Probe:
    """Run a model on one of the seed's held-out sequences.

    Args:
        model: its sizes must be the task's.
        task: where the sequence comes from.
        seed: of the stream; the same seed gives the same sequence.
    """
    task = task.held_out()
    state, outputs, hidden, traces = None, [], [], []
    with inference(model) as device:
        batch = task.batch(CANDIDATES, stream_generator(seed, "held-out")).to(device)
        batch = answered(model, task, batch)
        longest = int(batch.lengths.argmax())
        steps = None if isinstance(task, GraphTask) else MOST_STEPS
        inputs, targets, mask = (part[:steps, longest] for part in batch[:3])
        for step in inputs.split(1):
            output, state, trace = model(step.unsqueeze(1), state, return_trace=True)
            outputs.append(output[:, 0])
            hidden.append(_hidden(state.controller))
            traces.append(Trace(*(part[:, 0] for part in trace)))
    names = None
    if isinstance(task, GraphTask):  # drawn before anything else of the batch
        names = task.names(CANDIDATES, stream_generator(seed, "held-out"))[longest]
    return Probe(
        inputs,
        targets,
        mask,
        task.probabilities(torch.cat(outputs)),
        torch.stack(hidden),
        Trace(*map(torch.cat, zip(*traces, strict=True))),
        names,
    )


def _hidden(controller: object) -> Tensor:
    """The hidden state of the last layer, (H): h of an LSTM, which has two tensors."""
    layer = controller[-1] if isinstance(controller, (tuple, list)) and controller else controller
    first = next(tensors(layer), None)
    return torch.zeros(0) if first is None else first[0]
