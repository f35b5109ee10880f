"""Stories as batches: a word at a step, one-hot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from .text import ANSWER, Story, Vocabulary


def encode(stories: Sequence[Story], vocabulary: Vocabulary, device: torch.device) -> Batch:
    """Stories as a batch, in their order."""
    codes_of = vocabulary.codes
    lengths = [len(story.words) for story in stories]
    words = torch.full((max(lengths), len(stories)), -1, device="cpu")
    answers = torch.full_like(words, -1)
    for place, story in enumerate(stories):
        codes = torch.tensor([codes_of[word] for word in story.words], device="cpu")
        words[: len(codes), place] = codes
        asked = codes == codes_of[ANSWER]
        answers[: len(codes), place][asked] = torch.tensor(
            [codes_of[word] for word in story.answers], device="cpu"
        )
    words, answers = words.to(device), answers.to(device)
    return Batch(
        inputs=one_hot(words, len(vocabulary)),
        targets=one_hot(answers, len(vocabulary)),
        mask=answers >= 0,
        lengths=torch.tensor(lengths, device=device),
    )


def hear(words: Sequence[str], vocabulary: Vocabulary) -> Tensor:
    """Words as the input of one sequence, (T, 1, X) float32."""
    codes = torch.tensor([vocabulary.codes[word] for word in words], device="cpu")
    return one_hot(codes, len(vocabulary)).unsqueeze(1)


def one_hot(codes: Tensor, size: int) -> Tensor:
    """Words as float32 vectors over a vocabulary of this size; zeros for -1."""
    return F.one_hot(codes + 1, size + 1)[..., 1:].float()
