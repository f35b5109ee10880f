"""End-to-end memory network (Sukhbaatar et al. 2015).

Letters: K answers wanted, S facts, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..options import option
from .attention import Shares
from .stories import (
    MOST_ANSWERS,
    Asked,
    StoryConfig,
    StoryModel,
    embedding,
    position_weights,
)


@dataclass(frozen=True)
class MemN2NConfig(StoryConfig):
    """The options of `MemN2N`."""

    num_hops: int = option(3, "reads of the memory, called hops")
    most_facts: int = option(50, "most facts in the memory, the latest ones")


class MemN2N(StoryModel):
    """Hop k: p = softmax(u . (A_k x_i + TA_k(age))); u + sum_i p_i (C_k x_i + TC_k(age)).

    Weights are tied adjacently, A_{k+1} = C_k, and the question has A_1. Words are weighted by
    their places.
    """

    Config = MemN2NConfig

    def build(self, config: MemN2NConfig) -> None:
        size = config.hidden_size
        matrices = range(config.num_hops + 1)
        self.words = nn.ModuleList(embedding(config.input_size, size) for _ in matrices)
        # By age, from 1: the latest fact.
        self.ages = nn.ModuleList(embedding(config.most_facts, size) for _ in matrices)
        self.numbers = embedding(MOST_ANSWERS, size)
        self.shares = Shares(-1)
        self.output = nn.Linear(size, config.output_size, bias=False)

    def respond(self, asked: Asked) -> Tensor:
        places = torch.arange(asked.facts.shape[1], device=asked.facts.device)
        ages = (asked.told.unsqueeze(1) - places).clamp(min=0)
        ages = ages * (ages <= self.config.most_facts)
        vectors = self.numbers.weight
        weights = position_weights(asked.facts, vectors)

        def memory(number: int) -> Tensor:
            facts = (weights * self.words[number](asked.facts)).sum(-2)
            return facts[asked.rows] + self.ages[number](ages)

        question = position_weights(asked.questions, vectors) * self.words[0](asked.questions)
        state = question.sum(-2) + self.numbers(asked.number.clamp(max=MOST_ANSWERS - 1) + 1)
        keys = memory(0)
        for hop in range(self.config.num_hops):
            values = memory(hop + 1)
            shares = self.shares((keys @ state.unsqueeze(-1)).squeeze(-1), ages > 0)
            state = state + (shares.unsqueeze(1) @ values).squeeze(1)
            keys = values
        return self.output(state)
