"""Sequences of symbols from a decoder: the likeliest symbol each time, or a search with a beam.

A decoder is a function from the last symbol, one-hot (B, Y), and its state to logits (B, Y) and the
next state, as `Seq2Seq.step` is. The state has `choose(rows)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def greedy(
    step: Step, state: Any, first: Tensor, end: int, most_steps: int, pad: int = 0
) -> Tensor:
    """The likeliest symbol each time, until every sequence has ended.

    Args:
        step: the decoder.
        state: before its first step, of B sequences.
        first: what is fed to the first step, (B, Y).
        end: the symbol that ends a sequence.
        most_steps: sequences that have not ended are cut here.
        pad: the symbol after the end.

    Returns:
        (T, B) int64; every sequence up to its `end`, padded.
    """
    said = first
    symbols: list[Tensor] = []
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    while len(symbols) < most_steps and not ended.all():
        logits, state = step(said, state)
        symbol = logits.argmax(-1).masked_fill(ended, pad)
        symbols.append(symbol)
        ended |= symbol == end
        said = F.one_hot(symbol, first.shape[-1]).to(first)
    return torch.stack(symbols)


def beam_search(
    step: Step, state: Any, first: Tensor, end: int, most_steps: int, width: int, pad: int = 0
) -> tuple[Tensor, Tensor]:
    """The likeliest sequence that a search finds which keeps the `width` likeliest of each length.

    Args:
        step, state, first, end, most_steps, pad: as for `greedy`, which is a width of 1.
        width: K, sequences that are kept for each of the B.

    Returns:
        symbols, (T, B) int64, and the logarithms of their probabilities, (B).
    """
    batch_size, size = first.shape
    rows = torch.arange(batch_size, device=first.device).repeat_interleave(width)
    state, said = state.choose(rows), first[rows]
    scores = first.new_full((batch_size, width), -torch.inf)
    scores[:, 0] = 0.0  # at first all K are the same
    symbols = torch.zeros(0, batch_size, width, dtype=torch.long, device=first.device)
    ended = torch.zeros(batch_size, width, dtype=torch.bool, device=first.device)
    nothing = first.new_full((size,), -torch.inf)
    nothing[pad] = 0.0  # after the end there is one way to go on, and it costs nothing
    while len(symbols) < most_steps and not ended.all():
        logits, state = step(said, state)
        steps = logits.log_softmax(-1).unflatten(0, (batch_size, width))
        steps = torch.where(ended.unsqueeze(-1), nothing, steps)
        scores, places = (scores.unsqueeze(-1) + steps).flatten(1).topk(width)
        parents, symbol = places // size, places % size
        chosen = symbols.gather(2, parents.expand(len(symbols), -1, -1))
        symbols = torch.cat([chosen, symbol.unsqueeze(0)])
        ended = ended.gather(1, parents) | (symbol == end)
        rows = (parents + width * torch.arange(batch_size, device=first.device)[:, None]).flatten()
        state, said = state.choose(rows), F.one_hot(symbol.flatten(), size).to(first)
    return symbols[..., 0], scores[:, 0]
