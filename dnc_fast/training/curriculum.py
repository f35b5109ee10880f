"""Lessons from easy to hard: the next one comes when the present one is passed."""

from __future__ import annotations

import torch

from ..tasks import Task
from ..tasks.base import random_shares, uniform
from .config import TrainingConfig

TEST_SIZE = 100
"""Sequences in the test of a lesson."""


class Curriculum:
    """The lessons of a task, and which of them is the present one.

    A test of the present lesson is due every `lesson_every` steps and passed at a share of
    `lesson_pass`. A share `lesson_share` of the batches comes from earlier lessons, each as likely
    (Graves et al. 2016, Methods: 90 %, 100 batches, 10 %).

    Args:
        task: its lessons, or with config.curriculum "off" the task itself as the only one.
        config: the training options.
    """

    def __init__(self, task: Task, config: TrainingConfig) -> None:
        self.lessons = task.lessons() if config.curriculum == "on" else (task,)
        self.present = 0
        self._config = config

    def choose(self, present: int, generator: torch.Generator) -> Task:
        """The task of a batch in the lesson `present`; draws only where there is a choice."""
        if present > 0 and random_shares((), generator) < self._config.lesson_share:
            present = int(uniform(0, present - 1, (), generator))
        return self.lessons[present]

    def test_is_due(self, step: int) -> bool:
        """Whether the present lesson is to be tested after `step` steps; the last one never is.

        Where a batch is trained on in chunks, a test waits for the end of the batch.
        """
        chunks, every = self.lessons[self.present].num_chunks, self._config.lesson_every
        return (
            self.present < len(self.lessons) - 1
            and step % chunks == 0
            and step // every > (step - chunks) // every
        )

    def tested(self, share: float) -> bool:
        """Take the result of a test; returns whether it was passed, to the next lesson."""
        passed = share >= self._config.lesson_pass
        self.present += passed
        return passed
