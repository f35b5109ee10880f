"""A built-in controller over the steps of a batch, without autograd inside the loop."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..backends import Backend
from ..controllers import LayerBuffers, LayeredController, LayerGradients, LayerTape
from ..layout import Layout
from ..precision import Precision
from ..state import tensors


class Layers:
    """A built-in controller that runs layer by layer; holds no tensors.

    Args:
        controller: the module, whose class has a tape.

    Attributes:
        c_clip: the bound of an LSTM's c; None for no bound.
        draws: whether a run draws random numbers, for dropout masks, step by step.
    """

    def __init__(self, controller: LayeredController) -> None:
        assert controller.tape is not None
        self.tape = controller.tape
        self.hidden_size = controller.hidden_size
        self.num_layers = len(controller.layers)
        self.activation_clip = controller.activation_clip
        self.c_clip = controller.value_clip if controller.tape.has_c else None
        dropout = controller.dropout if controller.training else 0.0
        self.dropout = dropout if self.num_layers > 1 else 0.0
        self.draws = bool(self.dropout)

    @property
    def key(self) -> tuple[Any, ...]:
        """What determines the work that is done."""
        clips = self.activation_clip, self.c_clip
        return self.tape, self.hidden_size, self.num_layers, *clips, self.dropout

    @property
    def kept_numbers(self) -> int:
        """About how many numbers are kept per step and sequence."""
        return (self.tape.gates + 3) * self.hidden_size * self.num_layers

    def prepare(self, controller: LayeredController, x: Tensor) -> list[Tensor]:
        """The inputs of a run, computed with autograd: what each layer's tape prepares.

        Args:
            controller: the module.
            x: (rows, X), all steps' inputs.
        """
        layers = [self.tape.prepare(layer, x, x.shape[1]) for layer in controller.layers]
        return [tensor for layer in layers for tensor in layer]

    def begin(
        self,
        backend: Backend,
        precision: Precision,
        layout: Layout,
        given: list[Tensor],
        output: Tensor,
        state: Any,
    ) -> LayeredTape:
        """Begin a run.

        Args:
            backend: provides the kernels.
            precision: of the run.
            layout: the rows of each step.
            given: from `prepare`, detached.
            output: (output rows, L H), to be filled with hidden activations.
            state: before the first step, detached.
        """
        return LayeredTape(self, backend, precision, layout, given, output, state)


class LayeredTape:
    """What a run of a built-in controller keeps; see `Layers.begin` for the arguments."""

    def __init__(
        self,
        layers: Layers,
        backend: Backend,
        precision: Precision,
        layout: Layout,
        given: list[Tensor],
        output: Tensor,
        state: Any,
    ) -> None:
        self.of = layers
        self.layout = layout
        kind, H, L = layers.tape, layers.hidden_size, layers.num_layers
        self.masks: list[dict[int, Tensor]] = [{} for _ in range(L)]
        layers_given = [given[k : k + kind.prepared] for k in range(0, len(given), kind.prepared)]
        has_c = int(kind.has_c)
        seen = max(weight.shape[1] for _, weight, *_ in layers_given)
        # With several layers, the lowest sees less than the others; the rest is zero.
        new = output.new_empty if L == 1 else output.new_zeros
        full = partial(output.new_empty, dtype=precision.full)
        self.buffers = LayerBuffers(
            inputs=new(L, layout.num_step_rows, seen),
            active=full(L, layout.num_step_rows, kind.gates * H),
            c=full(L, has_c * layout.num_state_rows, H),
            tanh_c=full(L, has_c * layout.num_step_rows, H),
        )
        self.layers: list[LayerTape] = []
        for index, (x_part, weight, *norms) in enumerate(layers_given):
            hidden = output[:, index * H : (index + 1) * H]
            initial = list(tensors(state[index]))
            inputs, *others = (buffer[index] for buffer in self.buffers)
            buffers = LayerBuffers(inputs[:, : weight.shape[1]], *others)
            self.layers.append(
                kind(backend, precision, layout, x_part, weight, hidden, initial, buffers, norms)
            )

    def forward(self, t: int, read_vectors: Tensor) -> None:
        """Run step t, from the read vectors (b, R W) of the previous step."""
        for index, layer in enumerate(self.layers):
            below = self.below(index, t)
            layer.forward(t, [read_vectors] if below is None else [read_vectors, below])
            if (clip := self.of.c_clip) is not None:
                layer.c[self.layout.after(t)].clamp_(-clip, clip)

    def below(self, index: int, t: int) -> Tensor | None:
        """(b, H): h_t of the layer below, with a new mask for dropout; None for the lowest."""
        if index == 0:
            return None
        below = self.layers[index - 1].hidden[self.layout.output(t)]
        if not self.of.dropout:
            return below
        mask = F.dropout(torch.ones_like(below), self.of.dropout)
        if self.layout.keep:
            self.masks[index][t] = mask
        return below * mask

    def below_of_all_steps(self, index: int) -> Tensor | None:
        """What `below` gave at all steps, (step rows, H); if everything is kept."""
        if index == 0:
            return None
        below, masks = self.layers[index - 1].hidden, self.masks[index]
        return below * torch.cat([masks[t] for t in sorted(masks)]) if masks else below

    def finish(self, t: int) -> None:
        """Save the final state of the sequences whose last step was t."""
        for layer in self.layers:
            layer.finish(t)

    def final_state(self) -> list[Tensor]:
        """Each sequence's state after its own last step, as a list of (B, H)."""
        return [tensor for layer in self.layers for tensor in layer.final]

    def begin_backward(self, d_final: list[Tensor | None]) -> LayeredGradients:
        """Start a backward pass from gradients of the final state."""
        return LayeredGradients(self, d_final)


