"""An episode of Mini-SHRDLU: what is told, and how it is told in 97 inputs.

Goals are told one after another, a constraint a step; then one of them is asked for by its letter
alone, which stays on while the moves are made. These steps show the board, so that only the goals
must be remembered; whether earlier ones show it is an option (`SHOWN`).
Letters: B episodes, T steps, L letters' steps, G goals, K constraints.

| inputs   | what                                                                    |
|----------|-------------------------------------------------------------------------|
| 0 - 25   | the letter that names a goal                                            |
| 26 - 41  | a constraint: the first block (6), the relation (4), the second block (6) |
| 42       | "go": on while moves are made                                           |
| 43 - 96  | the board: for each of 9 places, which block is there (6)               |
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .board import BLOCKS, COLUMNS, HEIGHT, all_states, states_of
from .goals import NOTHING, RELATIONS, decode, encode

SHOWN = ("moves", "always")
"""When the board is shown."""

LETTERS = 26
CONSTRAINT_SIZE = 2 * BLOCKS + len(RELATIONS)
GO = LETTERS + CONSTRAINT_SIZE
BOARD = GO + 1
INPUT_SIZE = BOARD + COLUMNS * HEIGHT * BLOCKS


class Episodes(NamedTuple):
    """What is drawn for a batch of episodes.

    | field   | shape     | meaning                                                       |
    |---------|-----------|---------------------------------------------------------------|
    | starts  | (B)       | the state in which each begins                                |
    | letters | (B, G)    | the names of the goals, from 0 to 25, all different           |
    | goals   | (B, G, K) | codes of constraints, `NOTHING` past the last goal            |
    | asked   | (B)       | which goal is asked for                                       |
    | moves   | (B, G)    | the least number of moves to each goal; 0 past the last       |
    """

    starts: Tensor
    letters: Tensor
    goals: Tensor
    asked: Tensor
    moves: Tensor

    @property
    def goal(self) -> Tensor:
        """The goals asked for, (B, K)."""
        rows = torch.arange(len(self.asked), device=self.asked.device)
        return self.goals[rows, self.asked]


def encode_boards(states: Tensor) -> Tensor:
    """The inputs (..., 54) that show states (...)."""
    boards = all_states(states.device).boards[states].flatten(-2)
    return F.one_hot(boards, BLOCKS + 1)[..., 1:].flatten(-2).float()


def decode_boards(inputs: Tensor) -> Tensor:
    """The states (...) that inputs (..., 97) show."""
    places = inputs[..., BOARD:].unflatten(-1, (COLUMNS, HEIGHT, BLOCKS)) > 0.5
    return states_of((places * torch.arange(1, BLOCKS + 1, device=inputs.device)).sum(-1))


def tell(episodes: Episodes, moves: int, shown: str = SHOWN[0]) -> Tensor:
    """The inputs (T, B, 97), in which the board stays as it is for `moves` steps.

    Moves begin at the same step in all episodes: those with less to tell begin with empty steps.
    """
    codes = episodes.goals.flatten(1)
    letters = episodes.letters.unsqueeze(2).expand_as(episodes.goals).flatten(1)
    told = codes != NOTHING
    order = told.int().argsort(dim=1, stable=True)[:, -int(told.sum(1).max()) :]
    codes, letters, told = (part.gather(1, order).T for part in (codes, letters, told))  # (L, B)

    steps = len(codes)
    shape = (steps + 1 + moves, codes.shape[1], INPUT_SIZE)
    inputs = torch.zeros(shape, dtype=torch.float32, device=codes.device)
    first, relation, second = decode(codes.clamp(max=NOTHING - 1))
    sizes = (LETTERS, BLOCKS, len(RELATIONS), BLOCKS)
    parts = (letters.clamp(min=0), first - 1, relation, second - 1)
    heard = [F.one_hot(part, size) for part, size in zip(parts, sizes, strict=True)]
    inputs[:steps, :, :GO] = torch.cat(heard, -1).float()
    inputs[0 if shown == "always" else steps + 1 :, :, BOARD:] = encode_boards(episodes.starts)
    inputs[:steps] *= told.unsqueeze(-1)
    asked = episodes.letters.gather(1, episodes.asked.unsqueeze(1)).squeeze(1)
    inputs[steps:, :, :LETTERS] = F.one_hot(asked, LETTERS).float()
    inputs[steps + 1 :, :, GO] = 1.0
    return inputs


class Heard(NamedTuple):
    """What inputs say: `first`, the step of the first move; `letters` (B), asked for; `names`
    (L, B) and `codes` (L, B), what was told at the steps before that, with letter -1 and `NOTHING`
    at empty ones; `states` (M, B) before each of the M moves."""

    first: int
    letters: Tensor
    names: Tensor
    codes: Tensor
    states: Tensor

    @property
    def last(self) -> int:
        """The step of the last move."""
        return self.first + len(self.states) - 1

    @property
    def goal(self) -> Tensor:
        """The goal asked for, (B, L)."""
        return torch.where(self.names == self.letters, self.codes, NOTHING).T


def hear(inputs: Tensor) -> Heard:
    """Read inputs (T, B, 97) back."""
    acting = inputs[:, 0, GO] > 0.5
    first, moves = int(acting.int().argmax()), int(acting.sum())
    told, asked = inputs[: first - 1], inputs[first - 1]
    one, relation, two = told[..., LETTERS:GO].split([BLOCKS, len(RELATIONS), BLOCKS], -1)
    codes = encode(one.argmax(-1) + 1, relation.argmax(-1), two.argmax(-1) + 1)
    empty = told[..., :LETTERS].sum(-1) < 0.5
    return Heard(
        first,
        asked[:, :LETTERS].argmax(-1),
        torch.where(empty, -1, told[..., :LETTERS].argmax(-1)),
        torch.where(empty, NOTHING, codes),
        decode_boards(inputs[first : first + moves]),
    )
