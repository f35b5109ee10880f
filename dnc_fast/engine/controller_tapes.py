"""Controllers over the steps of a batch: built-in ones by hand, your own by local graphs."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..controllers import CONTROLLERS, LayeredController
from ..state import map_tensors, tensors
from .layer_tapes import LAYER_TAPES, LayerBuffers, LayerTape
from .precision import Precision
from .rows import Rows


class LayeredTape:
    """A built-in controller. Nothing is differentiated by autograd inside the loop.

    Args:
        controller: the module.
        x: (rows, X), all steps' inputs.

    Attributes:
        tensors: what is computed from, by way of autograd.
        draws: whether a run draws random numbers, for dropout's masks, step by step.
    """

    def __init__(self, controller: LayeredController, x: Tensor) -> None:
        self.hidden_size = controller.hidden_size
        self.num_layers = len(controller.layers)
        self.activation_clip = controller.activation_clip
        self.kind: type[LayerTape] = LAYER_TAPES[type(controller.layers[0])]
        prepared = [self.kind.prepare(layer, x, x.shape[1]) for layer in controller.layers]
        self.tensors = [tensor for layer in prepared for tensor in layer]
        dropout = controller.dropout if controller.training else 0.0
        self.dropout = dropout if self.num_layers > 1 else 0.0
        self.draws = bool(self.dropout)

    @property
    def kept_numbers(self) -> int:
        """About how many numbers a step of a sequence keeps."""
        return (self.kind.gates + 3) * self.hidden_size * self.num_layers

    def split(self, rows: list[int]) -> list[LayeredTape]:
        """The tape in parts of so many rows each, to be run one after another."""
        if len(rows) == 1:
            return [self]
        x_parts = zip(*(x_part.split(rows) for x_part in self.tensors[::2]), strict=True)
        parts = []
        for of_layers in x_parts:
            part = copy.copy(self)
            pairs = zip(of_layers, self.tensors[1::2], strict=True)
            part.tensors = [tensor for pair in pairs for tensor in pair]
            parts.append(part)
        return parts

    def start(
        self,
        primitives: Any,
        precision: Precision,
        rows: Rows,
        given: list[Tensor],
        output: Tensor,
        state: Any,
    ) -> None:
        """Begin a run.

        Args:
            primitives: a module of `dnc_fast.backends`.
            precision: of the run.
            rows: where the states lie.
            given: `tensors`, outside any graph.
            output: (output rows, L H), where hidden activations go.
            state: before the first step, outside any graph.
        """
        self.rows = rows
        kind, H, L = self.kind, self.hidden_size, self.num_layers
        self.masks: list[dict[int, Tensor]] = [{} for _ in range(L)]
        x_parts, weights = given[::2], given[1::2]
        cells = int(kind.has_cells)
        seen = max(weight.shape[1] for weight in weights)
        # The lowest layer of many sees less than the others: zeros where it sees nothing.
        new = output.new_empty if L == 1 else output.new_zeros
        full = partial(output.new_empty, dtype=precision.full)
        self.buffers = LayerBuffers(
            inputs=new(L, rows.num_step_rows, seen),
            active=full(L, rows.num_step_rows, kind.gates * H),
            cells=full(L, cells * rows.num_state_rows, H),
            squashed=full(L, cells * rows.num_step_rows, H),
        )
        self.layers: list[LayerTape] = []
        for index, (x_part, weight) in enumerate(zip(x_parts, weights, strict=True)):
            hidden = output[:, index * H : (index + 1) * H]
            initial = list(tensors(state[index]))
            inputs, *others = (buffer[index] for buffer in self.buffers)
            buffers = LayerBuffers(inputs[:, : weight.shape[1]], *others)
            self.layers.append(
                kind(primitives, precision, rows, x_part, weight, hidden, initial, buffers)
            )

    def forward(self, t: int, read_vectors: Tensor) -> None:
        """Take step t, from the read vectors (b, R W) of the step before."""
        below: Tensor | None = None
        for layer, masks in zip(self.layers, self.masks, strict=True):
            if below is not None and self.dropout:
                mask = F.dropout(torch.ones_like(below), self.dropout)
                below = below * mask
                if self.rows.keep:
                    masks[t] = mask
            layer.forward(t, [read_vectors] if below is None else [read_vectors, below])
            below = layer.hidden[self.rows.output(t)]

    def finish(self, t: int) -> None:
        """Put away the state of the sequences whose last step was t."""
        for layer in self.layers:
            layer.finish(t)

    def final_state(self) -> list[Tensor]:
        """Each sequence's state after its own last step, as a list of (B, H)."""
        return [tensor for layer in self.layers for tensor in layer.final]

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        """Begin at the end, with gradients of the final state."""
        inputs, active = self.buffers.inputs, self.buffers.active
        self.d_active = torch.empty_like(active, dtype=inputs.dtype)
        # Of h and c, whether the state has them or not.
        shape = (2, self.num_layers, self.rows.batch_size, self.hidden_size)
        self.d_last, self.d_cells = active.new_zeros(shape)
        for index, layer in enumerate(self.layers):
            own, d_final = d_final[: len(layer.final)], d_final[len(layer.final) :]
            d_state = [self.d_last[index], self.d_cells[index]][: len(own)]
            for part, gradient in zip(d_state, own, strict=True):
                if gradient is not None:
                    part.copy_(gradient)
            layer.start_backward(d_state, self.d_active[index])

    def backward(self, t: int, d_output: Tensor) -> Tensor:
        """Play step t from the gradient of its output (b, L H).

        Returns:
            (b, R W): gradient of the read vectors of the step before.
        """
        H, clip = self.hidden_size, self.activation_clip
        d_read: Tensor | None = None
        d_below: Tensor | None = None
        for index in reversed(range(len(self.layers))):
            d_hidden = d_output[:, index * H : (index + 1) * H]
            if d_below is not None:
                d_hidden = d_hidden + d_below
            d_seen = self.layers[index].backward(t, d_hidden, clip)
            if index:
                d_below = d_seen[:, d_seen.shape[1] - H :]
                d_seen = d_seen[:, : d_seen.shape[1] - H]
                if t in self.masks[index]:
                    d_below = d_below * self.masks[index][t]
            d_read = d_seen if d_read is None else d_read + d_seen
        assert d_read is not None
        return d_read

    def gradients(self) -> tuple[list[Tensor | None], list[Tensor]]:
        """Gradients of `tensors`, and of the state before the first step."""
        return (
            [gradient for layer in self.layers for gradient in layer.gradients()],
            [part for layer in self.layers for part in layer.d_state],
        )

    def release(self) -> None:
        """Free what the run kept."""
        self.layers, self.masks = [], []
        del self.buffers, self.d_active, self.d_last, self.d_cells


