"""Gated delta-rule memory, in its recurrent form (Yang et al. 2024, "Gated Delta Networks").

Letters: B batch, T steps, H hidden size, K heads, D size of a head, H / K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..options import option
from .base import Baseline, BaselineConfig

WINDOW = 4
"""Steps that the short convolution sees, as in the paper."""


@dataclass(frozen=True)
class DeltaNetConfig(BaselineConfig):
    """The options of `DeltaNet`."""

    num_layers: int = option(2, "layers")
    num_heads: int = option(4, "heads of each layer")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_hidden_step()

    @property
    def hidden_step(self) -> int:
        return self.num_heads


def delta_rule(
    query: Tensor, key: Tensor, value: Tensor, keep: Tensor, strength: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T; o_t = S_t q_t, step by step.

    What the memory holds at the key decays, and moves from its old value towards the new one.

    Args:
        query, key, value: q, k, v, (T, B, K, D); keys of length one.
        keep: a, (T, B, K), in [0, 1].
        strength: b, (T, B, K), in [0, 1].
        memory: S_0^T, (B, K, D, D), rows by key.

    Returns:
        what was read, (T, B, K, D), and the memory after the last step.
    """
    reads = []
    for q, k, v, a, b in zip(query, key, value, keep, strength, strict=True):
        memory = a[..., None, None] * memory
        old = (k.unsqueeze(-2) @ memory).squeeze(-2)
        memory = memory + k.unsqueeze(-1) * (b.unsqueeze(-1) * (v - old)).unsqueeze(-2)
        reads.append((q.unsqueeze(-2) @ memory).squeeze(-2))
    return torch.stack(reads), memory


class DeltaLayer(nn.Module):
    """x + memory(norm(x)), and then x + feed-forward(norm(x)).

    q, k and v pass through a causal convolution over `WINDOW` steps and SiLU; q and k then have
    length one. What is read is normed, gated by SiLU and mixed by a linear layer.
    """

    def __init__(self, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(size)
        self.project = nn.Linear(size, 3 * size, bias=False)
        self.short = nn.Conv1d(3 * size, 3 * size, WINDOW, groups=3 * size)
        self.gates = nn.Linear(size, 2 * num_heads)
        self.rate = nn.Parameter(torch.zeros(num_heads))
        self.read_norm = nn.LayerNorm(size // num_heads)
        self.read_gate = nn.Linear(size, size, bias=False)
        self.mix = nn.Linear(size, size, bias=False)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size)
        )

    def forward(self, x: Tensor, before: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From (T, B, H) to the same, and the state after the last step.

        Args:
            x: (T, B, H).
            before: what the convolution saw last, (B, WINDOW - 1, 3 H).
            memory: (B, K, D, D).
        """
        normed = self.norm(x)
        seen = torch.cat([before.transpose(0, 1).to(normed), self.project(normed)])
        mixed = F.silu(self.short(seen.permute(1, 2, 0))).permute(2, 0, 1)
        query, key, value = mixed.unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query, key = (F.normalize(part, dim=-1, eps=1e-6) for part in (query, key))
        decay, strength = self.gates(normed).chunk(2, -1)
        keep = (-self.rate.exp() * F.softplus(decay - 4)).exp()  # close to one at first
        reads, memory = delta_rule(query, key, value, keep, strength.sigmoid(), memory)
        reads = self.read_norm(reads).flatten(-2) * F.silu(self.read_gate(normed))
        x = x + self.mix(reads)
        return x + self.feedforward(x), seen[-(WINDOW - 1) :].transpose(0, 1), memory


class DeltaNet(Baseline):
    """Layers of gated delta-rule memory between a linear input and a linear output layer."""

    Config = DeltaNetConfig

    def build(self, config: DeltaNetConfig) -> None:
        size = config.hidden_size
        self.input = nn.Linear(config.input_size, size)
        layers = (DeltaLayer(size, config.num_heads) for _ in range(config.num_layers))
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(size)
        self.output = nn.Linear(size, config.output_size)

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        config = self.config
        size, layers, heads = config.hidden_size, config.num_layers, config.num_heads
        return {
            "before": (layers, WINDOW - 1, 3 * size),
            "memory": (layers, heads, size // heads, size // heads),
        }

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, after = self.input(x), []
        befores, memories = (part.unbind(1) for part in parts.values())
        for layer, before, memory in zip(self.layers, befores, memories, strict=True):
            hidden, *state = layer(hidden, before, memory)
            after.append(state)
        stacked = (torch.stack(part, 1) for part in zip(*after, strict=True))
        return self.output(self.norm(hidden)), dict(zip(parts, stacked, strict=True))
