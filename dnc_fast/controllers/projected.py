"""An LSTM controller whose hidden activations are projected, as in nn.LSTM with `proj_size`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import LayeredController


class ProjectedLSTMCell(nn.Module):
    """One step of an LSTM with a projection (Sak et al. 2014): h_t = W_hr (o_t tanh(c_t)).

    Names, shapes and initial values of the parameters are those of a layer of nn.LSTM.

    Args:
        input_size: X.
        proj_size: P, size of h.
        cell_size: H, size of c.
        bias: whether the gates have biases.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        proj_size: int,
        *,
        cell_size: int,
        bias: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.cell_size = cell_size
        self.bias_ih: Tensor | None
        self.bias_hh: Tensor | None
        make = partial(torch.empty, device=device, dtype=dtype)
        self.weight_ih = nn.Parameter(make(4 * cell_size, input_size))
        self.weight_hh = nn.Parameter(make(4 * cell_size, proj_size))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(make(4 * cell_size)) if bias else None)
        self.weight_hr = nn.Parameter(make(proj_size, cell_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, uniform in +-1 / sqrt(H)."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(self.cell_size**-0.5), self.cell_size**-0.5)

    def forward(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """h (B, P) and c (B, H) after a step, from inputs (B, X) and those before it."""
        hidden, cell = state
        recurrent = F.linear(hidden, self.weight_hh, self.bias_hh)
        gates = F.linear(inputs, self.weight_ih, self.bias_ih) + recurrent
        enter, forget, new, leave = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return F.linear(leave.sigmoid() * cell.tanh(), self.weight_hr), cell


class ProjectedLSTMController(LayeredController):
    """A deep LSTM with projections. State: a tuple with (h, c), (B, P) and (B, H), for each layer.

    It has no tape: the engine calls it at each step.

    Args:
        input_size: of the controller, X + R W.
        cell_size: H.
        proj_size: P, the size of each layer's output.
        options: those of `LayeredController`.
    """

    def __init__(self, input_size: int, cell_size: int, proj_size: int, **options: Any) -> None:
        self.make_layer = partial(ProjectedLSTMCell, cell_size=cell_size)
        super().__init__(input_size, proj_size, **options)
        self.cell_size = cell_size

    def zero_state(self, batch_size: int) -> tuple[tuple[Tensor, Tensor], ...]:
        zeros = self.zeros(batch_size)
        return tuple((zeros, zeros.new_zeros(batch_size, self.cell_size)) for _ in self.layers)

    def layer_step(self, layer: nn.Module, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, cell = map(self.clip, layer(inputs, state))
        return hidden, (hidden, cell)
