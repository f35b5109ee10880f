"""One held-out sequence, step by step, with all that the model did: for pictures and probes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..dnc import DNC
from ..state import tensors
from ..tasks import GraphTask, Names, Task
from ..trace import Trace
from .answering import answered
from .random import stream_generator

CANDIDATES = 16
"""So many sequences are drawn, and the longest is taken."""

MOST_STEPS = 120
"""Of longer ones the first steps are taken: more could not be told apart in a picture. Episodes on
graphs are taken whole, for their answers come last."""


class Probe(NamedTuple):
    """A sequence and what the model did.

    | field   | shape  | dtype   | meaning                                                       |
    |---------|--------|---------|---------------------------------------------------------------|
    | inputs  | (T, X) | float32 | what the model saw                                            |
    | targets | (T, Y) | float32 | what it should have answered                                  |
    | mask    | (T)    | bool    | the steps on which the answer counts                          |
    | outputs | (T, Y) | float32 | probabilities                                                 |
    | hidden  | (T, H) | float32 | what the controller carried on, of its last layer             |
    | trace   |        |         | what the memory did, see `Trace`                              |
    | names   |        |         | of a graph task, what the labels stand for; else None         |

    A feed-forward controller carries nothing on; its `hidden` has H = 0.
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
        model: of the task's sizes.
        task: where the sequence comes from.
        seed: of the stream; the same seed gives the same sequence.
    """
    device = next(model.parameters()).device
    generator = stream_generator(seed, "held-out")
    task = task.held_out()
    batch = answered(model, task, task.batch(CANDIDATES, generator).to(device))
    longest = int(batch.lengths.argmax())
    steps = None if isinstance(task, GraphTask) else MOST_STEPS
    inputs, targets, mask = (part[:steps, longest] for part in batch[:3])
    training = model.training
    model.eval()
    state, outputs, hidden, traces = None, [], [], []
    with torch.no_grad():
        for step in inputs.split(1):
            output, state, trace = model(step.unsqueeze(1), state, return_trace=True)
            outputs.append(output[:, 0])
            hidden.append(_hidden(state.controller))
            traces.append(Trace(*(part[:, 0] for part in trace)))
    model.train(training)
    return Probe(
        inputs,
        targets,
        mask,
        task.probabilities(torch.cat(outputs)),
        torch.stack(hidden),
        Trace(*map(torch.cat, zip(*traces, strict=True))),
        _names(task, seed, longest),
    )


def _names(task: Task, seed: int, place: int) -> Names | None:
    """What the labels of a sequence stand for: the task draws them before all else of a batch."""
    if not isinstance(task, GraphTask):
        return None
    return task.names(CANDIDATES, stream_generator(seed, "held-out"))[place]


def _hidden(controller: object) -> Tensor:
    """What is carried on of the last layer, (H): of an LSTM its h, the first of two tensors."""
    layer = controller[-1] if isinstance(controller, (tuple, list)) and controller else controller
    first = next(tensors(layer), None)
    return torch.zeros(0) if first is None else first[0]
