"""Recurrent entity network (Henaff et al. 2017): blocks of memory that each follow one entity.

Letters: B batch, K answers wanted, S facts, M blocks, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import option
from .stories import MOST_ANSWERS, Asked, StoryConfig, StoryModel, embedding


@dataclass(frozen=True)
class EntNetConfig(StoryConfig):
    """The options of `EntNet`."""

    num_blocks: int = option(20, "blocks of memory")
    most_words: int = option(16, "words of a sentence with a weight for their place")


class EntNet(StoryModel):
    """A fact s updates block j with key w_j and content h_j, which then gets length one:

    g_j = sigmoid(s . h_j + s . w_j); h_j + g_j phi(U h_j + V w_j + W s). A question q reads
    u = sum_j softmax(q . h_j) h_j, and the answer is R phi(q + H u). phi is a PReLU.
    """

    Config = EntNetConfig

    def build(self, config: EntNetConfig) -> None:
        size = config.hidden_size
        # From N(0, 1): with 0.1, as in the paper, gates and shares hardly differ for a long time.
        self.words = embedding(config.input_size, size, deviation=1.0)
        self.numbers = embedding(MOST_ANSWERS, size)
        self.fact_mask = nn.Parameter(torch.ones(config.most_words, size))
        self.question_mask = nn.Parameter(torch.ones(config.most_words, size))
        self.keys = nn.Parameter(torch.randn(config.num_blocks, size))
        self.from_content = nn.Linear(size, size, bias=False)
        self.from_key = nn.Linear(size, size, bias=False)
        self.from_fact = nn.Linear(size, size, bias=False)
        self.from_memory = nn.Linear(size, size, bias=False)
        self.update_activation = nn.PReLU(size, init=1.0)
        self.answer_activation = nn.PReLU(size, init=1.0)
        self.output = nn.Linear(size, config.output_size, bias=False)

    def encode(self, words: Tensor, mask: Tensor) -> Tensor:
        """Sentences (..., J) as vectors (..., H): words times a learned mask for each place."""
        places = torch.arange(words.shape[-1], device=words.device).clamp(max=len(mask) - 1)
        return (mask[places] * self.words(words)).sum(-2)

    def respond(self, asked: Asked) -> Tensor:
        facts = self.encode(asked.facts, self.fact_mask)
        told = (asked.facts > 0).any(-1)
        content = F.normalize(self.keys, dim=-1).expand(len(facts), -1, -1)
        contents = [content]  # after each number of facts
        for fact, is_told in zip(facts.unbind(1), told.unbind(1), strict=True):
            content = torch.where(is_told[:, None, None], self.updated(content, fact), content)
            contents.append(content)
        memory = torch.stack(contents, 1)[asked.rows, asked.told]
        number = asked.number.clamp(max=MOST_ANSWERS - 1) + 1
        question = self.encode(asked.questions, self.question_mask) + self.numbers(number)
        shares = (memory @ question.unsqueeze(-1)).softmax(1)
        read = (shares * memory).sum(1)
        return self.output(
            self._activate(self.answer_activation, question + self.from_memory(read))
        )

    def updated(self, content: Tensor, fact: Tensor) -> Tensor:
        """The content of the blocks (B, M, H) after a fact (B, H)."""
        fact = fact.unsqueeze(1)
        gates = (fact * (content + self.keys)).sum(-1, keepdim=True).sigmoid()
        parts = self.from_content(content) + self.from_key(self.keys) + self.from_fact(fact)
        return F.normalize(content + gates * self._activate(self.update_activation, parts), dim=-1)

    @staticmethod
    def _activate(activation: nn.PReLU, parts: Tensor) -> Tensor:
        """A PReLU over the last axis; torch's own takes the second."""
        return torch.where(parts > 0, parts, activation.weight * parts)
