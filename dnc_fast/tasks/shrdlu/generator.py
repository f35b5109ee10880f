"""Draws boards of Mini-SHRDLU, and goals that need a given number of moves.

A candidate is a few constraints that hold in a random state at that distance from the start, so the
goal needs no more moves; the exact search says whether it needs fewer. Letters: B goals, K
constraints, S states, H shapes, D distances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..base import random_shares, span, uniform
from .board import BLOCKS, all_states, per_device
from .goals import CODES, NOTHING, decode, encode, facts, renamed
from .search import FAR, distances, nearest

TRIES = 20
"""Candidates for a number of moves and constraints before other numbers are drawn."""

MOST_TRIES = 1000
"""Candidates before the wanted goals are taken for impossible."""

ONE_WAY = 2
"""The first two relations tell of every pair of neighbours once; the others are their reverses."""


class Order(NamedTuple):
    """Members in groups. members: (H, S) the groups in order. begins: (H, D) of each group."""

    members: Tensor
    begins: Tensor

    def draw(self, row: Tensor, group: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random member of groups (B) in rows (B), and (B) whether the group has any."""
        group = group.clamp(max=self.begins.shape[1] - 2)
        begin, end = self.begins[row, group], self.begins[row, group + 1]
        place = begin + (random_shares(tuple(row.shape), generator) * (end - begin)).long()
        place = torch.minimum(place, end - 1).clamp(min=0)
        return self.members[row, place], begin < end


def _order(groups: Tensor) -> Order:
    """The members of groups (H, S), numbered from 0."""
    begins = [(groups < group).sum(1) for group in range(int(groups.max()) + 2)]
    return Order(groups.argsort(dim=1, stable=True), torch.stack(begins, 1))


@per_device
def states_by_distance() -> Order:
    """For the start of each shape, its states by the least number of moves to them."""
    return _order(distances().clamp(max=int(distances()[distances() < FAR].max()) + 1))


@per_device
def states_by_blocks() -> Order:
    """In one row, the states by their number of blocks."""
    return _order((all_states().boards > 0).sum((1, 2)).unsqueeze(0))


def draw_states(blocks: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Random states (count), whose number of blocks is uniform in the range."""
    numbers = uniform(*blocks, (count,), generator)
    return states_by_blocks(generator.device).draw(torch.zeros_like(numbers), numbers, generator)[0]


def draw_goals(
    states: Tensor, moves: tuple[int, int], constraints: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Goals that need at least a number of moves, drawn from a range, from states (B).

    The constraints of a goal are on different pairs of blocks; their number is uniform in its
    range. Where no goal is found for the numbers that were drawn, others are drawn.

    Args:
        states: where the goals are to be reached from.
        moves, constraints: smallest and largest number.
        generator: on the device of the states.

    Returns:
        (B, most constraints) codes; (B) the least number of moves.

    Raises:
        ValueError: there seem to be no such goals.
    """
    tables = all_states(states.device)
    goals = torch.full((len(states), constraints[1]), NOTHING, device=states.device)
    wanted, numbers = torch.zeros_like(states), torch.zeros_like(states)
    left = torch.arange(len(states), device=states.device)
    for attempt in range(MOST_TRIES):
        if attempt % TRIES == 0:
            wanted[left] = uniform(*moves, (len(left),), generator)
            numbers[left] = uniform(*constraints, (len(left),), generator)
        shapes = tables.shapes[states[left]]
        found, fits = _candidates(shapes, wanted[left], numbers[left], constraints[1], generator)
        fits &= nearest(shapes, found)[0] == wanted[left]
        done = left[fits]
        goals[done] = renamed(found[fits], tables.readings[states[done]])
        left = left[~fits]
        if not len(left):
            return goals, wanted
    few = (tables.boards[states[left]] > 0).sum((1, 2)).min()
    raise ValueError(
        f"there seem to be no goals of {several(*constraints, 'constraint')} that need "
        f"{several(*moves, 'move')} with {few} blocks; take fewer moves, or more blocks or "
        "constraints"
    )


def several(low: int, high: int, unit: str) -> str:
    """A range of things: "1 move", "1 to 2 moves"."""
    return f"{span(low, high)} {unit}{'s' * (high != 1)}"


def _candidates(
    shapes: Tensor, moves: Tensor, numbers: Tensor, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """For the starts of shapes (B), goals (B, most) that hold in states as many moves away.

    Returns:
        the goals, and (B) bool, whether there is such a state and it has so many constraints.
    """
    ends, exists = states_by_distance(shapes.device).draw(shapes, moves, generator)
    codes = (
        torch.arange(CODES, device=shapes.device).view(BLOCKS, -1, BLOCKS)[:, :ONE_WAY].flatten()
    )
    holds = facts(shapes.device)[codes][:, ends].T
    shares = random_shares(tuple(holds.shape), generator) + holds.float()
    chosen = codes[shares.topk(most, 1).indices]
    first, relation, second = decode(chosen)
    turned = random_shares(tuple(chosen.shape), generator) < 0.5
    chosen = torch.where(turned, encode(second, relation + ONE_WAY, first), chosen)
    unused = torch.arange(most, device=shapes.device) >= numbers.unsqueeze(1)
    return chosen.masked_fill(unused, NOTHING), exists & (holds.sum(1) >= numbers)
