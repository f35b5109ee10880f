"""A forward and a backward pass from inputs and parameters themselves: all that a capture holds.

Usually autograd prepares what `Recording` is given, and takes its gradients on to the parameters:
a dozen launches and as many nodes around it. Here they are part of the pass, so that a graph has
them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..state import DNCState, tensors
from .passes import Passes
from .recording import Recording


def layer_parameters(controller: Any) -> Iterator[Tensor]:
    """The parameters of a built-in controller without its module's slow search for them."""
    for layer in controller.layers:
        for parameter in layer._parameters.values():
            if parameter is not None:
                yield parameter


def with_parameters(controller: Any, values: Sequence[Tensor]) -> Any:
    """A copy of a built-in controller whose parameters are leaves in the memory of `values`."""
    twin = copy.deepcopy(controller)
    for own, value in zip(layer_parameters(twin), values, strict=True):
        own.data = value
    return twin


@contextmanager
def plain_mode(device: torch.device) -> Iterator[None]:
    """Disable inference mode, gradients and autocast, whatever the caller has enabled."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


class RecordingFromInputs:
    """A `Recording`, with the preparation of its controller's inputs.

    Args:
        passes: what to run.
        controller: from `with_parameters`; its parameters stay as they are.
        given: x (rows, X), the controller's parameters, then tensors of the interface layer and of
            the state.
        wanted: of x and of each parameter, whether its gradient is needed.
    """

    def __init__(
        self, passes: Passes, controller: Any, given: Sequence[Tensor], wanted: Sequence[bool]
    ) -> None:
        x, parameters = given[0], list(layer_parameters(controller))
        others = given[1 + len(parameters) :]
        weight, half = others[0], passes.plan.precision.half
        # Aliases whose versions are their own: what is given may be overwritten.
        self._leaves = [x.data, *parameters]
        for leaf, is_wanted in zip(self._leaves, wanted, strict=True):
            leaf.requires_grad_(is_wanted)
        autocast = half is not None and weight.dtype != half
        with (
            torch.set_grad_enabled(passes.layout.keep),
            torch.autocast(x.device.type, half, enabled=autocast, cache_enabled=False),
        ):
            self._prepared = passes.controller.prepare(controller, self._leaves[0])
        self._count = len(others)
        self._recording = Recording(passes, (*others, *(one.detach() for one in self._prepared)))

    def results(self) -> list[Tensor]:
        """Features, and the tensors of the final state."""
        return self._recording.results()

    def backward(self, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """The gradients of `given` from those of the results; None where it is not wanted."""
        found = self._recording.backward(gradients)
        known = [
            (one, gradient)
            for one, gradient in zip(self._prepared, found[self._count :], strict=True)
            if one.requires_grad
        ]
        leaves = [leaf for leaf in self._leaves if leaf.requires_grad]
        d_leaves: Iterator[Tensor] = iter(())
        if leaves:
            outputs, d_outputs = zip(*known, strict=True)
            d_leaves = iter(
                torch.autograd.grad(
                    outputs, leaves, d_outputs, retain_graph=True, materialize_grads=True
                )
            )
        of_leaves = [next(d_leaves) if leaf.requires_grad else None for leaf in self._leaves]
        return [*of_leaves, *found[: self._count]]


class Repeat(NamedTuple):
    """How to repeat a run for a second backward pass, from inputs that autograd has saved.

    | field      | what                                             |
    |------------|--------------------------------------------------|
    | passes     | what was run                                     |
    | controller | the module                                       |
    | zeros      | makes the state if it is no input                |
    | wanted     | see `RecordingFromInputs`                        |
    """

    passes: Passes
    controller: Any
    zeros: Callable[[], DNCState] | None
    wanted: tuple[bool, ...]

    def backward(
        self, inputs: Sequence[Tensor], gradients: tuple[Tensor | None, ...]
    ) -> list[Tensor | None]:
        """`RecordingFromInputs.backward`."""
        with plain_mode(self.passes.device):
            zeros = [] if self.zeros is None else list(tensors(self.zeros()))
            count = sum(1 for _ in layer_parameters(self.controller))
            controller = with_parameters(self.controller, inputs[1 : 1 + count])
            given = [*inputs, *zeros]
            run = RecordingFromInputs(self.passes, controller, given, self.wanted)
            return run.backward(gradients)[: len(inputs)]
