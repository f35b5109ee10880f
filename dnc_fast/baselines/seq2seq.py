"""LSTM encoder and decoder with attention (Sutskever et al. 2014, Bahdanau et al. 2015).

Letters: T steps, S steps of the source, B batch, X input size, Y output size, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..options import option
from .attention import ATTENTIONS
from .base import AnswersLast, BaselineConfig


@dataclass(frozen=True)
class Seq2SeqConfig(BaselineConfig):
    """The options of `Seq2Seq`; hidden_size is that of the decoder and of each direction."""

    attention: str = option("bahdanau", "how the decoder attends", choices=ATTENTIONS)


class Decoding(NamedTuple):
    """Where a decoder is.

    | field  | shape     | meaning                                                  |
    |--------|-----------|----------------------------------------------------------|
    | values | (S, B, 2H)| the encoded source                                       |
    | known  | (S, B)    | bool; the steps of each source                           |
    | hidden | (B, H)    | state of the decoder                                     |
    | cell   | (B, H)    | its cell state                                           |
    | fed    | (B, H)    | what the last step hands to the next (Luong's input feed)|
    """

    values: Tensor
    known: Tensor
    hidden: Tensor
    cell: Tensor
    fed: Tensor

    def choose(self, rows: Tensor) -> Decoding:
        """The decoders of some sequences, which may be chosen several times."""
        return Decoding(
            self.values[:, rows],
            self.known[:, rows],
            self.hidden[rows],
            self.cell[rows],
            self.fed[rows],
        )


class Seq2Seq(AnswersLast):
    """Reads a source from both ends, then answers step by step; each answer sees the last one.

    Called as a DNC is, the decoder is fed the sigmoid of its own last output. `decode` can be fed
    the right answers instead (teacher forcing), and `greedy` and `beam_search` in decoding.py make
    sequences of symbols.
    """

    Config = Seq2SeqConfig

    def build(self, config: Seq2SeqConfig) -> None:
        size = config.hidden_size
        self.encoder = nn.LSTM(config.input_size, size, bidirectional=True)
        self.first_hidden = nn.Linear(2 * size, size)
        self.attention = ATTENTIONS[config.attention](size, 2 * size)
        read = 2 * size if self.attention.before_step else size
        self.decoder = nn.LSTMCell(config.output_size + read, size)
        self.combine = nn.Linear(3 * size, size)
        self.output = nn.Linear(size, config.output_size)

    def encode(self, source: Tensor, lengths: Tensor) -> Decoding:
        """Read sources (S, B, X) of these lengths (B), from 1 to S."""
        packed = pack_padded_sequence(source, lengths.cpu(), enforce_sorted=False)
        encoded, (last, _) = self.encoder(packed)
        values, _ = pad_packed_sequence(encoded)
        steps = torch.arange(len(values), device=source.device).unsqueeze(1)
        hidden = torch.tanh(self.first_hidden(torch.cat([last[0], last[1]], -1)))
        zero = torch.zeros_like(hidden)
        return Decoding(values, steps < lengths.to(source.device), hidden, zero, zero)

    def step(self, said: Tensor, at: Decoding) -> tuple[Tensor, Decoding]:
        """The next output (B, Y) after the last answer (B, Y), zeros at first."""
        hidden, cell, fed = at.hidden, at.cell, at.fed
        if self.attention.before_step:
            read, _ = self.attention(hidden, at.values, at.known)
            hidden, cell = self.decoder(torch.cat([said, read], -1), (hidden, cell))
        else:
            hidden, cell = self.decoder(torch.cat([said, fed], -1), (hidden, cell))
            read, _ = self.attention(hidden, at.values, at.known)
        fed = torch.tanh(self.combine(torch.cat([hidden, read], -1)))
        return self.output(fed), at._replace(hidden=hidden, cell=cell, fed=fed)

    def decode(self, at: Decoding, steps: int, wanted: Tensor | None = None) -> Tensor:
        """Outputs of a number of steps, (steps, B, Y).

        Args:
            at: from `encode`.
            steps: how many.
            wanted: (steps, B, Y), the right answers, each of which is fed to the step after it;
                None to feed the sigmoid of the last output.
        """
        outputs: list[Tensor] = []
        said = at.hidden.new_zeros(len(at.hidden), self.config.output_size)
        for number in range(steps):
            output, at = self.step(said, at)
            outputs.append(output)
            said = output.sigmoid() if wanted is None else wanted[number]
        return torch.stack(outputs)

    def respond(self, source: Tensor, lengths: Tensor, steps: int) -> Tensor:
        return self.decode(self.encode(source, lengths), steps)