class ModuleTape:
    """Any module that keeps the controller protocol: a small autograd graph for each step.

    Args:
        controller: the module.
        x: (rows, X), all steps' inputs.
    """

    draws = True  # for all we know

    def __init__(self, controller: Any, x: Tensor) -> None:
        self.controller = controller
        self.parameters = [p for p in controller.parameters() if p.requires_grad]
        self.tensors = [x, *self.parameters]

    def start(
        self,
        primitives: Any,
        precision: Precision,
        rows: Rows,
        given: list[Tensor],
        output: Tensor,
        state: Any,
    ) -> None:
        """Begin a run; see `LayeredTape.start`."""
        self.rows = rows
        self.x = given[0]
        self.output = output
        self.state = state
        self.initial = list(tensors(state))
        self.final = map_tensors(torch.empty_like, state)
        self.graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def forward(self, t: int, read_vectors: Tensor) -> None:
        """Take step t, from the read vectors (b, R W) of the step before."""
        place, size = self.rows.output(t), self.rows.batch_sizes[t]
        state = map_tensors(lambda tensor: tensor[:size].detach(), self.state)
        inputs = torch.cat([self.x[place], read_vectors.to(self.x.dtype)], dim=-1)
        leaves = [inputs, *tensors(state)]
        if self.rows.keep:
            for leaf in leaves:
                leaf.requires_grad_(leaf.is_floating_point())
        with torch.set_grad_enabled(self.rows.keep):
            hidden, new_state = self.controller(inputs, state)
        results = [hidden, *tensors(new_state)]
        expected = (size, self.output.shape[1])
        if tuple(hidden.shape) != expected or len(results) != len(leaves):
            raise ValueError(
                f"controller must return outputs {expected} and a state of {len(leaves) - 1} "
                f"tensors like zero_state's, got {tuple(hidden.shape)} and {len(results) - 1}"
            )
        if self.rows.keep:
            if t == 0:
                self._check_leaves(results, leaves)
            self.graphs[t] = leaves, results
        self.output[place] = hidden.detach()
        self.state = new_state

    def finish(self, t: int) -> None:
        """Put away the state of the sequences whose last step was t, the one just taken."""
        ending = self.rows.ending(t)
        for final, tensor in zip(tensors(self.final), tensors(self.state), strict=True):
            final[ending] = tensor[ending].detach()

    def _check_leaves(self, results: list[Tensor], leaves: list[Tensor]) -> None:
        """Raise when a step depends on a tensor whose gradient would be lost."""
        known = {id(tensor) for tensor in (*leaves, *self.parameters)}
        nodes = [result.grad_fn for result in results if result.grad_fn is not None]
        seen = set(nodes)
        while nodes:
            node = nodes.pop()
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in known:
                raise RuntimeError(
                    "controller must depend on its inputs, its state and its own parameters only, "
                    f"got a tensor {tuple(variable.shape)} besides that needs a gradient; make it "
                    'a parameter of the controller, or use backend="reference"'
                )
            following = {child for child, _ in node.next_functions if child is not None} - seen
            seen |= following
            nodes += following

    def final_state(self) -> list[Tensor]:
        """Each sequence's state after its own last step."""
        return list(tensors(self.final))

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        """Begin at the end, with gradients of the final state."""
        self.d_x = torch.zeros_like(self.x)
        self.d_parameters: list[Tensor | None] = [None] * len(self.parameters)
        self.d_state = [
            torch.zeros_like(tensor) if part is None else part.clone()
            for part, tensor in zip(d_final, self.initial, strict=True)
        ]

    def backward(self, t: int, d_output: Tensor) -> Tensor:
        """Play step t; see `LayeredTape.backward`."""
        size = self.rows.batch_sizes[t]
        leaves, results = self.graphs[t]
        d_results = [d_output, *(part[:size] for part in self.d_state)]
        reached = [pair for pair in zip(results, d_results, strict=True) if pair[0].requires_grad]
        wanted = [leaf for leaf in leaves if leaf.requires_grad] + self.parameters
        found = iter(
            torch.autograd.grad(
                [result for result, _ in reached],
                wanted,
                [gradient for _, gradient in reached],
                retain_graph=True,  # steps may share what zero_state computed; see `release`
                allow_unused=True,
            )
        )
        d_leaves = [next(found) if leaf.requires_grad else None for leaf in leaves]
        for index, gradient in enumerate(found):
            before = self.d_parameters[index]
            if gradient is not None:
                self.d_parameters[index] = gradient if before is None else before + gradient
        for part, d_leaf in zip(self.d_state, d_leaves[1:], strict=True):
            part[:size] = 0 if d_leaf is None else d_leaf
        d_inputs = torch.zeros_like(leaves[0]) if d_leaves[0] is None else d_leaves[0]
        x_size = self.x.shape[1]
        self.d_x[self.rows.output(t)] = d_inputs[:, :x_size]
        return d_inputs[:, x_size:]

    def gradients(self) -> tuple[list[Tensor | None], list[Tensor]]:
        """Gradients of `tensors`, and of the state before the first step."""
        return [self.d_x, *self.d_parameters], self.d_state

    def release(self) -> None:
        """Free what the run kept."""
        self.graphs = {}


def controller_tape(controller: nn.Module, x: Tensor) -> LayeredTape | ModuleTape:
    """The tape of a controller."""
    if isinstance(controller, LayeredController) and is_built_in(controller):
        return LayeredTape(controller, x)
    return ModuleTape(controller, x)


def is_built_in(controller: nn.Module) -> bool:
    """Whether a controller is one of `CONTROLLERS`, with nothing added to it."""
    return (
        isinstance(controller, LayeredController)
        and type(controller) in CONTROLLERS.values()
        and is_plain(controller)
        and all(type(layer) is controller.make_layer for layer in controller.layers)
        and all(map(is_plain, controller.layers))
    )


def is_plain(module: nn.Module) -> bool:
    """Whether a module does no more than its class: no hooks, no parametrised or computed weights.

    What is not plain must be called, not read.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    computed = ("weight", "weight_ih", "weight_hh")
    return (
        not any(getattr(module, name) for name in hooks)
        and not hasattr(module, "parametrizations")
        and all(name in module._parameters for name in computed if hasattr(module, name))
    )
