"""Mini-SHRDLU, a puzzle of blocks, after Graves et al. 2016.

board.py       the rules: what a move does; all states
goals.py       constraints on pairs of blocks, and which states satisfy them
search.py      the least number of moves, and best plans
generator.py   random goals that need a given number of moves
episode.py     what is told in an episode, as inputs
play.py        moves and rewards
task.py        the task, by reinforcement learning
env.py         the same for agents of your own
account.py     an episode in words and boards
"""

from .env import ShrdluEnv
from .task import ShrdluTask

__all__ = ["ShrdluEnv", "ShrdluTask"]
