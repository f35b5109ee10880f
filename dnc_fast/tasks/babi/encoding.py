"""Stories as batches: a word at a step, one-hot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import Batch
from .text import ANSWER, CODES, VOCABULARY, Story


def encode(stories: Sequence[Story], device: torch.device) -> Batch:
    """Stories as a batch, in their order."""
    lengths = [len(story.words) for story in stories]
    words = torch.full((max(lengths), len(stories)), -1, device="cpu")
    answers = torch.full_like(words, -1)
    for place, story in enumerate(stories):
        codes = torch.tensor([CODES[word] for word in story.words], device="cpu")
        words[: len(codes), place] = codes
        asked = codes == CODES[ANSWER]
        answers[: len(codes), place][asked] = torch.tensor(
            [CODES[word] for word in story.answers], device="cpu"
        )
    words, answers = words.to(device), answers.to(device)
    return Batch(
        inputs=one_hot(words),
        targets=one_hot(answers),
        mask=answers >= 0,
        lengths=torch.tensor(lengths, device=device),
    )


def hear(words: Sequence[str]) -> Tensor:
    """Words of the vocabulary as the input of one sequence, (T, 1, 159) float32."""
    return one_hot(torch.tensor([CODES[word] for word in words], device="cpu")).unsqueeze(1)


def one_hot(codes: Tensor) -> Tensor:
    """Words as float32 vectors over the vocabulary; zeros for -1."""
    return F.one_hot(codes + 1, len(VOCABULARY) + 1)[..., 1:].float()
