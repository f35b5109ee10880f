"""Pointer network: answers with places of its own source (Vinyals et al. 2015).

Letters: S steps of the source, B batch, X input size, Y output size, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .attention import NOWHERE, Bahdanau
from .base import AnswersLast, BaselineConfig


@dataclass(frozen=True)
class PointerConfig(BaselineConfig):
    """The options of `PointerNetwork`; output_size is how many places there are at most."""


class PointerNetwork(AnswersLast):
    """The logits of an answer are scores of the source's steps e_j: v . tanh(W e_j + U d).

    The decoder with the state d starts where the encoder ends, and is fed the mean of the inputs at
    the places that it last pointed at.
    """

    Config = PointerConfig

    def build(self, config: PointerConfig) -> None:
        size = config.hidden_size
        self.encoder = nn.LSTM(config.input_size, size)
        self.decoder = nn.LSTMCell(config.input_size, size)
        self.attention = Bahdanau(size, size)

    def respond(self, source: Tensor, lengths: Tensor, steps: int) -> Tensor:
        packed = pack_padded_sequence(source, lengths.cpu(), enforce_sorted=False)
        encoded, (hidden, cell) = self.encoder(packed)
        values, _ = pad_packed_sequence(encoded)
        places, room = len(values), self.config.output_size
        if places > room:
            raise ValueError(
                f"source must have at most output_size={room} steps, the places that a pointer "
                f"network knows, got {places}"
            )
        known = torch.arange(places, device=source.device).unsqueeze(1) < lengths.to(source.device)
        hidden, cell, said = hidden[0], cell[0], torch.zeros_like(source[0])
        outputs = []
        for _ in range(steps):
            hidden, cell = self.decoder(said, (hidden, cell))
            scores = self.attention.scores(hidden, values).masked_fill(~known, NOWHERE)
            shares = self.attention.shares(scores, known)
            said = (shares.unsqueeze(-1) * source[:places]).sum(0)
            outputs.append(F.pad(scores, (0, 0, 0, room - places), value=NOWHERE).t())
        return torch.stack(outputs)
