"""Triples of labels in digits, as the graph tasks of Graves et al. 2016 hear and answer them.

A label is a number from 0 to 999, each of its three digits one-hot of ten; a triple is three of
them, such as a source, an edge and a destination. Letters: B sequences, T steps, S steps of a
phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import ClassTask
from ..batch import Batch

NUM_LABELS = 1000
DIGITS = 3
TRIPLE_SIZE = 3 * DIGITS * 10
PHASE_CUE, ANSWER_CUE = TRIPLE_SIZE, TRIPLE_SIZE + 1
"""The channels beside a triple: the first marks the first step of each phase after the first one,
the second is on while an answer is expected."""

BLANK = -1
"""A label that is left out: all its digits are zeros."""

END = (0, 0, 0)
"""The triple that ends an answer. It cannot be an edge, because no node leads to itself."""


class TripleTask(ClassTask):
    """The answer of a step is a triple: nine digits, each one of ten classes."""

    unit = "digit"
    published = ("solved",)

    @property
    def num_classes(self) -> int:
        return 10

    @property
    def input_size(self) -> int:
        return TRIPLE_SIZE + 2

    @property
    def output_size(self) -> int:
        return TRIPLE_SIZE


@lru_cache
def label_vectors(device: torch.device) -> Tensor:
    """(1001, 30) float32: zeros for `BLANK`, then the one-hot digits of each label."""
    labels = torch.arange(NUM_LABELS, device=device).unsqueeze(1)
    digits = labels // torch.tensor([100, 10, 1], device=device) % 10
    return F.pad(F.one_hot(digits, 10).float().flatten(1), (0, 0, 1, 0))


def encode_triples(triples: Tensor) -> Tensor:
    """Labels (..., 3), some of them `BLANK`, as one-hot digits, (..., 90) float32."""
    return F.embedding(triples + 1, label_vectors(triples.device)).flatten(-2)


def decode_triples(vectors: Tensor) -> Tensor:
    """The labels (..., 3) of vectors (..., 90) by the largest of each ten; `BLANK` for zeros."""
    digits = vectors.unflatten(-1, (3, DIGITS, 10))
    places = torch.tensor([100, 10, 1], device=vectors.device)
    labels = (digits.argmax(-1) * places).sum(-1)
    return torch.where((digits == 0).all(-1).all(-1), BLANK, labels)


class Phase(NamedTuple):
    """A part of an episode: description, query, planning or answer.

    heard: (B, S, 3) labels of the input. lengths: (B) how many of the S steps count.
    answers: in an answer, (B, S, 3) labels of the target, otherwise None.
    hints: (B, S, 3) labels of targets outside an answer, `BLANK` for none.
    """

    heard: Tensor
    lengths: Tensor
    answers: Tensor | None = None
    hints: Tensor | None = None


def silence(steps: int, batch_size: int, device: torch.device) -> Phase:
    """A phase of blank inputs without targets, to plan."""
    heard = torch.full((batch_size, steps, 3), BLANK, device=device)
    return Phase(heard, torch.full((batch_size,), steps, device=device))


def answer_phase(answers: Tensor, lengths: Tensor) -> Phase:
    """A phase of blank inputs in which `answers` (B, S, 3) and then `END` are expected.

    Args:
        lengths: (B) how many of the S answers count, without the end.
    """
    batch_size, steps, _ = answers.shape
    end = torch.tensor(END, device=answers.device)
    answers = torch.cat([answers, end.expand(batch_size, 1, 3)], 1)
    place = torch.arange(steps + 1, device=answers.device).unsqueeze(-1)
    answers = torch.where(place < lengths.view(-1, 1, 1), answers, end)
    return Phase(torch.full_like(answers, BLANK), lengths + 1, answers)


def join_phases(phases: Sequence[Phase]) -> Batch:
    """A batch in which each sequence goes through the phases one after another."""
    lengths = torch.stack([phase.lengths for phase in phases]).sum(0)
    batch_size, device, steps = len(lengths), lengths.device, int(lengths.max())
    # What is past the end of a phase is written to an extra last step, which is dropped.
    heard = torch.full((batch_size, steps + 1, 3), BLANK, device=device)
    answers = torch.full_like(heard, BLANK)
    cues = torch.zeros(batch_size, steps + 1, 2, device=device, dtype=torch.float32)
    rows = torch.arange(batch_size, device=device)
    start = torch.zeros_like(lengths)
    for number, phase in enumerate(phases):
        step = torch.arange(phase.heard.shape[1], device=device)
        inside = step < phase.lengths.unsqueeze(1)
        place = torch.where(inside, start.unsqueeze(1) + step, steps)
        heard[rows.unsqueeze(1), place] = phase.heard
        if phase.answers is not None:
            answers[rows.unsqueeze(1), place] = phase.answers
            cues[rows.unsqueeze(1), place, 1] = 1.0
        if phase.hints is not None:
            answers[rows.unsqueeze(1), place] = phase.hints
        if number:
            cues[rows, start, 0] = 1.0
        start = start + phase.lengths
    heard, answers, cues = (part[:, :-1].transpose(0, 1) for part in (heard, answers, cues))
    mask = answers[..., 0] != BLANK
    targets = torch.zeros(*mask.shape, TRIPLE_SIZE, device=device, dtype=torch.float32)
    targets[mask] = encode_triples(answers[mask])
    return Batch(torch.cat([encode_triples(heard), cues], -1), targets, mask, lengths)


def phase_numbers(inputs: Tensor) -> Tensor:
    """The phase of each step of inputs (T, ..., 92), from 0; (T, ...) int64."""
    return (inputs[..., PHASE_CUE] > 0.5).long().cumsum(0)
