"""Goals of Mini-SHRDLU: constraints on pairs of blocks, and which states satisfy them.

A constraint (block, relation, block), such as (5, "above", 2), holds where the first block is
directly above, below, left or right of the second. It has a code from 0 to 143, and a goal is the
codes of its constraints, with `NOTHING` past the last. Letters: B goals, K constraints, S states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .board import BLOCKS, all_states, per_device

RELATIONS = ("above", "right of", "below", "left of")
"""The relations; the reverse of each is two further."""

STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Where the first block of each relation is from the second: columns to the right, and up."""

CODES = BLOCKS * len(RELATIONS) * BLOCKS
NOTHING = CODES
"""The code of no constraint, which holds in every state."""


def encode(first: Tensor, relation: Tensor, second: Tensor) -> Tensor:
    """The codes of constraints on blocks from 1 to 6, all of one shape."""
    return ((first - 1) * len(RELATIONS) + relation) * BLOCKS + second - 1


def decode(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks and relations of codes (...), see `encode`; meaningless for `NOTHING`."""
    pair, second = codes // BLOCKS, codes % BLOCKS + 1
    return pair // len(RELATIONS) + 1, pair % len(RELATIONS), second


def renamed(codes: Tensor, names: Tensor) -> Tensor:
    """Goals (B, K) with other numbers for the blocks; names: (B, 7) the new number of each.

    Where that is 0, the block is missing; the constraint becomes 0, which holds nowhere.
    """
    first, relation, second = decode(codes.clamp(max=CODES - 1))
    first, second = names.gather(1, first), names.gather(1, second)
    after = torch.where((first > 0) & (second > 0), encode(first, relation, second), 0)
    return torch.where(codes == NOTHING, NOTHING, after)


@per_device
def facts() -> Tensor:
    """Whether each constraint holds in each state: (145, S) bool, the last for `NOTHING`."""
    boards = all_states().boards
    is_block = boards.unsqueeze(1) == torch.arange(1, BLOCKS + 1).view(-1, 1, 1)  # (S, 6, 3, 3)
    where = is_block.flatten(2).int().argmax(2)
    places = torch.stack([where // boards.shape[2], where % boards.shape[2]], -1)  # (S, 6, 2)
    apart = places.unsqueeze(2) - places.unsqueeze(1)  # (S, 6, 6, 2), of the first from the second
    there = is_block.flatten(2).any(2)
    both = there.unsqueeze(2) & there.unsqueeze(1)
    holds = [(apart == torch.tensor(step)).all(-1) & both for step in STEPS]
    found = torch.stack(holds, 2).flatten(1).T  # (144, S)
    return torch.cat([found, torch.ones(1, len(boards), dtype=torch.bool)]).contiguous()


def satisfied(states: Tensor, goals: Tensor) -> Tensor:
    """How many constraints of goals (B, K) hold in states (B): (B) int64."""
    hold = facts(states.device)[goals, states.unsqueeze(1)]
    return (hold & (goals != NOTHING)).sum(1)


def describe(code: int) -> str:
    """A constraint in words, such as "5 above 2"."""
    first, relation, second = (int(part) for part in decode(torch.tensor(code)))
    return f"{first} {RELATIONS[relation]} {second}"
