"""The board of Mini-SHRDLU: what a move does, and all states of all boards.

Three columns hold up to three of the blocks 1 to 6, without gaps below a block. A move takes the
top block of a column to the top of another, if there is a block and there is room.
Letters: B boards, S states (9,003).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

COLUMNS, HEIGHT, BLOCKS = 3, 3, 6

MOVES = tuple(permutations(range(COLUMNS), 2))
"""The moves as (from, to), counted from the left; no. 0 is from the first column to the second."""

PASS = len(MOVES)
"""The action that moves nothing."""

ACTIONS = len(MOVES) + 1


CPU = torch.device("cpu")


def per_device(build: Callable[[], Any]) -> Callable[..., Any]:
    """A function of a device: the tensor, or the tuple of them, that `build` makes, made once."""
    build = cache(build)

    @cache
    def on(device: torch.device = CPU) -> Any:
        made = build()
        if isinstance(made, Tensor):
            return made.to(device)
        return type(made)(*(part.to(device) for part in made))

    return on


def move(boards: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """What actions do to boards.

    Args:
        boards: (B, 3, 3) int64, by column and by height from the ground; 0 where there is no block.
        actions: (B), indices in `MOVES`, or `PASS`.

    Returns:
        (B, 3, 3) the boards afterwards, unchanged by an invalid action;
        (B) bool, whether the action was valid.
    """
    ends = torch.tensor([*MOVES, (0, 0)], device=boards.device)[actions]
    rows = torch.arange(len(boards), device=boards.device)
    (source, goal), heights = ends.unbind(1), (boards > 0).sum(-1)
    top, free = heights[rows, source] - 1, heights[rows, goal]
    moves = (actions != PASS) & (top >= 0) & (free < HEIGHT)
    rows, source, goal, top, free = (part[moves] for part in (rows, source, goal, top, free))
    after = boards.clone()
    after[rows, goal, free] = boards[rows, source, top]
    after[rows, source, top] = 0
    return after, moves | (actions == PASS)


class States(NamedTuple):
    """All states of boards with the blocks 1 to n, for n from 1 to 6, in the order of their keys.

    | field     | shape     | meaning                                                            |
    |-----------|-----------|--------------------------------------------------------------------|
    | boards    | (S, 3, 3) | see `move`                                                         |
    | keys      | (S)       | of the boards, see `board_keys`                                    |
    | following | (S, 7)    | the state after each action                                        |
    | valid     | (S, 7)    | bool, whether the action is valid                                  |
    | shapes    | (S)       | which of the `starts` has blocks in the same places                |
    | readings  | (S, 7)    | for each block of the start of that shape, the block that this     |
    |           |           | state has in its place; 0 for 0 and for missing ones               |
    | ranks     | (S, 7)    | the inverse: for each block of this state, that of the start       |
    | starts    | (53)      | a state for each shape, with blocks numbered from place to place   |
    """

    boards: Tensor
    keys: Tensor
    following: Tensor
    valid: Tensor
    shapes: Tensor
    readings: Tensor
    ranks: Tensor
    starts: Tensor


def board_keys(boards: Tensor) -> Tensor:
    """A number for each board (..., 3, 3), by which it can be found."""
    powers = (BLOCKS + 1) ** torch.arange(COLUMNS * HEIGHT, device=boards.device)
    return (boards.flatten(-2) * powers).sum(-1)


def states_of(boards: Tensor) -> Tensor:
    """The states (...) of boards (..., 3, 3)."""
    return torch.searchsorted(all_states(boards.device).keys, board_keys(boards))


@per_device
def all_states() -> States:
    """All states."""
    boards = torch.tensor([board for n in range(1, BLOCKS + 1) for board in _boards(n)])
    boards = boards[board_keys(boards).argsort()]
    keys = board_keys(boards)
    after = [move(boards, torch.full_like(keys, action)) for action in range(ACTIONS)]
    following = torch.stack([torch.searchsorted(keys, board_keys(board)) for board, _ in after], 1)

    filled = (boards > 0).flatten(1)
    places = filled.cumsum(1) * filled
    starts, shapes = board_keys(places.view(-1, COLUMNS, HEIGHT)).unique(return_inverse=True)
    readings, ranks = (torch.zeros(len(boards), BLOCKS + 1, dtype=torch.int64) for _ in range(2))
    readings.scatter_(1, places, boards.flatten(1))
    ranks.scatter_(1, boards.flatten(1), places)
    return States(
        boards,
        keys,
        following,
        torch.stack([valid for _, valid in after], 1),
        shapes,
        readings,
        ranks,
        torch.searchsorted(keys, starts),
    )


def _boards(num_blocks: int) -> list[list[list[int]]]:
    """All boards with the blocks 1 to `num_blocks`."""
    boards = []
    for heights in product(range(HEIGHT + 1), repeat=COLUMNS):
        if sum(heights) != num_blocks:
            continue
        for blocks in permutations(range(1, num_blocks + 1)):
            rest = iter(blocks)
            columns = [[next(rest) for _ in range(height)] for height in heights]
            boards.append([column + [0] * (HEIGHT - len(column)) for column in columns])
    return boards