class LayeredGradients:
    """Gradients in the backward pass of a built-in controller.

    Args:
        tape: of the run.
        d_final: gradients of the final state; None means zeros.
    """

    def __init__(self, tape: LayeredTape, d_final: list[Tensor | None]) -> None:
        self.tape = tape
        inputs, active = tape.buffers.inputs, tape.buffers.active
        self.active = torch.empty_like(active, dtype=inputs.dtype)
        # For h and c, even if the state lacks one.
        shape = (2, tape.of.num_layers, tape.layout.batch_size, tape.of.hidden_size)
        self.last, self.c = active.new_zeros(shape)
        self.layers: list[LayerGradients] = []
        for index, layer in enumerate(tape.layers):
            own, d_final = d_final[: len(layer.final)], d_final[len(layer.final) :]
            state = [self.last[index], self.c[index]][: len(own)]
            for part, gradient in zip(state, own, strict=True):
                if gradient is not None:
                    part.copy_(gradient)
            self.layers.append(LayerGradients(state, self.active[index]))

    def backward(self, t: int, d_output: Tensor) -> Tensor:
        """Run step t backward from the gradient of its output (b, L H).

        Returns:
            (b, R W): gradient of the previous step's read vectors.
        """
        tape = self.tape
        H, clip = tape.of.hidden_size, tape.of.activation_clip
        c_clip, after = tape.of.c_clip, tape.layout.after(t)
        d_read: Tensor | None = None
        d_below: Tensor | None = None
        for index in reversed(range(len(tape.layers))):
            d_hidden = d_output[:, index * H : (index + 1) * H]
            if d_below is not None:
                d_hidden = d_hidden + d_below
            if c_clip is not None:
                clipped = tape.layers[index].c[after].abs() >= c_clip
                self.c[index, : len(clipped)].masked_fill_(clipped, 0)
            d_seen = tape.layers[index].backward(t, d_hidden, clip, self.layers[index])
            if index:
                d_below = d_seen[:, d_seen.shape[1] - H :]
                d_seen = d_seen[:, : d_seen.shape[1] - H]
                if t in tape.masks[index]:
                    d_below = d_below * tape.masks[index][t]
            d_read = d_seen if d_read is None else d_read + d_seen
        assert d_read is not None
        return d_read

    def of_given(self) -> list[Tensor | None]:
        """Gradients of the run's inputs."""
        pairs = zip(self.tape.layers, self.layers, strict=True)
        return [part for layer, own in pairs for part in layer.given_gradients(own.active)]

    def of_state(self) -> list[Tensor]:
        """Gradients of the state before the first step."""
        return [part for layer in self.layers for part in layer.state]
