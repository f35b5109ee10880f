"""Lessons from easy to hard, each after the one before is passed, and the batches drawn of them."""

from __future__ import annotations

import torch

from ..tasks import Task
from ..tasks.base import random_shares, uniform
from .batches import Draw
from .config import TrainingConfig
from .random import stream_generator

TEST_SIZE = 100
"""Sequences in the test of a lesson."""


class Curriculum:
    """The lessons of a task, and which of them is the present one.

    A test of the present lesson is due every `lesson_every` steps and passed at a share of
    `lesson_pass`. A share `lesson_share` of the batches comes from earlier lessons, all equally
    likely (Graves et al. 2016, Methods: 90 %, 100 batches, 10 %).

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

    def draw(self, number: int, lesson: int) -> Draw:
        """The draw of that number in a lesson, of `accumulate` batches."""
        config, drawn = self._config, []
        for index in range(number * config.accumulate, (number + 1) * config.accumulate):
            generator = stream_generator(config.seed, "train", index)
            task = self.choose(lesson, generator)
            drawn.append(task.batch(config.batch_size, generator).split(task.num_chunks))
        return drawn

    def test_is_due(self, step: int) -> bool:
        """Whether to test the present lesson after `step` steps; the last lesson is never tested.

        Where a batch is trained on in chunks, a test waits for the end of the batch.
        """
        chunks, every = self.lessons[self.present].num_chunks, self._config.lesson_every
        return (
            self.present < len(self.lessons) - 1
            and step % chunks == 0
            and step // every > (step - chunks) // every
        )

    def tested(self, share: float) -> bool:
        """Take the result of a test; returns whether it was passed, which starts the next one."""
        passed = share >= self._config.lesson_pass
        self.present += passed
        return passed
