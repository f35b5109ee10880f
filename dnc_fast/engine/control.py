"""What drives the memory from step to step: the controller, and the interface layer above it.

`ComposedControl` multiplies with torch; `FusedControl` uses a backend's kernels for whole layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ..backends import Backend
from ..controllers import LayerTape
from ..kernels.arrays import PLAIN, LayerGradient, LayerStep
from ..layout import Layout
from ..precision import Precision
from .called_controller import CalledTape
from .interface_layer import InterfaceTensors, Normalization
from .layered_controller import LayeredGradients, LayeredTape


class InterfaceLayer(NamedTuple):
    """The interface layer over all steps.

    | field    | shape                                         |
    |----------|-----------------------------------------------|
    | tensors  | its own                                       |
    | features | (outputs, output size + R W), of all steps    |
    | vectors  | (step rows, interface size), to be filled     |
    """

    tensors: InterfaceTensors
    features: Tensor
    vectors: Tensor

    def outputs(self, rows: slice) -> Tensor:
        """The controller's outputs in some rows of the features."""
        return self.features[rows, : self.tensors.weight.shape[1]]


class ComposedControl:
    """Any controller's tape, and products by torch.

    Args:
        controller: its tape, just begun.
        interface: the layer above it.
        precision: of the run.
        layout: the rows of each step.
    """

    def __init__(
        self,
        controller: LayeredTape | CalledTape,
        interface: InterfaceLayer,
        precision: Precision,
        layout: Layout,
    ) -> None:
        self.controller: Any = controller
        self.interface, self.precision, self.layout = interface, precision, layout
        self._weight = precision.operand(interface.tensors.weight)
        self._norm: Normalization | None = None
        if interface.tensors.gain is not None:
            self._norm = Normalization(interface.tensors, interface.vectors, layout.keep)
        self._gradients: Any = None

    def forward(self, t: int, reads: Tensor) -> None:
        """Fill the interface vectors of step t, from the read vectors (b, R W) of t - 1."""
        self.controller.forward(t, reads)
        output, step = self.layout.output(t), self.layout.step(t)
        vectors, tensors = self.interface.vectors[step], self.interface.tensors
        outputs = self.interface.outputs(output)
        self.precision.fill(vectors, outputs, self._weight.t(), tensors.bias)
        if tensors.ahead is not None:
            vectors.add_(tensors.ahead[output])
        if self._norm is not None:
            self._norm.forward(step)

    def end(self, first_reads: Tensor, reads: Tensor) -> None:
        """Finish the forward pass: (B, R W) before the first step, (step rows, R W) after each."""

    def begin_backward(self, d_final: list[Tensor | None]) -> Any:
        """The controller's gradients, begun with those of its final state."""
        self._gradients = self.controller.begin_backward(d_final)
        if self._norm is not None:
            self._norm.begin_backward()
        return self._gradients

    def backward(self, t: int, d_vectors: Tensor, d_hidden: Tensor, d_reads: Tensor) -> None:
        """Run step t backward.

        Args:
            t: decreases from call to call.
            d_vectors: (b, interface size), gradients of the interface vectors; become those of what
                the linear layer puts out.
            d_hidden: (b, output size), of the controller's outputs otherwise; overwritten.
            d_reads: (b, R W), of the read vectors of step t - 1; added to.
        """
        if self._norm is not None:
            self._norm.backward(self.layout.step(t), d_vectors)
        d_output = self.precision.add(d_hidden, d_vectors, self._weight)
        d_reads.add_(self._gradients.backward(t, d_output))

    def norm_gradients(self) -> list[Tensor | None]:
        """Gradients of the normalisation's gain and shift, if there is one."""
        return [] if self._norm is None else self._norm.gradients(self.interface.tensors)


