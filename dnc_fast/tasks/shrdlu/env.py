"""Mini-SHRDLU as an environment for agents of your own, in the manner of gymnasium's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .board import ACTIONS
from .episode import BOARD, INPUT_SIZE, encode_boards, tell
from .play import Play
from .task import ShrdluTask


class ShrdluEnv:
    """A batch of episodes, used like a vector environment of gymnasium, but with tensors.

    While goals are told, actions are ignored and not rewarded. All episodes of a batch end at the
    same step; the step after it ignores its actions and begins new ones, as in gymnasium.

    Args:
        task: what is drawn.
        batch_size: B.
        seed: of the episodes, until `reset` gets another.
    """

    num_actions = ACTIONS
    observation_size = INPUT_SIZE

    def __init__(self, task: ShrdluTask, batch_size: int, seed: int = 0) -> None:
        self.task, self.batch_size = task, batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._step, self._over = 0, False
        self._begin()

    def reset(self, seed: int | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Begin new episodes: the first observations (B, 97), and nothing more to know."""
        if seed is not None:
            self._generator.manual_seed(seed)
        return self._begin(), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Take actions (B), from 0 to 6.

        Returns:
            observations (B, 97); rewards (B); whether each episode has ended (B); whether each was
            cut off (B), which never happens; and {"share": (B) of the constraints satisfied}.
        """
        never = torch.zeros(self.batch_size, dtype=torch.bool)
        rewards = torch.zeros(self.batch_size, dtype=torch.float32)
        if self._over:
            return self._begin(), rewards, never, never, {"share": self._play.shares}
        acting = self._step >= len(self._inputs) - self.task.steps
        if acting:
            rewards = self._play.act(actions)
        self._over = self._step == len(self._inputs) - 1
        if not self._over:
            self._step += 1
        observations = self._inputs[self._step].clone()
        if acting:
            observations[:, BOARD:] = encode_boards(self._play.states)
        return observations, rewards, never | self._over, never, {"share": self._play.shares}

    def _begin(self) -> Tensor:
        episodes = self.task.draw(self.batch_size, self._generator)
        self._inputs = tell(episodes, self.task.steps, self.task.board)
        self._play = Play(episodes.starts, episodes.goal, self.task.costs)
        self._step, self._over = 0, False
        return self._inputs[0]
