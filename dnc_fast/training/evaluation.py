"""Scores on sequences that were never trained on."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..dnc import DNC
from ..tasks import Task, bit_score
from .random import stream_generator

BATCH_SIZE = 250


class Evaluation(NamedTuple):
    """Means over sequences. loss: nats per bit. wrong_bits: per sequence. solved: share right."""

    loss: float
    wrong_bits: float
    solved: float


def evaluate(
    model: DNC,
    task: Task,
    num_sequences: int,
    seed: int,
    stream: str = "held-out",
    num_cells: int | None = None,
) -> Evaluation:
    """Score a model on sequences drawn from a stream of the seed.

    Args:
        model: of the task's sizes.
        task: where the sequences come from.
        num_sequences: how many.
        seed: of the stream; the same seed gives the same sequences.
        stream: "validation" for deciding when to stop, "held-out" for what is reported.
        num_cells: memory cells to run with; None for the model's own.
    """
    generator = stream_generator(seed, stream)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    losses, wrong = [], []
    with torch.no_grad():
        for start in range(0, num_sequences, BATCH_SIZE):
            size = min(BATCH_SIZE, num_sequences - start)
            batch = task.batch(size, generator).to(device)
            logits, _ = model(batch.inputs, model.zero_state(size, num_cells))
            score = bit_score(logits, batch)
            losses.append(score.loss)
            wrong.append(score.wrong_bits)
    model.train(training)
    wrong_bits = torch.cat(wrong)
    return Evaluation(
        loss=torch.cat(losses).mean().item(),
        wrong_bits=wrong_bits.double().mean().item(),
        solved=(wrong_bits == 0).double().mean().item(),
    )
