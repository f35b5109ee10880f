"""Dynamic Neural Turing Machine: cells with learned addresses (Gulcehre et al. 2017).

Letters: B batch, N cells, W cell size, A address size, R read heads, Hw write heads, K heads of a
kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import option
from .base import Baseline, BaselineConfig, BaselineState
from .ntm import similarity, write

KEPT = 0.1
"""The share of its old value that the average of scores keeps at each step."""


@dataclass(frozen=True)
class DNTMConfig(BaselineConfig):
    """The options of `DNTM`; hidden_size is that of the controller, a GRU."""

    num_cells: int = option(64, "memory cells")
    cell_size: int = option(32, "size of a memory cell")
    address_size: int = option(16, "size of a cell's learned address")
    num_read_heads: int = option(1, "read heads")
    num_write_heads: int = option(1, "write heads")


def address(said: Tensor, memory: Tensor, average: Tensor) -> tuple[Tensor, Tensor]:
    """Where K heads look (the last cell stands for nowhere), and the average of their scores.

    z = (1 + softplus(beta)) cos(k, m_i); w = softmax(z - sigmoid(gamma) v); v = 0.1 v + 0.9 z. So
    a head can turn to cells that it has not looked at recently.

    Args:
        said: what the controller says, (B, K, A + W + 2): the key k, beta, and gamma.
        memory: (B, N + 1, A + W), the address and the content of each cell.
        average: v before the step, (B, K, N + 1).

    Returns:
        the weightings w and v after the step, (B, K, N + 1) each.
    """
    key, strength, turn = said.split([memory.shape[-1], 1, 1], -1)
    scores = (1 + F.softplus(strength)) * similarity(key, memory)
    weights = (scores - turn.sigmoid() * average).softmax(-1)
    return weights, KEPT * average + (1 - KEPT) * scores


class DNTM(Baseline):
    """The read heads read, the controller sees x_t and r_t, then the write heads write.

    r_t = w C, by what h_{t-1} says; h_t = GRU([x_t, r_t], h_{t-1}); C = C (1 - w e) + w c, by what
    h_t says, with c = relu(U h_t + sigmoid(a [h_t, x_t]) V x_t); y_t = W [h_t, r_t] + b. Addresses
    are learned and fixed; contents start at zero. One more cell has an address, but nothing is
    read from it or written to it (NOOP).
    """

    Config = DNTMConfig
    fixed_cells = True

    def build(self, config: DNTMConfig) -> None:
        size, hidden, writers = config.cell_size, config.hidden_size, config.num_write_heads
        reads, said = config.num_read_heads * size, config.address_size + size + 2
        self.addresses = nn.Parameter(torch.randn(config.num_cells + 1, config.address_size))
        self.controller = nn.GRUCell(config.input_size + reads, hidden)
        self.read_heads = nn.Linear(hidden, config.num_read_heads * said)
        self.write_heads = nn.Linear(hidden, writers * said)
        self.erase = nn.Linear(hidden, writers * size)
        self.from_hidden = nn.Linear(hidden, writers * size)
        self.from_input = nn.Linear(config.input_size, writers * size, bias=False)
        self.input_gate = nn.Linear(hidden + config.input_size, writers)
        self.output = nn.Linear(hidden + reads, config.output_size)

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        config = self.config
        if num_cells not in (None, config.num_cells):
            raise ValueError(
                f"num_cells must be None or {config.num_cells} for this DNTM, whose cells have "
                f"learned addresses, got {num_cells}"
            )
        heads = config.num_read_heads + config.num_write_heads
        return {
            "hidden": (config.hidden_size,),
            "content": (config.num_cells, config.cell_size),
            "average": (heads, config.num_cells + 1),
        }

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, content, average = parts.values()
        readers, writers = self.config.num_read_heads, self.config.num_write_heads
        addresses = self.addresses.expand(len(hidden), -1, -1)
        features = []
        for inputs in x:
            memory = torch.cat([addresses, F.pad(content, (0, 0, 0, 1))], -1)
            read, write_average = average.split([readers, writers], 1)
            said = self.read_heads(hidden).unflatten(-1, (readers, -1))
            weights, read = address(said, memory, read)
            reads = (weights[..., :-1] @ content).flatten(1)
            hidden = self.controller(torch.cat([inputs, reads], -1), hidden)
            said = self.write_heads(hidden).unflatten(-1, (writers, -1))
            weights, write_average = address(said, memory, write_average)
            erase = self.erase(hidden).unflatten(-1, (writers, -1)).sigmoid()
            content = write(content, weights[..., :-1], erase, self.added(inputs, hidden))
            average = torch.cat([read, write_average], 1)
            features.append(torch.cat([hidden, reads], -1))
        after = (hidden, content, average)
        return self.output(torch.stack(features)), dict(zip(parts, after, strict=True))

    def added(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        """What the write heads add, (B, Hw, W)."""
        writers = self.config.num_write_heads
        gate = self.input_gate(torch.cat([hidden, inputs], -1)).sigmoid().unsqueeze(-1)
        of_hidden, of_input = (
            part.unflatten(-1, (writers, -1))
            for part in (self.from_hidden(hidden), self.from_input(inputs))
        )
        return torch.relu(of_hidden + gate * of_input)

    def units(self, state: BaselineState) -> tuple[Tensor, ...]:
        return (state.parts["hidden"],)
