"""One held-out sequence and everything that the model did at each step: for pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..dnc import DNC
from ..state import DNCState, tensors
from ..tasks import GraphTask, Names, Task
from ..trace import Trace
from .answering import answered, inference, traced
from .random import stream_generator
from .watching import Attended, attended, watched_gates

CANDIDATES = 16
"""How many sequences are drawn; the longest is taken."""

MOST_STEPS = 120
"""Longer sequences are cut here, since a picture could not show more steps. Episodes on graphs are
kept whole, because their answers come last."""


MOMENTS = 6
"""After how many steps the contents of the memory are kept."""

MOST_CELLS = 256
"""Larger memories are not kept, since a picture could not show their cells."""


class Moment(NamedTuple):
    """The memory after a step.

    | field  | shape      | meaning                                               |
    |--------|------------|-------------------------------------------------------|
    | step   |            | the number of the step, from 0                        |
    | memory | (N, W)     | the cells                                             |
    | link   | (Hw, N, N) | the link matrices; None if the link is not a matrix   |
    """

    step: int
    memory: Tensor
    link: Tensor | None


class Probe(NamedTuple):
    """A sequence and what the model did.

    | field   | shape  | dtype   | meaning                                                       |
    |---------|--------|---------|---------------------------------------------------------------|
    | inputs  | (T, X) | float32 | what the model saw                                            |
    | targets | (T, Y) | float32 | what it should have answered                                  |
    | mask    | (T)    | bool    | the steps on which the answer counts                          |
    | outputs | (T, Y) | float32 | probabilities                                                 |
    | hidden  | (T, H) | float32 | the hidden state of the controller's last layer               |
    | cells   | (T, H) | float32 | the cell state of an LSTM's last layer                        |
    | trace   |        |         | what a DNC's memory did, see `Trace`; None of another model   |
    | names   |        |         | what the labels of a graph task stand for; otherwise None     |
    | words   |        |         | each step's word, see `Task.words`; otherwise None            |
    | moments |        |         | the memory after some steps, see `Moment`                     |
    | gates   | (T, H) | float32 | by name, of the last layer of an LSTM or GRU; otherwise empty |
    | looks   |        |         | where the model looks, see `Attended`; None without attention |

    Where there is no hidden state, as in a feed-forward controller, `hidden` has H = 0; so have all
    `cells` but an LSTM's.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    outputs: Tensor
    hidden: Tensor
    trace: Trace | None
    names: Names | None
    cells: Tensor
    words: list[str] | None
    moments: list[Moment]
    gates: dict[str, Tensor]
    looks: Attended | None


def probe(model: Any, task: Task, seed: int) -> Probe:
    """Run a model on one of the seed's held-out sequences.

    Args:
        model: its sizes must be the task's.
        task: where the sequence comes from.
        seed: of the stream; the same seed gives the same sequence.
    """
    task = task.held_out()
    state, outputs, hidden, cells, traces, moments = None, [], [], [], [], []
    with inference(model) as device:
        batch = task.batch(CANDIDATES, stream_generator(seed, "held-out")).to(device)
        batch = answered(model, task, batch)
        longest = int(batch.lengths.argmax())
        steps = None if isinstance(task, GraphTask) else MOST_STEPS
        inputs, targets, mask = (part[:steps, longest] for part in batch[:3])
        shown = set(torch.linspace(0, len(inputs) - 1, MOMENTS).round().int().tolist())
        if not isinstance(model, DNC) or model.config.num_cells > MOST_CELLS:
            shown = set()
        with watched_gates(model) as gates:
            for number, step in enumerate(inputs.split(1)):
                output, state, trace = traced(model, step.unsqueeze(1), state)
                outputs.append(output[:, 0])
                parts = _of_last_layer(model, state)
                hidden.append(parts[0])
                cells.append(parts[1])
                if trace is not None:
                    traces.append(Trace(*(part[:, 0] for part in trace)))
                if number in shown:
                    link = state.memory.link
                    link = link[0] if isinstance(link, Tensor) else None
                    moments.append(Moment(number, state.memory.memory[0], link))
        words = task.words(inputs)
        looks = attended(model, inputs, words)
    names = None
    if isinstance(task, GraphTask):  # drawn before anything else of the batch
        names = task.names(CANDIDATES, stream_generator(seed, "held-out"))[longest]
    return Probe(
        inputs,
        targets,
        mask,
        task.probabilities(torch.cat(outputs)),
        torch.stack(hidden),
        Trace(*map(torch.cat, zip(*traces, strict=True))) if traces else None,
        names,
        torch.stack(cells),
        words,
        moments,
        {name: torch.cat(values) for name, values in gates.items()},
        looks,
    )


def _of_last_layer(model: Any, state: Any) -> tuple[Tensor, Tensor]:
    """The hidden state of the last layer, (H), and the cell state, which only an LSTM has."""
    if isinstance(state, DNCState):
        layer = state.controller
        layer = layer[-1] if isinstance(layer, (tuple, list)) and layer else layer
    else:
        layer = model.units(state)
    parts = [part[0] for part in tensors(layer)][:2]
    none = torch.zeros(0)
    return (parts or [none])[0], parts[1] if len(parts) == 2 else none


def transcript(words: list[str], counts: Tensor, wanted: list[str], said: list[str]) -> str:
    """A sequence in words, a line for each sentence, with the answers that were wanted and said.

    Args:
        words: of each step.
        counts: (T), the steps at which an answer counts.
        wanted, said: the answers of each step, right and the model's.
    """
    if counts.float().mean() > 0.5:  # every step is answered: two texts, one below the other
        gap = " " * (max(map(len, (*words, *wanted, *said))) > 1)
        return "\n".join(
            f"{name:<8}{gap.join(line)}"
            for name, line in (("read", words), ("wanted", wanted), ("said", said))
        )
    lines, line = [], []
    for word, counted, right, given in zip(words, counts.tolist(), wanted, said, strict=True):
        if counted:
            line.append(given if right == given else f"{given} (the answer is {right})")
        else:
            line.append(word)
        if counted or word == ".":
            lines.append(" ".join(line))
            line = []
    return "\n".join([*lines, " ".join(line)]).strip()
