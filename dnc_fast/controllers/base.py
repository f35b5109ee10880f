"""What a controller is: the protocol for your own, and what the built-in ones share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..state import map_tensors
from .layer_tape import LayerTape


@runtime_checkable
class Controller(Protocol):
    """What a module must have to drive a DNC.

    Attributes:
        output_size: length of its output, an int.
    """

    output_size: int

    def zero_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: Any = None
    ) -> Any:
        """The state before the first step: tensors (B, ...) in nested tuples, lists or dicts.

        An empty tuple if it keeps none.

        Args:
            batch_size: B.
            device, dtype: of the model's parameters. A controller that has parameters of its own
                may take them from there, and leave out both arguments.
        """
        ...

    def __call__(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step: inputs (B, X + R W) and a state to outputs (B, output_size) and a state."""
        ...


class _ClipGradient(torch.autograd.Function):
    """The identity, with the gradient clipped elementwise to [-limit, limit]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clamp(-ctx.limit, ctx.limit), None


class LayeredController(nn.Module, ABC):
    """Layers that each see the input, the read vectors and the layer below; all are outputs.

    Layer l sees [x_t; r_{t-1}; h_t^{l-1}] and, when recurrent, h_{t-1}^l; the output is
    [h^1; ...; h^L] (Graves et al. 2016, Methods, "Controller network").
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        activation_clip: float | None = None,
        value_clip: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.output_size = num_layers * hidden_size
        self.dropout = dropout
        self.activation_clip = activation_clip
        self.value_clip = value_clip
        self.layers = nn.ModuleList(
            self.make_layer(
                input_size + (hidden_size if index else 0),
                hidden_size,
                bias=bias,
                device=device,
                dtype=dtype,
            )
            for index in range(num_layers)
        )

    make_layer: Callable[..., nn.Module]

    tape: ClassVar[type[LayerTape] | None] = None
    """How the engine runs a layer over whole sequences; None: by calling the module."""

    @abstractmethod
    def zero_state(self, batch_size: int) -> Any:
        """See `Controller.zero_state`."""

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs: list[Tensor] = []
        new_state = []
        layer_input = inputs
        for layer, layer_state in zip(self.layers, state, strict=True):
            if outputs:
                below = F.dropout(outputs[-1], self.dropout, self.training)
                layer_input = torch.cat([inputs, below], dim=-1)
            step = self.layer_step(layer, layer_input, layer_state)
            if self.value_clip is not None:
                bounds = {"min": -self.value_clip, "max": self.value_clip}
                step = map_tensors(partial(torch.clamp, **bounds), step)
            hidden, layer_state = step
            outputs.append(hidden)
            new_state.append(layer_state)
        return torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0], tuple(new_state)

    @abstractmethod
    def layer_step(self, layer: nn.Module, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One layer's step: its hidden activations (B, H) and its new state."""

    def clip(self, activations: Tensor) -> Tensor:
        """The activations, with their gradient clipped if `activation_clip` is set."""
        if self.activation_clip is None:
            return activations
        return _ClipGradient.apply(activations, self.activation_clip)

    def kept_numbers(self) -> int:
        """Numbers kept for the backward pass per step and sequence, including gradients."""
        kept = 0
        for layer in self.layers:
            weights = [p for name, p in layer.named_parameters() if name.startswith("weight")]
            gates = weights[0].shape[0]
            # x_part and its gradient; activations and theirs; inputs; state and tanh.
            kept += 4 * gates + sum(weight.shape[1] for weight in weights) + 3 * self.hidden_size
        return kept

    def zeros(self, batch_size: int) -> Tensor:
        """Zeros (B, H) of the parameters' dtype and device."""
        for parameter in self.parameters():
            return parameter.new_zeros(batch_size, self.hidden_size)
        # torch's dynamic quantization leaves none, and runs in float32 on a CPU
        return torch.zeros(batch_size, self.hidden_size, device="cpu", dtype=torch.float32)

    def reset_parameters(self) -> None:
        """Draw new initial values for the parameters, as torch's own layers do."""
        layer: Any
        for layer in self.layers:
            layer.reset_parameters()

    @torch.no_grad()
    def scale_inputs(self, count: int, gain: float) -> None:
        """Multiply every layer's weights for the first `count` inputs by `gain`."""
        for layer in self.layers:
            weight = next(layer.parameters())
            weight[:, :count] *= gain

    def extra_repr(self) -> str:
        clips = f"activation_clip={self.activation_clip}, value_clip={self.value_clip}"
        return f"dropout={self.dropout}, {clips}"


class SingleStateController(LayeredController):
    """Recurrent layers whose state is only their hidden activations."""

    def zero_state(self, batch_size: int) -> tuple[Tensor, ...]:
        return tuple(self.zeros(batch_size) for _ in self.layers)

    def layer_step(self, layer: nn.Module, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        hidden = self.clip(layer(inputs, state))
        return hidden, hidden


def zero_state(controller: Any, batch_size: int, like: Tensor) -> Any:
    """A controller's state before the first step.

    Args:
        controller: it need not take `device` and `dtype`, see `Controller.zero_state`.
        batch_size: B.
        like: has the device and dtype of the model's parameters.
    """
    given = {"device": like.device, "dtype": like.dtype}
    return controller.zero_state(
        batch_size, **{name: given[name] for name in _zero_state_arguments(controller)}
    )


def _zero_state_arguments(controller: Any) -> list[str]:
    """Which of `device` and `dtype` its zero_state takes.

    Found when a model is made, so that torch.compile need not compile it again once it is known.
    """
    kind: Any = type(controller)
    if kind not in _taken:
        parameters = inspect.signature(kind.zero_state).parameters
        every = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        _taken[kind] = [name for name in ("device", "dtype") if every or name in parameters]
    return _taken[kind]


_taken: dict[Any, list[str]] = {}
"""By the kind of controller."""


def call_controller(controller: Any, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
    """One step of a controller, see `Controller.__call__`.

    Raises:
        TypeError: it does not return a pair that begins with a tensor.
    """
    returned = controller(inputs, state)
    if (
        not isinstance(returned, (tuple, list))
        or len(returned) != 2
        or not isinstance(returned[0], Tensor)
    ):
        kind = type(returned).__name__
        got = f"a {kind} of {len(returned)}" if isinstance(returned, (tuple, list)) else f"a {kind}"
        raise TypeError(
            f"controller {type(controller).__name__} must return (outputs, state), got {got}"
        )
    return returned[0], returned[1]


def check_controller(controller: Any) -> Any:
    """Check that a controller is a module that follows the protocol, and return it.

    Raises:
        TypeError: it is not an `nn.Module`, or lacks a part of the protocol.
    """
    if not isinstance(controller, nn.Module):
        raise TypeError(f"controller must be an nn.Module, got {type(controller).__name__}")
    missing = [name for name in ("output_size", "zero_state") if not hasattr(controller, name)]
    if missing:
        raise TypeError(
            f"controller {type(controller).__name__} lacks {' and '.join(missing)}; it must have "
            "output_size (an int), zero_state(batch_size, device, dtype) and "
            "forward(inputs, state) -> (outputs, state), see dnc_fast.controllers.Controller"
        )
    _zero_state_arguments(controller)
    return controller
