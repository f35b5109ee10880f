"""The controllers of pytorch-dnc that the engine does not have: relu units, clipped outputs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..controllers import CONTROLLERS
from ..controllers.base import SingleStateController


class ReLUController(SingleStateController):
    """Plain units without an upper bound. State: a tuple with h (B, H) for each layer."""

    make_layer = partial(nn.RNNCell, nonlinearity="relu")


class ClippedController(nn.Module):
    """A controller whose outputs, but not its state, are clipped to [-clip, clip].

    Args:
        input_size: X + R W.
        kind: "relu", or one of `CONTROLLERS`.
        clip: 0 for none.
        options: of the layers.
        device: of the parameters.
    """

    def __init__(
        self,
        input_size: int,
        kind: str,
        clip: float,
        options: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        make = ReLUController if kind == "relu" else CONTROLLERS[kind]
        self.unclipped = make(input_size, **options, device=device)
        self.output_size = self.unclipped.output_size
        self.clip = clip or math.inf

    def zero_state(self, batch_size: int) -> Any:
        """See `dnc_fast.controllers.Controller.zero_state`."""
        return self.unclipped.zero_state(batch_size)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden, state = self.unclipped(inputs, state)
        return hidden.clamp(-self.clip, self.clip), state

    def reset_parameters(self) -> None:
        """Draw new initial values for the parameters."""
        self.unclipped.reset_parameters()

    def extra_repr(self) -> str:
        return f"clip={self.clip}"
