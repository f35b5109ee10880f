"""Controllers of plain tanh units: recurrent ones, and feed-forward ones without a state."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends.parts import tanh_backward
from ..kernels.arrays import PLAIN
from .base import LayeredController, SingleStateController
from .layer_tape import LayerGradients, LayerTape, clipped_gradient, pre_activations


class RNNTape(LayerTape):
    """State: h. One tanh, as in nn.RNNCell."""

    kernel = PLAIN

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        active = pre_activations(product, x_part, self.active[self.layout.step(t)])
        torch.tanh(active, out=self.hidden[self.layout.output(t)])

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> None:
        d_hidden = clipped_gradient(d_hidden, d_state[0], clip)
        tanh_backward(d_hidden, self.hidden[self.layout.output(t)], grad_input=d_active)


class RNNController(SingleStateController):
    """Plain tanh units. State: a tuple with h (B, H) for each layer."""

    make_layer = nn.RNNCell
    tape = RNNTape


class FeedForwardTape(RNNTape):
    """No state: h_{t-1} is not seen."""

    recurrent = False

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        x_part = F.linear(x, layer.weight[:, :x_size], layer.bias)
        return [x_part, layer.weight[:, x_size:]]

    def hidden_before(self, t: int) -> Tensor:
        return self.hidden.new_empty(self.layout.batch_sizes[t], 0)

    def states_after(self, t: int) -> list[Tensor]:
        return []

    def backward(
        self, t: int, d_hidden: Tensor, clip: float | None, gradients: LayerGradients
    ) -> Tensor:
        if clip is not None:
            d_hidden = d_hidden.clamp(-clip, clip)
        d_active = gradients.active[self.layout.step(t)]
        tanh_backward(d_hidden, self.hidden[self.layout.output(t)], grad_input=d_active)
        return torch.mm(d_active, self.operand)


class FeedForwardController(LayeredController):
    """tanh layers without a state: only the memory remembers anything."""

    make_layer = nn.Linear
    tape = FeedForwardTape

    def zero_state(self, batch_size: int) -> tuple[tuple[()], ...]:
        return ((),) * len(self.layers)

    def layer_step(self, layer: nn.Module, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.clip(torch.tanh(layer(inputs))), ()
