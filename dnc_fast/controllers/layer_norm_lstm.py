"""The LSTM controller with layer normalisation (Ba et al. 2016; Franke et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backends.parts import sigmoid_backward, tanh_backward
from .layer_tape import LayerTape, pre_activations
from .lstm import LSTMController

EPSILON = 1e-5
"""Added to variances."""

layer_norm, layer_norm_backward = (
    torch.ops.aten.native_layer_norm,
    torch.ops.aten.native_layer_norm_backward,
)


class LayerNormLSTMCell(nn.Module):
    """An LSTM cell that normalises its pre-activations, all at once, and its state as it is output.

        i, f, g, o = LN(W x + U h);  c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(LN(c))

    Each LN has its own gains and, with `bias`, shifts: the only biases. Without them, over steps
    before the first input that is not zero, both LN see zeros and gradients grow exponentially.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size

        def new(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))

        H = hidden_size
        self.weight_ih, self.weight_hh = new(4 * H, input_size), new(4 * H, H)
        self.gain_gates, self.gain_cell = new(4 * H), new(H)
        self.bias_gates = new(4 * H) if bias else None
        self.bias_cell = new(H) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Gains of one, the others as in nn.LSTMCell; shifts of zero would be like none."""
        bound = self.hidden_size**-0.5
        with torch.no_grad():
            for gain in (self.gain_gates, self.gain_cell):
                gain.fill_(1)
            for part in (self.weight_ih, self.weight_hh, self.bias_gates, self.bias_cell):
                if part is not None:
                    part.uniform_(-bound, bound)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """h and c after a step, (B, H) each."""
        hidden, cell = state
        gates = F.linear(x, self.weight_ih) + F.linear(hidden, self.weight_hh)
        gates = F.layer_norm(gates, gates.shape[1:], self.gain_gates, self.bias_gates, EPSILON)
        entry, forget, change, output = gates.chunk(4, dim=1)
        cell = forget.sigmoid() * cell + entry.sigmoid() * change.tanh()
        shown = F.layer_norm(cell, cell.shape[1:], self.gain_cell, self.bias_cell, EPSILON)
        return output.sigmoid() * shown.tanh(), cell


class LayerNormLSTMTape(LayerTape):
    """State: h and c. tanh_c holds tanh(LN(c))."""

    gates = 4
    has_c = True
    prepared = 6

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.c[: self.layout.batch_size] = self.initial[1]
        norms = [part.to(self.active.dtype) for part in self.norms]
        self._gates_norm, self._cell_norm = norms[:2], norms[2:]
        self._before = torch.empty_like(self.active)  # pre-activations
        self._d_norms = list(map(torch.empty_like, norms))

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        x_part = F.linear(x, layer.weight_ih[:, :x_size])
        weight = torch.cat([layer.weight_ih[:, x_size:], layer.weight_hh], dim=1)
        norms = []
        for gain, shift in (
            (layer.gain_gates, layer.bias_gates),
            (layer.gain_cell, layer.bias_cell),
        ):
            norms += [gain, torch.zeros_like(gain) if shift is None else shift]
        return [x_part, weight, *norms]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        layout, step = self.layout, self.layout.step(t)
        before = pre_activations(product, x_part, self._before[step])
        active = self.active[step]
        active.copy_(self._normal(before, self._gates_norm)[0])
        H = active.shape[1] // 4
        active[:, : 2 * H].sigmoid_()
        active[:, 2 * H : 3 * H].tanh_()
        active[:, 3 * H :].sigmoid_()
        entry, forget, change, output = active.chunk(4, dim=1)
        cell = self.c[layout.after(t)]
        torch.mul(forget, self.c[layout.before(t)], out=cell).addcmul_(entry, change)
        shown = torch.tanh(self._normal(cell, self._cell_norm)[0], out=self.tanh_c[step])
        torch.mul(output, shown, out=self.hidden[layout.output(t)])

    @staticmethod
    def _normal(values: Tensor, norm: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised values (b, n), their means and inverse deviations."""
        return layer_norm(values, values.shape[1:], *norm, EPSILON)

    def states_after(self, t: int) -> list[Tensor]:
        return [*super().states_after(t), self.c[self.layout.after(t)]]

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> None:
        layout, step = self.layout, self.layout.step(t)
        if t + 1 == layout.steps:  # a backward pass begins
            for part in self._d_norms:
                part.zero_()
        d_last, d_c = d_state
        d_hidden = d_last.add_(d_hidden)
        if clip is not None:
            d_hidden.clamp_(-clip, clip)
            d_c.clamp_(-clip, clip)
        entry, forget, change, output = self.active[step].chunk(4, dim=1)
        shown, last_c = self.tanh_c[step], self.c[layout.before(t)]
        cell = (forget * last_c).addcmul_(entry, change)  # the kept one may be clipped
        d_c.add_(self._normal_backward(tanh_backward(d_hidden * output, shown), cell, 2))
        d_gates = torch.empty_like(self.active[step])
        d_entry, d_forget, d_change, d_output = d_gates.chunk(4, dim=1)
        sigmoid_backward(d_c * change, entry, grad_input=d_entry)
        sigmoid_backward(d_c * last_c, forget, grad_input=d_forget)
        tanh_backward(d_c * entry, change, grad_input=d_change)
        sigmoid_backward(d_hidden * shown, output, grad_input=d_output)
        d_c.mul_(forget)
        d_active.copy_(self._normal_backward(d_gates, self._before[step], 0))

    def _normal_backward(self, d_normal: Tensor, values: Tensor, place: int) -> Tensor:
        """Gradient of the values; adds to those of the gains and shifts, at place and after it."""
        norm = self._gates_norm if place == 0 else self._cell_norm
        _, mean, rstd = self._normal(values, norm)
        d_values, d_gain, d_shift = layer_norm_backward(
            d_normal, values, values.shape[1:], mean, rstd, *norm, [True, True, True]
        )
        self._d_norms[place] += d_gain
        self._d_norms[place + 1] += d_shift
        return d_values

    def given_gradients(self, d_active: Tensor) -> list[Tensor]:
        norms = zip(self._d_norms, self.norms, strict=True)
        return [*super().given_gradients(d_active), *(d.to(part.dtype) for d, part in norms)]


class LayerNormLSTMController(LSTMController):
    """The deep LSTM with layers that normalise. Its state is that of `LSTMController`."""

    make_layer: Callable[..., nn.Module] = LayerNormLSTMCell
    tape: ClassVar[type[LayerTape] | None] = LayerNormLSTMTape