class FusedControl:
    """A built-in controller's tape, filled by a backend's kernels.

    Kernels read read vectors and hidden activations where they lie; what the gradients of the
    weights need of all steps is gathered at the end.

    Args:
        kernels: from `Backend.controller_kernels`.
        controller, interface, precision, layout: see `ComposedControl`.
    """

    def __init__(
        self,
        kernels: Any,
        controller: LayeredTape,
        interface: InterfaceLayer,
        precision: Precision,
        layout: Layout,
    ) -> None:
        self.kernels, self.controller = kernels, controller
        self.interface, self.layout = interface, layout
        self._weight = _with_rows(precision.operand(interface.tensors.weight))
        self._weights = [_with_rows(layer.operand) for layer in controller.layers]
        recurrent = controller.of.tape.recurrent
        self._first_hidden: list[Tensor | None] = [
            precision.operand(layer.initial[0]) if recurrent else None
            for layer in controller.layers
        ]
        self._gradients: LayeredGradients | None = None

    def forward(self, t: int, reads: Tensor) -> None:
        """See `ComposedControl`."""
        tape, output = self.controller, self.layout.output(t)
        for index, layer in enumerate(tape.layers):
            self.kernels.gates(
                *(tape.of.tape.kernel, reads, tape.below(index, t), self._hidden_before(index, t)),
                *(self._weights[index], self._arrays(layer, t), tape.of.c_clip),
            )
        self.kernels.interface(
            *(self.interface.outputs(output), self._weight, self.interface.tensors.bias),
            self.interface.vectors[self.layout.step(t)],
        )

    def _hidden_before(self, index: int, t: int) -> Tensor | None:
        """(b, H): h_{t-1} of a layer, as an operand; None if it is not seen."""
        first = self._first_hidden[index]
        return first if t == 0 or first is None else self.controller.layers[index].hidden_before(t)

    def _arrays(self, layer: LayerTape, t: int) -> LayerStep:
        """The arrays of a layer at step t."""
        layout, step = self.layout, self.layout.step(t)
        output = layout.output(t)
        x_part, hidden = layer.x_part[output], layer.hidden[output]
        if layer.kernel == PLAIN:
            return LayerStep(x_part, None, None, None, None, hidden)
        active = layer.active[step]
        if not layer.has_c:
            return LayerStep(x_part, layer.hidden_before(t), active, None, None, hidden)
        before, after = layer.c[layout.before(t)], layer.c[layout.after(t)]
        return LayerStep(x_part, before, active, after, layer.tanh_c[step], hidden)

    def end(self, first_reads: Tensor, reads: Tensor) -> None:
        """See `ComposedControl`; gathers the inputs of all layers at all steps."""
        if not self.layout.keep:
            return
        for index, layer in enumerate(self.controller.layers):
            size, first = first_reads.shape[1], self._first_hidden[index]
            self._gather(layer.inputs[:, :size], first_reads, reads)
            below = self.controller.below_of_all_steps(index)
            if below is not None:
                layer.inputs[:, size : size + below.shape[1]] = below
            if first is not None:
                self._gather(layer.inputs[:, -first.shape[1] :], first, layer.hidden)

    def _gather(self, out: Tensor, first: Tensor, each: Tensor) -> None:
        """Fill `out` (step rows, n) with what was there before each step.

        Args:
            first: (B, n), before the first step.
            each: (step rows, n), after each step.
        """
        out[: len(first)] = first
        for place, before in self.layout.rows_before():
            out[place] = each[before]

    def norm_gradients(self) -> list[Tensor | None]:
        """See `ComposedControl`; these kernels know no normalisation."""
        return []

    def begin_backward(self, d_final: list[Tensor | None]) -> LayeredGradients:
        """See `ComposedControl`."""
        self._gradients = self.controller.begin_backward(d_final)
        return self._gradients

    def backward(self, t: int, d_vectors: Tensor, d_hidden: Tensor, d_reads: Tensor) -> None:
        """See `ComposedControl`."""
        tape, gradients = self.controller, self._gradients
        assert gradients is not None
        kind, H, b = tape.of.tape.kernel, tape.of.hidden_size, len(d_vectors)
        clips = tape.of.activation_clip, tape.of.c_clip
        for index in reversed(range(len(tape.layers))):
            own, below = slice(index * H, (index + 1) * H), slice((index - 1) * H, index * H)
            last = gradients.last[index, :b] if tape.of.tape.recurrent else None
            c = gradients.c[index, :b] if tape.of.tape.has_c else None
            active = gradients.active[index, self.layout.step(t)]
            self.kernels.units_backward(
                *(kind, d_vectors, self._weight[:, own], self._arrays(tape.layers[index], t)),
                *(LayerGradient(d_hidden[:, own], last, c, active), *clips),
            )
            self.kernels.gates_backward(
                *(kind, active, self._weights[index], d_reads),
                *(d_hidden[:, below] if index else None, tape.masks[index].get(t), last),
            )


def begin_control(
    backend: Backend,
    controller: LayeredTape | CalledTape,
    interface: InterfaceLayer,
    precision: Precision,
    layout: Layout,
) -> ComposedControl | FusedControl:
    """With the backend's kernels if it has any for both layers and their sizes."""
    if (
        interface.tensors.form().plain
        and isinstance(controller, LayeredTape)
        and controller.of.tape.kernel is not None
    ):
        weights = interface.tensors.weight, *(layer.weight for layer in controller.layers)
        multiplications = layout.batch_size * max(weight.numel() for weight in weights)
        kernels = backend.controller_kernels(multiplications)
        if kernels is not None:
            return FusedControl(kernels, controller, interface, precision, layout)
    return ComposedControl(controller, interface, precision, layout)


def _with_rows(weight: Tensor) -> Tensor:
    """The weight with the numbers of each row side by side."""
    return weight if weight.stride(1) == 1 else weight.contiguous()
