"""The LSTM controller: the paper's (Graves et al. 2016, Methods, "Controller network")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from ..kernels.arrays import LSTM
from .base import LayeredController
from .layer_tape import LayerTape


class LSTMTape(LayerTape):
    """State: h and c. Gates: input, forget, cell, output, as in nn.LSTMCell."""

    gates = 4
    kernel = LSTM
    has_c = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.c[: self.layout.batch_size] = self.initial[1]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        step = self.layout.step(t)
        self.backend.lstm_forward(
            product,
            x_part,
            self.c[self.layout.before(t)],
            self.active[step],
            self.c[self.layout.after(t)],
            self.tanh_c[step],
            self.hidden[self.layout.output(t)],
        )

    def states_after(self, t: int) -> list[Tensor]:
        return [*super().states_after(t), self.c[self.layout.after(t)]]

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> None:
        step = self.layout.step(t)
        d_last, d_c = d_state
        self.backend.lstm_backward(
            self.active[step],
            self.tanh_c[step],
            self.c[self.layout.before(t)],
            d_hidden,
            d_last,
            clip,
            d_c,
            d_active,
        )


class LSTMController(LayeredController):
    """The paper's deep LSTM. State: a tuple with (h, c), each (B, H), for each layer."""

    make_layer: Callable[..., nn.Module] = nn.LSTMCell
    tape: ClassVar[type[LayerTape] | None] = LSTMTape

    def zero_state(self, batch_size: int) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple((self.zeros(batch_size), self.zeros(batch_size)) for _ in self.layers)

    def layer_step(self, layer: nn.Module, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, cell = map(self.clip, layer(inputs, state))
        return hidden, (hidden, cell)
