"""Controller layers over the steps of a batch, with a hand-derived backward.

A layer's product with x_t is computed for all steps at once before the loop (`x_part`), and the
gradients of its weights for all steps at once after it; only what depends on the previous step is
in the loop. A layer's `inputs` at a step are what it sees of [r_{t-1}; h_t^{l-1}; h_{t-1}^l].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import Backend
from ..layout import Layout
from ..precision import Precision


class LayerBuffers(NamedTuple):
    """What is kept of every step, for one layer, or for all with a leading L. S: inputs of a layer.

    | field    | shape                                           | precision |
    |----------|-------------------------------------------------|-----------|
    | inputs   | (step rows, S)                                  | half      |
    | active   | (step rows, gates H), activations               | full      |
    | c        | (state rows, H) for an LSTM, otherwise no rows  | full      |
    | tanh_c   | (step rows, H), likewise                        | full      |
    """

    inputs: Tensor
    active: Tensor
    c: Tensor
    tanh_c: Tensor


class LayerGradients(NamedTuple):
    """Gradients in a layer's backward pass.

    | field  | what                                                                  |
    |--------|-----------------------------------------------------------------------|
    | state  | of the layer's state, each (B, H); updated in place at each step      |
    | active | (step rows, gates H), of the pre-activations of all steps; filled     |
    """

    state: list[Tensor]
    active: Tensor


class LayerTape(ABC):
    """What all kinds of layers share: weights, inputs, hidden activations.

    Args:
        backend: provides the kernels.
        precision: of the run.
        layout: the rows of each step.
        x_part, weight, norms: from `prepare`.
        hidden: (output rows, H), the layer's own columns of the output.
        initial: the layer's state before the first step, a list of (B, H).
        buffers: to be filled.
    """

    gates: ClassVar[int] = 1
    """Pre-activations for each hidden unit."""

    kernel: ClassVar[int | None] = None
    """Its kind in kernels for whole sequences, from `kernels.arrays`; None: unsupported."""

    has_c: ClassVar[bool] = False
    """Whether the state has c besides h."""

    recurrent: ClassVar[bool] = True
    """Whether h_{t-1} is seen."""

    prepared: ClassVar[int] = 2
    """How many tensors `prepare` returns."""

    def __init__(
        self,
        backend: Backend,
        precision: Precision,
        layout: Layout,
        x_part: Tensor,
        weight: Tensor,
        hidden: Tensor,
        initial: list[Tensor],
        buffers: LayerBuffers,
        norms: list[Tensor],
    ) -> None:
        self.backend = backend
        self.precision = precision
        self.layout = layout
        self.x_part, self.weight, self.norms = x_part, weight, norms
        self.operand = precision.operand(weight)
        self.hidden = hidden
        self.initial = [tensor.contiguous() for tensor in initial]
        self.inputs, self.active, self.c, self.tanh_c = buffers
        self.final = [torch.empty_like(tensor) for tensor in initial]

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        """What a layer's tape needs, computed by differentiable operations.

        Returns:
            x_part (rows, gates H), with the biases, the weight (gates H, inputs), and the gains and
            shifts of layers that normalise.
        """
        bias = None if layer.bias_ih is None else layer.bias_ih + layer.bias_hh
        x_part = F.linear(x, layer.weight_ih[:, :x_size], bias)
        return [x_part, torch.cat([layer.weight_ih[:, x_size:], layer.weight_hh], dim=1)]

    def hidden_before(self, t: int) -> Tensor:
        """(b, H): h_{t-1}."""
        size = self.layout.batch_sizes[t]
        if t == 0:
            return self.initial[0][:size]
        start = self.layout.output(t - 1).start
        return self.hidden[start : start + size]

    def forward(self, t: int, seen: list[Tensor]) -> None:
        """Run step t: from [r_{t-1}; h_t^{l-1}] to the hidden activations."""
        inputs = self.inputs[self.layout.step(t)]
        torch.cat([*seen, self.hidden_before(t)], dim=1, out=inputs)
        product = torch.mm(inputs, self.operand.t())
        self.activate(t, product, self.x_part[self.layout.output(t)])

    def finish(self, t: int) -> None:
        """Save the final state of the sequences whose last step was t."""
        ending = self.layout.ending(t)
        for final, state in zip(self.final, self.states_after(t), strict=True):
            final[ending] = state[ending]

    @abstractmethod
    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        """Fill the buffers of step t and the hidden activations.

        Args:
            t: the step.
            product, x_part: (b, gates H), the pre-activations are their sum.
        """

    def states_after(self, t: int) -> list[Tensor]:
        """The layer's state after step t, each (b, H)."""
        return [self.hidden[self.layout.output(t)]]

    def backward(
        self, t: int, d_hidden: Tensor, clip: float | None, gradients: LayerGradients
    ) -> Tensor:
        """Run step t backward.

        Args:
            t: decreases from call to call.
            d_hidden: (b, H), gradient of h_t without the part from step t + 1.
            clip: bound of the activations' gradients, see `DNC`.
            gradients: of this layer.

        Returns:
            (b, inputs - H): gradient of what the layer saw besides its own state.
        """
        size = self.layout.batch_sizes[t]
        d_state = [part[:size] for part in gradients.state]
        d_active = gradients.active[self.layout.step(t)]
        direct = self.activate_backward(t, d_hidden, d_state, clip, d_active)
        d_inputs = torch.mm(d_active, self.operand)
        seen = d_inputs.shape[1] - d_hidden.shape[1]
        d_state[0].copy_(d_inputs[:, seen:])
        if direct is not None:
            d_state[0].add_(direct)
        return d_inputs[:, :seen]

    @abstractmethod
    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> Tensor | None:
        """Fill d_active; d_state, except the hidden activations, becomes that of step t - 1.

        Returns:
            (b, H): gradient of h_{t-1} that bypasses the pre-activations, if any.
        """

    def given_gradients(self, d_active: Tensor) -> list[Tensor]:
        """Gradients of what `prepare` returned, for all steps at once."""
        d_weight = torch.mm(d_active.t(), self.inputs)
        return [d_active.to(self.x_part.dtype), d_weight.to(self.weight.dtype)]


def pre_activations(product: Tensor, x_part: Tensor, active: Tensor) -> Tensor:
    """Fill `active` with product + x_part; returns it."""
    return torch.add(product, x_part, out=active)


def clipped_gradient(d_hidden: Tensor, d_last: Tensor, clip: float | None) -> Tensor:
    """The gradient of h_t with that from step t + 1, clipped; overwrites the latter."""
    d_last.add_(d_hidden)
    return d_last if clip is None else d_last.clamp_(-clip, clip)
