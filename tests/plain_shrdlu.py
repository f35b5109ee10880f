"""Mini-SHRDLU once more, plainly: one board at a time, as three lists of blocks from the ground."""

from collections import deque

WORDS = {"above": (0, 1), "below": (0, -1), "left of": (-1, 0), "right of": (1, 0)}
MOVES = [(a, b) for a in range(3) for b in range(3) if a != b]


def after(columns, action):
    """The columns after an action, or None if it is invalid."""
    if action == 6:
        return columns
    source, goal = MOVES[action]
    if not columns[source] or len(columns[goal]) == 3:
        return None
    columns = [list(column) for column in columns]
    columns[goal].append(columns[source].pop())
    return columns


def holds(columns, first, word, second):
    """Whether the first block is directly above, below, left or right of the second."""
    places = {
        block: (number, height)
        for number, column in enumerate(columns)
        for height, block in enumerate(column)
    }
    if first not in places or second not in places:
        return False
    (x, y), (u, v) = places[first], places[second]
    return (x - u, y - v) == WORDS[word]


def fewest(columns, constraints):
    """The least number of moves to where all constraints hold; None if there is no way."""
    waiting, seen = deque([(columns, 0)]), {str(columns)}
    while waiting:
        present, moves = waiting.popleft()
        if all(holds(present, *constraint) for constraint in constraints):
            return moves
        for action in range(6):
            following = after(present, action)
            if following is not None and str(following) not in seen:
                seen.add(str(following))
                waiting.append((following, moves + 1))
    return None


def rewards(columns, constraints, actions, invalid, undoing):
    """The reward of each action."""
    found = []
    for action in actions:
        before = sum(holds(columns, *one) for one in constraints)
        following = after(columns, action)
        columns = columns if following is None else following
        gain = (sum(holds(columns, *one) for one in constraints) - before) / len(constraints)
        reward = gain if gain >= 0 else gain * (1 + undoing)
        found.append(reward - (invalid if following is None else 0))
    return found
