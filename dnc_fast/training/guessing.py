"""What guessing scores, without a look at the sequence: the level that a model must beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..tasks import Task
from .evaluation import Evaluation, evaluate
from .random import stream_generator


def guess(task: Task, num_sequences: int, seed: int) -> Evaluation:
    """The score of guesses on the held-out sequences that `evaluate` scores a model on.

    A guess is the most frequent answer, whatever the sequence; where the inputs depend on the
    answers (see `Answerer`), it is a random one. What is frequent is counted in as many validation
    sequences.
    """
    guesser: Any = Guesser(task, num_sequences, seed)  # what `evaluate` needs of a DNC
    return evaluate(guesser, task, num_sequences, seed)


class Guesser(nn.Module):
    """Answers like a model, but ignores its inputs."""

    def __init__(self, task: Task, num_sequences: int, seed: int) -> None:
        super().__init__()
        task = task.validation()
        generator = stream_generator(seed, "validation")
        counts, steps = torch.zeros(task.output_size), 0
        for start in range(0, num_sequences, task.scoring_size):
            batch = task.batch(min(task.scoring_size, num_sequences - start), generator)
            counts += batch.targets[batch.mask].sum(0)
            steps += int(batch.mask.sum())
        share = (counts / steps).clamp(1e-9, 1 - 1e-6)
        self.outputs = nn.Parameter(share.log() if task.num_classes else share.logit())
        self._chooses = task.answerer(batch, None) is not None
        self._generator = stream_generator(seed, "answers")

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> None:
        """There is none."""

    def forward(self, inputs: Tensor, state: None) -> tuple[Tensor, None]:
        """From (T, B, X) to (T, B, Y)."""
        shape = (*inputs.shape[:2], len(self.outputs))
        if self._chooses:
            return torch.randn(shape, generator=self._generator), None
        return self.outputs.expand(shape), None
