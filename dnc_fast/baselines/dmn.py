"""Dynamic memory network, DMN+ (Xiong et al. 2016): episodes of attention over the facts.

Letters: K answers wanted, S facts, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

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
class DMNConfig(StoryConfig):
    """The options of `DMN`."""

    num_episodes: int = option(3, "passes over the facts")
    dropout: float = option(0.0, "dropout of facts and answers")


class AttentionGRU(nn.Module):
    """A GRU whose update gate is the attention g_i: h_i = g_i h' + (1 - g_i) h_{i-1}.

    h' = tanh(W f_i + r (U h_{i-1} + b)), with the reset gate r of a GRU.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inputs = nn.Linear(size, 2 * size)
        self.hidden = nn.Linear(size, 2 * size)

    def forward(self, facts: Tensor, attention: Tensor) -> Tensor:
        """From facts (K, S, H) and attention (K, S) to the state after the last fact, (K, H)."""
        hidden = torch.zeros_like(facts[:, 0])
        steps = zip(self.inputs(facts).unbind(1), attention.unbind(1), strict=True)
        for inputs, share in steps:
            reset, new = inputs.chunk(2, -1)
            to_reset, to_new = self.hidden(hidden).chunk(2, -1)
            new = torch.tanh(new + (reset + to_reset).sigmoid() * to_new)
            hidden = hidden + share.unsqueeze(-1) * (new - hidden)
        return hidden


class DMN(StoryModel):
    """Facts pass through a bidirectional GRU; each episode attends to them and updates m.

    z_i = [f_i q, f_i m, |f_i - q|, |f_i - m|]; g = softmax(W2 tanh(W1 z_i)); c: the attention GRU;
    m = relu(Wt [m, c, q]). The answer is W [q, m].
    """

    Config = DMNConfig

    def build(self, config: DMNConfig) -> None:
        size = config.hidden_size
        self.words = embedding(config.input_size, size, deviation=1.0)  # as in the paper
        self.numbers = embedding(MOST_ANSWERS, size)
        self.fusion = nn.GRU(size, size, batch_first=True, bidirectional=True)
        self.question = nn.GRU(size, size, batch_first=True)
        self.score = nn.Sequential(nn.Linear(4 * size, size), nn.Tanh(), nn.Linear(size, 1))
        self.shares = Shares(-1)
        self.attend = AttentionGRU(size)
        episodes = range(config.num_episodes)
        self.update = nn.ModuleList(nn.Linear(3 * size, size) for _ in episodes)
        self.drop = nn.Dropout(config.dropout)
        self.output = nn.Linear(2 * size, config.output_size)

    def respond(self, asked: Asked) -> Tensor:
        facts = self.facts(asked)
        question = self.drop(self.asks(asked))
        memory, known = question, asked.known[:, : facts.shape[1]]
        for update in self.update:
            read = self.attend(facts, self.attention(facts, question, memory, known))
            memory = torch.relu(update(torch.cat([memory, read, question], -1)))
        return self.output(self.drop(torch.cat([question, memory], -1)))

    def facts(self, asked: Asked) -> Tensor:
        """The facts known to each answer, each with what is before and after it, (K, S, H)."""
        weights = position_weights(asked.facts, self.words.weight)
        facts = self.drop((weights * self.words(asked.facts)).sum(-2))[asked.rows]
        lengths = asked.told.clamp(min=1).cpu()
        packed = pack_padded_sequence(facts, lengths, batch_first=True, enforce_sorted=False)
        fused, _ = pad_packed_sequence(self.fusion(packed)[0], batch_first=True)
        ahead, back = fused.chunk(2, -1)
        return ahead + back

    def asks(self, asked: Asked) -> Tensor:
        """The questions as vectors, (K, H): the state after their last word."""
        lengths = (asked.questions > 0).sum(-1).clamp(min=1)
        states, _ = self.question(self.words(asked.questions))
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        return last + self.numbers(asked.number.clamp(max=MOST_ANSWERS - 1) + 1)

    def attention(self, facts: Tensor, question: Tensor, memory: Tensor, known: Tensor) -> Tensor:
        """The share of each fact, (K, S); nothing of those that are not known."""
        question, memory = question.unsqueeze(1), memory.unsqueeze(1)
        products = (facts * question, facts * memory)
        distances = ((facts - question).abs(), (facts - memory).abs())
        scores = self.score(torch.cat([*products, *distances], -1)).squeeze(-1)
        return self.shares(scores, known)
