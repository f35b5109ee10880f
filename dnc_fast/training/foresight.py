"""What a memory holds of the first action before it is known which goal will be asked for.

The DNC paper asks this of Mini-SHRDLU (Graves et al. 2016, figure 5): if the first action towards a
goal can be read from the memory while goals are still being told, the plan was made before it was
asked for.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dnc import DNC
from ..tasks import ShrdluTask
from ..tasks.shrdlu.board import ACTIONS
from ..tasks.shrdlu.episode import hear
from .answering import inference
from .random import stream_generator

EPISODES = 4000
"""Episodes in which goals are told; a classifier is fitted to one half and tested on the other."""


class Foresight(NamedTuple):
    """The share of first actions, in [0, 1], that are right where they are read from

    | field    | what                                                                      |
    |----------|---------------------------------------------------------------------------|
    | asked    | the cells that were written to while the goal was told that is asked next |
    | others   | the cells written to while the other goals were told                      |
    | frequent | nothing: it is always the most frequent action                            |
    """

    asked: float
    others: float
    frequent: float

    def __str__(self) -> str:
        return (
            "the model's first action, read from memory before a goal is asked for: "
            f"{100 * self.asked:.1f} % right from the goal's cells, {100 * self.others:.1f} % from "
            f"those of the other goals, {100 * self.frequent:.1f} % always the most frequent action"
        )


def foresight(model: DNC, task: ShrdluTask, seed: int, episodes: int = EPISODES) -> Foresight:
    """Read the model's first action from its memory at the step before a goal is asked for.

    The cells of a goal are the mean of all cells, weighted by how much each was written to while
    the goal was told. From their W numbers a linear classifier reads the action that the model
    then takes first.

    Args:
        model: of the task's sizes.
        task: its board must be shown "always".
        seed: of the held-out episodes.
        episodes: how many.

    Raises:
        ValueError: the board is hidden while goals are told, so that nobody could plan.
    """
    if task.board != "always":
        raise ValueError(
            f"board must be 'always', got {task.board!r}: no plan can be made while it is hidden"
        )
    cells: dict[str, list[Tensor]] = {"asked": [], "others": []}
    actions = []
    generator = stream_generator(seed, "held-out")
    with inference(model) as device:
        for _ in range(-(-episodes // task.scoring_size)):
            inputs = task.batch(task.scoring_size, generator).inputs.to(device)
            heard = hear(inputs)
            told = len(heard.names)
            _, state, trace = model(inputs[:told], return_trace=True)
            outputs, _ = model(inputs[told : heard.first + 1], state)
            actions.append(outputs[-1, :, :ACTIONS].argmax(-1))
            asked = heard.names == heard.letters
            for name, steps in (("asked", asked), ("others", ~asked & (heard.names >= 0))):
                writes = (trace.write_weights.sum(2) * steps.unsqueeze(-1)).sum(0)  # (B, N)
                shares = writes / writes.sum(-1, keepdim=True).clamp(min=1e-6)
                cells[name].append((shares.unsqueeze(1) @ state.memory.memory).squeeze(1))
    labels = torch.cat(actions)
    fitted, tested = labels.chunk(2)
    found = {name: _read(torch.cat(parts), labels) for name, parts in cells.items()}
    return Foresight(**found, frequent=(tested == fitted.mode().values).double().mean().item())


def _read(features: Tensor, labels: Tensor) -> float:
    """The share of labels (B) that multinomial logistic regression on one half of the features
    (B, F) predicts in the other half."""
    features = F.pad(features.double(), (0, 1), value=1.0)
    half = len(labels) // 2
    weights = features.new_zeros(features.shape[1], ACTIONS, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(features[:half] @ weights, labels[:half])
        found = found + 1e-4 * weights.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        said = (features[half:] @ weights).argmax(-1)
    return (said == labels[half:]).double().mean().item()
