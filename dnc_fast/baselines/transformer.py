"""A small causal Transformer of torch's own layers (Vaswani et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..options import option
from .base import BaselineConfig, WholePast


@dataclass(frozen=True)
class TransformerConfig(BaselineConfig):
    """The options of `Transformer`."""

    num_layers: int = option(2, "layers")
    num_heads: int = option(4, "heads of each layer")
    dropout: float = option(0.0, "dropout in each layer")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_hidden_step()

    @property
    def hidden_step(self) -> int:
        """Heads of equal size, and a sine for each cosine."""
        return math.lcm(2, self.num_heads)


def positions(places: Tensor, size: int) -> Tensor:
    """Sines and cosines of places (...) at wavelengths from 2 pi to 20,000 pi, (..., size)."""
    exponents = torch.arange(0, size, 2, device=places.device, dtype=torch.float32) / size
    angles = places.unsqueeze(-1) * 10_000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], -1)


class Transformer(WholePast):
    """Layer norm before each part, GELU, four times as wide inside; no step sees a later one."""

    Config = TransformerConfig

    def build(self, config: TransformerConfig) -> None:
        size = config.hidden_size
        self.input = nn.Linear(config.input_size, size)
        layer = nn.TransformerEncoderLayer(
            size, config.num_heads, 4 * size, config.dropout, "gelu", norm_first=True
        )
        norm = nn.LayerNorm(size)
        self.layers = nn.TransformerEncoder(
            layer, config.num_layers, norm, enable_nested_tensor=False
        )
        self.output = nn.Linear(size, config.output_size)

    def answer(self, inputs: Tensor, seen: Tensor) -> Tensor:
        places = seen.cumsum(0) - 1  # each sequence counts from its own beginning
        embedded = self.input(inputs)
        embedded = embedded + positions(places, self.config.hidden_size).to(embedded)
        hidden = self.layers(embedded, self._hidden_from(seen))
        return self.output(hidden)

    def _hidden_from(self, seen: Tensor) -> Tensor:
        """True where a step (first of the last two axes) must not look at another one."""
        steps = len(seen)
        mask = seen.new_ones(steps, steps).triu(1)
        if seen.all():
            return mask
        # A step that does not count sees itself, since a softmax needs something.
        alone = ~torch.eye(steps, dtype=torch.bool, device=seen.device)
        mask = mask | (~seen.t().unsqueeze(1) & alone)
        return mask.repeat_interleave(self.config.num_heads, 0)
