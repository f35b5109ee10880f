"""The GRU controller."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends.parts import sigmoid_backward, tanh_backward
from ..kernels.arrays import GRU
from .base import SingleStateController
from .layer_tape import LayerTape, clipped_gradient, pre_activations


class GRUTape(LayerTape):
    """State: h. As nn.GRUCell: h_t = (1 - z) n + z h, n = tanh(a + r b), where b sees only h.

    The pre-activations are those of r, z, a and b. Since a does not see h, and b sees nothing else,
    those weights are zero.
    """

    gates = 4
    kernel = GRU

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        H, seen = layer.hidden_size, layer.weight_ih.shape[1] - x_size
        x_weight, seen_weight = layer.weight_ih.split([x_size, seen], dim=1)
        none = x_weight.new_zeros(1)
        x_weight = torch.cat([x_weight, none.expand(H, x_size)])
        if layer.bias_ih is None:
            bias = None
        else:
            both = layer.bias_ih[: 2 * H] + layer.bias_hh[: 2 * H]
            bias = torch.cat([both, layer.bias_ih[2 * H :], layer.bias_hh[2 * H :]])
        hidden_weight = layer.weight_hh
        weight = torch.cat(
            [
                torch.cat([seen_weight, none.expand(H, seen)]),
                torch.cat([hidden_weight[: 2 * H], none.expand(H, H), hidden_weight[2 * H :]]),
            ],
            dim=1,
        )
        return [F.linear(x, x_weight, bias), weight]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        active = pre_activations(product, x_part, self.active[self.layout.step(t)])
        H = active.shape[1] // self.gates
        active[:, : 2 * H].sigmoid_()
        reset, update, new, hidden_new = active.chunk(4, dim=1)
        new.addcmul_(reset, hidden_new).tanh_()
        before = self.hidden_before(t).to(active.dtype)
        self.hidden[self.layout.output(t)] = torch.lerp(new, before, update)

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> Tensor:
        d_hidden = clipped_gradient(d_hidden, d_state[0], clip)
        active = self.active[self.layout.step(t)]
        reset, update, new, hidden_new = active.chunk(4, dim=1)
        d_reset, d_update, d_new, d_hidden_new = d_active.chunk(4, dim=1)
        tanh_backward(d_hidden * (1 - update), new, grad_input=d_new)
        sigmoid_backward(d_hidden * (self.hidden_before(t) - new), update, grad_input=d_update)
        sigmoid_backward(d_new * hidden_new, reset, grad_input=d_reset)
        torch.mul(d_new, reset, out=d_hidden_new)
        return d_hidden * update


class GRUController(SingleStateController):
    """Gated recurrent units. State: a tuple with h (B, H) for each layer."""

    make_layer = nn.GRUCell
    tape = GRUTape
