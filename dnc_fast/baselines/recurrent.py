"""Recurrent layers without a memory: torch's own RNN, LSTM and GRU, and an output layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ..options import option
from .base import Baseline, BaselineConfig, BaselineState
from .nalu import NAC, NALU

HEADS: dict[str, Any] = {"linear": nn.Linear, "nac": NAC, "nalu": NALU}
"""Output layers, from H to Y."""


@dataclass(frozen=True)
class RecurrentConfig(BaselineConfig):
    """The options of recurrent layers."""

    num_layers: int = option(1, "layers")
    dropout: float = option(0.0, "dropout between layers")
    head: str = option("linear", "output layer", choices=HEADS)


class Recurrent(Baseline):
    """h_t = layers(x_t, h_{t-1}); y_t = head(h_t), W h_t + b if linear. State: (B, L, H) each."""

    layers_type: ClassVar[Any]
    part_names: ClassVar[tuple[str, ...]] = ("hidden",)

    def build(self, config: RecurrentConfig) -> None:
        sizes = (config.input_size, config.hidden_size, config.num_layers)
        # torch warns of a dropout that has no layers to act between.
        dropout = config.dropout if config.num_layers > 1 else 0.0
        self.layers = self.layers_type(*sizes, dropout=dropout)
        self.output = HEADS[config.head](config.hidden_size, config.output_size)

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(self.part_names, (self.config.num_layers, self.config.hidden_size))

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        first, *rest = (part.transpose(0, 1).contiguous() for part in parts.values())
        hidden, after = self.layers(x, (first, *rest) if rest else first)
        after = after if rest else (after,)
        pairs = zip(self.part_names, after, strict=True)
        return self.output(hidden), {name: part.transpose(0, 1) for name, part in pairs}

    def units(self, state: BaselineState) -> tuple[Tensor, ...]:
        return tuple(part[:, -1] for part in state.parts.values())


class RNNConfig(RecurrentConfig):
    """The options of `RNN`."""


class RNN(Recurrent):
    """nn.RNN: h_t = tanh(U x_t + V h_{t-1} + b) (Elman 1990)."""

    Config = RNNConfig
    layers_type = nn.RNN


class GRUConfig(RecurrentConfig):
    """The options of `GRU`."""


class GRU(Recurrent):
    """nn.GRU (Cho et al. 2014)."""

    Config = GRUConfig
    layers_type = nn.GRU


class LSTMConfig(RecurrentConfig):
    """The options of `LSTM`."""


class LSTM(Recurrent):
    """nn.LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    Config = LSTMConfig
    layers_type = nn.LSTM
    part_names = ("hidden", "cell")
