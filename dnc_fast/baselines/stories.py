"""Models that read stories: facts and questions, cut into sentences from a word at each step.

A word is one-hot. A full stop ends a fact and a question mark a question; where a word of an answer
is wanted, the input is the answer mark. Everywhere else the output is zero. An answer depends on
the facts told before it and on the last question.

Letters: B batch, T steps, S facts, J words of a sentence, K answers wanted, X words, H hidden size.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .base import BaselineConfig, WholePast

MOST_ANSWERS = 8
"""Words of an answer that a model can tell apart by their number."""


@dataclass(frozen=True)
class StoryConfig(BaselineConfig):
    """The options of models that read stories: which inputs are which marks."""

    full_stop: int = field(default=0, metadata={"minimum": 0})
    question_mark: int = field(default=1, metadata={"minimum": 0})
    answer_mark: int = field(default=2, metadata={"minimum": 0})


class Asked(NamedTuple):
    """All that is asked in a batch of stories. Words are counted from 1; 0 is no word.

    | field     | shape     | dtype | meaning                                            |
    |-----------|-----------|-------|----------------------------------------------------|
    | facts     | (B, S, J) | int64 | the words of each fact, its full stop included     |
    | questions | (K, J)    | int64 | the words of the question that is answered         |
    | rows      | (K)       | int64 | the story that each answer belongs to              |
    | told      | (K)       | int64 | how many of its facts were told before             |
    | number    | (K)       | int64 | the number of the word in its answer, from 0       |
    """

    facts: Tensor
    questions: Tensor
    rows: Tensor
    told: Tensor
    number: Tensor

    @property
    def known(self) -> Tensor:
        """Which facts each answer may use, (K, S) bool."""
        places = torch.arange(self.facts.shape[1], device=self.facts.device)
        return places < self.told.unsqueeze(1)


def read(words: Tensor, marks: tuple[int, int, int]) -> tuple[Asked, Tensor]:
    """Cut stories into sentences.

    Args:
        words: (T, B), int64, from 1; 0 is no word.
        marks: the words that are full stop, question mark and answer mark.

    Returns:
        what is asked, and the steps of the K answers, (K).
    """
    stops, asks, wanted = (words == mark for mark in marks)
    spoken = (words > 0) & ~wanted
    ended = (stops | asks).long()
    sentence = ended.cumsum(0) - ended  # of each step, from 0
    before = spoken.long().cumsum(0) - spoken.long()  # words spoken before each step
    rows = torch.arange(words.shape[1], device=words.device).expand_as(words)
    count = int(sentence.max()) + 1
    # From where each sentence begins: which of its words a step has.
    first = before.new_full((count, words.shape[1]), len(words))
    first.scatter_reduce_(0, sentence, before, "amin")
    place = before - first.gather(0, sentence)
    length = int(place[spoken].max()) + 1 if spoken.any() else 1
    table = words.new_zeros(words.shape[1], count, length)
    table[rows[spoken], sentence[spoken], place[spoken]] = words[spoken]
    facts_told = stops.long().cumsum(0)
    most = max(int(facts_told[-1].max()), 1)
    facts = words.new_zeros(words.shape[1], most, length)
    facts[rows[stops], facts_told[stops] - 1] = table[rows[stops], sentence[stops]]
    last_asked = torch.where(asks, sentence, -1).cummax(0).values[wanted]
    questions = table[rows[wanted], last_asked.clamp(min=0)] * (last_asked >= 0).unsqueeze(1)
    since = wanted.long().cumsum(0)
    at_question = torch.where(asks, since, 0).cummax(0).values
    number = (since - at_question)[wanted] - 1
    asked = Asked(facts, questions, rows[wanted], facts_told[wanted], number)
    return asked, wanted.nonzero()[:, 0]


def position_weights(words: Tensor, like: Tensor) -> Tensor:
    """Weights that tell the words of a sentence apart by their place (Sukhbaatar et al. 2015).

    l_jk = (1 - j / J) - (k / H) (1 - 2 j / J) for word j of J and feature k of H, from 1.

    Args:
        words: (..., J), 0 for no word.
        like: of the embedding, (X + 1, H).

    Returns:
        (..., J, H), zero where there is no word.
    """
    count = (words > 0).sum(-1, keepdim=True).clamp(min=1)
    size = like.shape[-1]
    place = torch.arange(1, words.shape[-1] + 1).to(like) / count
    feature = torch.arange(1, size + 1).to(like) / size
    weights = (1 - place).unsqueeze(-1) - feature * (1 - 2 * place).unsqueeze(-1)
    return weights * (words > 0).unsqueeze(-1)


def embedding(words: int, size: int, deviation: float = 0.1) -> nn.Embedding:
    """Vectors of words from 1 on, drawn from a normal distribution; that of no word stays zero."""
    layer = nn.Embedding(words + 1, size, padding_idx=0)
    with torch.no_grad():
        layer.weight[1:].normal_(0.0, deviation)
    return layer


class StoryModel(WholePast):
    """A model that answers questions; a subclass has `build` and `respond`."""

    def answer(self, inputs: Tensor, seen: Tensor) -> Tensor:
        config = self.config
        words = (inputs.argmax(-1) + 1) * inputs.any(-1)
        outputs = inputs.new_zeros(*inputs.shape[:2], config.output_size)
        if (words == config.answer_mark + 1).any():
            marks = (config.full_stop + 1, config.question_mark + 1, config.answer_mark + 1)
            asked, steps = read(words, marks)
            outputs[steps, asked.rows] = self.respond(asked).to(outputs)
        return outputs

    @abstractmethod
    def respond(self, asked: Asked) -> Tensor:
        """The answers, (K, Y)."""
