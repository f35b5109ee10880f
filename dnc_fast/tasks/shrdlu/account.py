"""An episode of Mini-SHRDLU in words and boards."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from ..batch import Account
from .board import HEIGHT, MOVES, PASS, all_states
from .episode import hear
from .goals import NOTHING, describe, satisfied
from .search import least_moves, plan

BOARDS_IN_A_ROW = 7


def tell_story(inputs: Tensor, actions: Tensor) -> Account:
    """What was told in an episode, a best plan, and what was done.

    Args:
        inputs: (T, 97).
        actions: (T, 7), one-hot.
    """
    heard = hear(inputs.unsqueeze(1))
    names, codes = (part[:, 0].tolist() for part in (heard.names, heard.codes))
    told = {
        step: f"{letter(name)}: {describe(code)}"
        for step, (name, code) in enumerate(zip(names, codes, strict=True))
        if code != NOTHING
    }
    lines = [
        f"{letter(name)}: {', '.join(describe(code) for _, code in group)}"
        for name, group in groupby(zip(names, codes, strict=True), lambda pair: pair[0])
        if name >= 0
    ]
    start, goal = heard.states[0], heard.goal
    fewest = int(least_moves(start, goal))
    best = ", ".join(action_name(int(action)) for action in plan(start, goal, fewest)[0])
    lines.append(f"asked for: {letter(int(heard.letters))}; a best plan: {best}")

    taken = actions[heard.first : heard.last + 1].argmax(-1)
    last = all_states(taken.device).following[heard.states[-1], taken[-1]]
    states = torch.cat([heard.states[:, 0], last])
    total = int((goal != NOTHING).sum())
    shares = satisfied(states, goal.expand(len(states), -1)).tolist()
    names_of = ["start", *(action_name(action) for action in taken.tolist())]
    boards = [
        [name, *drawn(state), f"{share}/{total}"]
        for name, state, share in zip(names_of, states.tolist(), shares, strict=True)
    ]
    for begin in range(0, len(boards), BOARDS_IN_A_ROW):
        rows = zip(*boards[begin : begin + BOARDS_IN_A_ROW], strict=True)
        lines += ["", *("   ".join(f"{cell:<5}" for cell in row).rstrip() for row in rows)]
    return Account(told, "\n".join(lines))


def letter(name: int) -> str:
    """The letter of a goal."""
    return chr(ord("A") + name)


def action_name(action: int) -> str:
    """An action in words: "1>3" moves a block from the first column to the third."""
    if action == PASS:
        return "pass"
    source, goal = MOVES[action]
    return f"{source + 1}>{goal + 1}"


def drawn(state: int) -> list[str]:
    """A board, a line for each height from the top."""
    columns = all_states().boards[state].tolist()
    return [
        " ".join(str(column[height] or ".") for column in columns)
        for height in reversed(range(HEIGHT))
    ]
