"""Moves towards goals of Mini-SHRDLU and what they are rewarded with."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .board import all_states
from .goals import NOTHING, satisfied


class Costs(NamedTuple):
    """What is taken from the reward: for an invalid move; for undoing, times the share undone."""

    invalid: float
    undoing: float


class Play:
    """Games of B boards, all with a goal.

    An action is rewarded with the share of the goal's constraints that it satisfies, less the share
    that it undoes, less the costs. Without costs, all rewards sum to the share gained.

    Args:
        states: (B) in which they begin.
        goals: (B, K) codes.
        costs: of bad moves.
    """

    def __init__(self, states: Tensor, goals: Tensor, costs: Costs) -> None:
        self.states = states
        self._goals, self._costs = goals, costs
        self._sizes = (goals != NOTHING).sum(1)
        self._tables = all_states(states.device)

    @property
    def shares(self) -> Tensor:
        """The share of the constraints that is satisfied now, (B)."""
        return satisfied(self.states, self._goals).float() / self._sizes

    def act(self, actions: Tensor) -> Tensor:
        """Take actions (B); their rewards (B)."""
        valid, before = self._tables.valid[self.states, actions], self.shares
        self.states = self._tables.following[self.states, actions]
        gained = self.shares - before
        undone = (-gained).clamp(min=0)
        return gained - self._costs.undoing * undone - self._costs.invalid * ~valid
