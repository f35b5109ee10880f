"""The exact least number of moves between states and to goals, by breadth-first search.

Moves do not depend on the numbers of the blocks. So it is enough to search once from one state of
each of the 53 shapes of boards: other states are renamed to it. Letters: B pairs, K constraints,
H shapes, S states.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

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


class Few(NamedTuple):
    """The states with at most some number of blocks. states: (S), their numbers; distances: (H, S)
    and facts: (145, S), of these alone."""

    states: Tensor
    distances: Tensor
    facts: Tensor


@cache
def few_states(blocks: int, device: torch.device) -> Few:
    """The states with at most this many blocks: searching only these takes less time."""
    states = ((all_states(device).boards > 0).sum((1, 2)) <= blocks).nonzero().squeeze(1)
    tables = distances(device), facts(device)
    return Few(states, *(table[:, states].contiguous() for table in tables))


def nearest(shapes: Tensor, goals: Tensor) -> tuple[Tensor, Tensor]:
    """From the starts of shapes (B), the least moves to goals (B, K), and where they lead.

    Returns:
        (B) int64, `FAR` where there is no way; (B) states.
    """
    states = all_states(goals.device)
    blocks = (states.boards[states.starts[shapes]] > 0).sum((1, 2)).max()
    few = few_states(int(blocks), goals.device)
    holds = few.facts[goals[:, 0]]
    for constraint in range(1, goals.shape[1]):
        holds &= few.facts[goals[:, constraint]]
    far, places = few.distances[shapes].masked_fill_(~holds, FAR).min(1)
    return far.long(), few.states[places]


def least_moves(first: Tensor, goals: Tensor) -> Tensor:
    """The least number of moves from states (B) to goals (B, K); `FAR` if there is no way."""
    states = all_states(first.device)
    return nearest(states.shapes[first], renamed(goals, states.ranks[first]))[0]


def best_actions(present: Tensor, goals: Tensor) -> Tensor:
    """The actions that begin a shortest way from states (B) to goals (B, K): (B, 7) bool.

    Where the goal is already reached, that is `PASS` alone. Goals must be within reach.
    """
    following = all_states(present.device).following[present]  # (B, 7)
    goals = goals.repeat_interleave(following.shape[1], 0)
    far = least_moves(following.flatten(), goals).view_as(following)
    best = far < far[:, PASS:]
    best[:, PASS] = far[:, PASS] == 0
    return best


def plan(first: Tensor, goals: Tensor, steps: int) -> Tensor:
    """The best actions from states (B) to goals (B, K): (B, steps), with `PASS` at the goal.

    The goals must be within reach.
    """
    states = all_states(first.device)
    _, reached = nearest(states.shapes[first], renamed(goals, states.ranks[first]))
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
