"""Attention to what an encoder has read (Bahdanau et al. 2015, Luong et al. 2015).

Letters: S steps of the source, B batch, H hidden size, E features of an encoded step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

NOWHERE = -1e4
"""Scores of what must not be looked at; float16 can hold it."""


class Shares(nn.Module):
    """A softmax of scores, zero where nothing is known; a module, so that pictures can watch it.

    Args:
        dim: the axis of what is looked at.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, scores: Tensor, known: Tensor) -> Tensor:
        """From scores to shares of the same shape.

        Args:
            scores: any range.
            known: bool, of the shape of the scores; what can be looked at.
        """
        return scores.masked_fill(~known, NOWHERE).softmax(self.dim).masked_fill(~known, 0.0)


class Attention(nn.Module, ABC):
    """What a decoder reads from an encoded source; a subclass has `scores`."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(0)

    @abstractmethod
    def scores(self, state: Tensor, values: Tensor) -> Tensor:
        """How well each step of the source (S, B, E) suits the state (B, H), (S, B)."""

    def forward(self, state: Tensor, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What is read, (B, E), and the shares, (S, B).

        Args:
            state: (B, H).
            values: (S, B, E).
            known: (S, B), bool; True for the steps of each source.
        """
        shares = self.shares(self.scores(state, values), known)
        return (shares.unsqueeze(-1) * values).sum(0), shares


class Bahdanau(Attention):
    """Additive scores, v . tanh(W s + U h_j), of the decoder's state s before its step."""

    before_step = True

    def __init__(self, size: int, encoded: int) -> None:
        super().__init__()
        self.state = nn.Linear(size, size)
        self.source = nn.Linear(encoded, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def scores(self, state: Tensor, values: Tensor) -> Tensor:
        return self.score(torch.tanh(self.state(state) + self.source(values))).squeeze(-1)


class Luong(Attention):
    """Multiplicative scores, s . W h_j ("general"), of the decoder's state s after its step."""

    before_step = False

    def __init__(self, size: int, encoded: int) -> None:
        super().__init__()
        self.source = nn.Linear(encoded, size, bias=False)

    def scores(self, state: Tensor, values: Tensor) -> Tensor:
        return (state * self.source(values)).sum(-1)


ATTENTIONS: dict[str, Any] = {"bahdanau": Bahdanau, "luong": Luong}
