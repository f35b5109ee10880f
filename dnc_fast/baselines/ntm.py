"""Neural Turing Machine: heads that look up by content and move by shifts (Graves et al. 2014).

Letters: B batch, N cells, W cell size, R read heads, Hw write heads, K heads of a kind, S shifts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import option
from .base import Baseline, BaselineConfig, BaselineState

EPSILON = 1e-6


@dataclass(frozen=True)
class NTMConfig(BaselineConfig):
    """The options of `NTM`; hidden_size is that of the controller, an LSTM."""

    num_cells: int = option(64, "memory cells")
    cell_size: int = option(32, "size of a memory cell")
    num_read_heads: int = option(1, "read heads")
    num_write_heads: int = option(1, "write heads")
    max_shift: int = option(1, "most cells that a head moves in a step, either way")


class Addressing(NamedTuple):
    """What the controller says of where K heads look.

    | field    | shape     | range    | meaning                                  |
    |----------|-----------|----------|------------------------------------------|
    | key      | (B, K, W) | real     | the content to look for, k               |
    | strength | (B, K, 1) | >= 0     | how much the best match counts, beta     |
    | gate     | (B, K, 1) | [0, 1]   | content (1), or where the head was (0), g|
    | shift    | (B, K, S) | [0, 1]   | shares of shifts -m .. m, sum one, s     |
    | sharpen  | (B, K, 1) | >= 1     | exponent of the weighting, gamma         |
    """

    key: Tensor
    strength: Tensor
    gate: Tensor
    shift: Tensor
    sharpen: Tensor


def similarity(key: Tensor, memory: Tensor) -> Tensor:
    """The cosines of keys (B, K, W) and cells (B, N, W), (B, K, N)."""
    norms = (key.square().sum(-1, keepdim=True) + EPSILON).sqrt()
    lengths = (memory.square().sum(-1) + EPSILON).sqrt().unsqueeze(1)
    return key @ memory.mT / (norms * lengths)


def address(said: Addressing, memory: Tensor, last: Tensor) -> Tensor:
    """The weightings of K heads (B, K, N), equations 5 to 9 of the paper.

    Args:
        said: what the controller says.
        memory: (B, N, W).
        last: the weightings of the step before, (B, K, N).
    """
    content = (said.strength * similarity(said.key, memory)).softmax(-1)
    weights = said.gate * content + (1 - said.gate) * last
    reach = said.shift.shape[-1] // 2
    moved = torch.stack([weights.roll(by, -1) for by in range(-reach, reach + 1)], -1)
    weights = (moved * said.shift.unsqueeze(-2)).sum(-1)
    weights = (weights + EPSILON) ** said.sharpen
    return weights / weights.sum(-1, keepdim=True)


def write(memory: Tensor, weights: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory after all write heads, first all erasing, then all adding.

    Args:
        memory: (B, N, W).
        weights: (B, Hw, N).
        erase: (B, Hw, W), in [0, 1].
        add: (B, Hw, W).
    """
    kept = (1 - weights.unsqueeze(-1) * erase.unsqueeze(-2)).prod(1)
    return memory * kept + weights.mT @ add


class NTM(Baseline):
    """The controller sees x_t and r_{t-1}; the write heads act, then the read heads read M_t.

    y_t = W [h_t, r_t] + b. The memory starts empty and every head at the first cell. The number of
    parameters does not depend on N.
    """

    Config = NTMConfig

    def build(self, config: NTMConfig) -> None:
        reads = config.num_read_heads * config.cell_size
        self.controller = nn.LSTMCell(config.input_size + reads, config.hidden_size)
        # Of each head, in this order.
        self.address_sizes = (config.cell_size, 1, 1, 2 * config.max_shift + 1, 1)
        self.num_heads = config.num_read_heads + config.num_write_heads
        self.heads = nn.Linear(config.hidden_size, self.num_heads * sum(self.address_sizes))
        self.writing = nn.Linear(config.hidden_size, 2 * config.num_write_heads * config.cell_size)
        self.output = nn.Linear(config.hidden_size + reads, config.output_size)

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        config = self.config
        cells = num_cells or config.num_cells
        return {
            "hidden": (config.hidden_size,),
            "cell": (config.hidden_size,),
            "memory": (cells, config.cell_size),
            "moved": (self.num_heads, cells),  # the weightings less those at the start
            "reads": (config.num_read_heads, config.cell_size),
        }

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, cell, memory, moved, reads = parts.values()
        start = F.one_hot(moved.new_zeros((), dtype=torch.long), moved.shape[-1]).to(moved)
        weights, features = moved + start, []
        writers = self.config.num_write_heads
        for inputs in x:
            seen = torch.cat([inputs, reads.flatten(1)], -1)
            hidden, cell = self.controller(seen, (hidden, cell))
            weights = address(self.addressing(hidden), memory, weights)
            said = self.writing(hidden).unflatten(-1, (2, writers, -1))
            memory = write(memory, weights[:, :writers], said[:, 0].sigmoid(), said[:, 1])
            reads = weights[:, writers:] @ memory
            features.append(torch.cat([hidden, reads.flatten(1)], -1))
        after = (hidden, cell, memory, weights - start, reads)
        return self.output(torch.stack(features)), dict(zip(parts, after, strict=True))

    def addressing(self, hidden: Tensor) -> Addressing:
        """What the hidden state (B, H) says to all heads, the write heads first."""
        said = self.heads(hidden).unflatten(-1, (self.num_heads, -1))
        key, strength, gate, shift, sharpen = said.split(self.address_sizes, -1)
        return Addressing(
            key, F.softplus(strength), gate.sigmoid(), shift.softmax(-1), 1 + F.softplus(sharpen)
        )

    def units(self, state: BaselineState) -> tuple[Tensor, ...]:
        return state.parts["hidden"], state.parts["cell"]
