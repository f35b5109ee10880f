"""The exact least number of moves between states and to goals, by breadth-first search.

Moves do not depend on the numbers of the blocks. So it is enough to search once from one state of
each of the 53 shapes of boards: other states are renamed to it. Letters: B pairs, K constraints,
H shapes, S states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .board import MOVES, PASS, all_states, per_device, states_of
from .goals import facts, renamed

FAR = 100
"""Stands for the number of moves between boards of different blocks."""


@per_device
def distances() -> Tensor:
    """The least number of moves from the start of each shape to each state: (H, S) int8."""
    states = all_states()
    far = torch.full((len(states.starts), len(states.keys)), FAR, dtype=torch.int8)
    far.scatter_(1, states.starts.unsqueeze(1), 0)
    while True:
        # Every move can be taken back, so one step away from a state means one step from it.
        around = far[:, states.following[:, : len(MOVES)]].amin(2)
        nearer = torch.minimum(far, (around + 1).clamp(max=FAR))
        if torch.equal(nearer, far):
            return far
        far = nearer


def between(first: Tensor, second: Tensor) -> Tensor:
    """The least number of moves from states (B) to states (B), or back: (B) int64."""
    states = all_states(first.device)
    shapes = states.shapes[first]
    boards = states.boards[second]
    boards = states.ranks[first].gather(1, boards.flatten(1)).view_as(boards)
    far = distances(first.device)[shapes, states_of(boards).clamp(max=len(states.keys) - 1)]
    same = (states.boards[first] > 0).sum((1, 2)) == (states.boards[second] > 0).sum((1, 2))
    return torch.where(same, far.long(), FAR)


def reaching(shapes: Tensor, goals: Tensor) -> Tensor:
    """From the starts of shapes (B), the least moves to each state, `FAR` to those in which goals
    (B, K) do not hold: (B, S) int8."""
    reaches = facts(goals.device)
    holds = reaches[goals[:, 0]]
    for constraint in range(1, goals.shape[1]):
        holds &= reaches[goals[:, constraint]]
    return distances(goals.device)[shapes].masked_fill_(~holds, FAR)


def least_moves(first: Tensor, goals: Tensor) -> Tensor:
    """The least number of moves from states (B) to goals (B, K); `FAR` if there is no way."""
    states = all_states(first.device)
    return reaching(states.shapes[first], renamed(goals, states.ranks[first])).amin(1).long()


def plan(first: Tensor, goals: Tensor, steps: int) -> Tensor:
    """The best actions from states (B) to goals (B, K): (B, steps), with `PASS` at the goal.

    The goals must be within reach.
    """
    states = all_states(first.device)
    reached = reaching(states.shapes[first], renamed(goals, states.ranks[first])).argmin(1)
    boards = states.boards[reached]
    end = states_of(states.readings[first].gather(1, boards.flatten(1)).view_as(boards))
    present, actions = first, []
    for _ in range(steps):
        following = states.following[present]  # (B, 7)
        far = between(end.repeat_interleave(following.shape[1]), following.flatten())
        action = far.view_as(following)[:, :PASS].argmin(1)
        actions.append(torch.where(present == end, PASS, action))
        present = following.gather(1, actions[-1].unsqueeze(1)).squeeze(1)
    return torch.stack(actions, 1)
