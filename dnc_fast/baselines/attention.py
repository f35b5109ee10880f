"""Attention to what an encoder has read (Bahdanau et al. 2015, Luong et al. 2015).

Letters: S steps of the source, B batch, H hidden size, E features of an encoded step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NOWHERE = -1e4
"""Scores of what must not be looked at; float16 can hold it."""


def read_by(scores: Tensor, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """What is read, (B, E), and the shares, (S, B), which are zero where nothing is known.

    Args:
        scores: (S, B).
        values: (S, B, E).
        known: (S, B), bool; True for the steps of each source.
    """
    shares = scores.masked_fill(~known, NOWHERE).softmax(0).masked_fill(~known, 0.0)
    return (shares.unsqueeze(-1) * values).sum(0), shares


class Bahdanau(nn.Module):
    """Additive scores, v . tanh(W s + U h_j), of the decoder's state s before its step."""

    before_step = True

    def __init__(self, size: int, encoded: int) -> None:
        super().__init__()
        self.state = nn.Linear(size, size)
        self.source = nn.Linear(encoded, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)

    def scores(self, state: Tensor, values: Tensor) -> Tensor:
        """How well each step of the source suits the state (B, H), (S, B)."""
        return self.score(torch.tanh(self.state(state) + self.source(values))).squeeze(-1)

    def forward(self, state: Tensor, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """See `read_by`; state is (B, H)."""
        return read_by(self.scores(state, values), values, known)


class Luong(nn.Module):
    """Multiplicative scores, s . W h_j ("general"), of the decoder's state s after its step."""

    before_step = False

    def __init__(self, size: int, encoded: int) -> None:
        super().__init__()
        self.source = nn.Linear(encoded, size, bias=False)

    def forward(self, state: Tensor, values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """See `read_by`; state is (B, H)."""
        return read_by((state * self.source(values)).sum(-1), values, known)


ATTENTIONS = {"bahdanau": Bahdanau, "luong": Luong}
