"""Any controller that follows the protocol: it is called, with an autograd graph per step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import Backend
from ..controllers import call_controller
from ..layout import Layout
from ..precision import Precision
from ..state import map_tensors, tensors


class CalledModule:
    """A controller that runs step by step by calling its module.

    Args:
        controller: the module.
    """

    draws = True  # it may draw random numbers

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.parameters = [p for p in controller.parameters() if p.requires_grad]

    def prepare(self, controller: Any, x: Tensor) -> list[Tensor]:
        """See `Layers.prepare`."""
        return [x, *self.parameters]

    def begin(
        self,
        backend: Backend,
        precision: Precision,
        layout: Layout,
        given: list[Tensor],
        output: Tensor,
        state: Any,
    ) -> CalledTape:
        """See `Layers.begin`."""
        return CalledTape(self, layout, given[0], output, state)


class CalledTape:
    """What a run of a called controller keeps: the graph of each step.

    Args:
        of: the called controller.
        layout: the rows of each step.
        x: (rows, X), all steps' inputs.
        output: (output rows, size), to be filled.
        state: before the first step.
    """

    def __init__(
        self, of: CalledModule, layout: Layout, x: Tensor, output: Tensor, state: Any
    ) -> None:
        self.of = of
        self.layout = layout
        self.x = x
        self.output = output
        self.state = state
        self.initial = list(tensors(state))
        self.final = map_tensors(torch.empty_like, state)
        self.graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def forward(self, t: int, read_vectors: Tensor) -> None:
        """Run step t, from the read vectors (b, R W) of the previous step."""
        place, size, keep = self.layout.output(t), self.layout.batch_sizes[t], self.layout.keep
        state = map_tensors(lambda tensor: tensor[:size].detach(), self.state)
        inputs = torch.cat([self.x[place], read_vectors.to(self.x.dtype)], dim=-1)
        leaves = [inputs, *tensors(state)]
        if keep:
            for leaf in leaves:
                leaf.requires_grad_(leaf.is_floating_point())
        with torch.set_grad_enabled(keep):
            hidden, new_state = call_controller(self.of.controller, inputs, state)
        results = [hidden, *tensors(new_state)]
        expected = (size, self.output.shape[1])
        if tuple(hidden.shape) != expected or len(results) != len(leaves):
            raise ValueError(
                f"controller must return outputs {expected} and a state of {len(leaves) - 1} "
                f"tensors like zero_state's, got {tuple(hidden.shape)} and {len(results) - 1}"
            )
        if keep:
            if t == 0:
                self._check_leaves(results, leaves)
            self.graphs[t] = leaves, results
        self.output[place] = hidden.detach()
        self.state = new_state

    def finish(self, t: int) -> None:
        """Save the final state of the sequences whose last step was t, the step just run."""
        ending = self.layout.ending(t)
        for final, tensor in zip(tensors(self.final), tensors(self.state), strict=True):
            final[ending] = tensor[ending].detach()

    def _check_leaves(self, results: list[Tensor], leaves: list[Tensor]) -> None:
        """Raise if a step depends on a tensor whose gradient would be lost."""
        known = {id(tensor) for tensor in (*leaves, *self.of.parameters)}
        nodes = [result.grad_fn for result in results if result.grad_fn is not None]
        seen = set(nodes)
        while nodes:
            node = nodes.pop()
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in known:
                raise RuntimeError(
                    "controller must depend on its inputs, its state and its own parameters only, "
                    f"got another tensor {tuple(variable.shape)} that needs a gradient; make it "
                    'a parameter of the controller, or use backend="reference"'
                )
            following = {child for child, _ in node.next_functions if child is not None} - seen
            seen |= following
            nodes += following

    def final_state(self) -> list[Tensor]:
        """Each sequence's state after its own last step."""
        return list(tensors(self.final))

    def begin_backward(self, d_final: list[Tensor | None]) -> CalledGradients:
        """Start a backward pass from gradients of the final state."""
        return CalledGradients(self, d_final)


class CalledGradients:
    """Gradients in the backward pass of a called controller; see `LayeredGradients`."""

    def __init__(self, tape: CalledTape, d_final: list[Tensor | None]) -> None:
        self.tape = tape
        self.x = torch.zeros_like(tape.x)
        self.parameters: list[Tensor | None] = [None] * len(tape.of.parameters)
        self.state = [
            torch.zeros_like(tensor) if part is None else part.clone()
            for part, tensor in zip(d_final, tape.initial, strict=True)
        ]

    def backward(self, t: int, d_output: Tensor) -> Tensor:
        """Run step t backward; see `LayeredGradients.backward`."""
        size = self.tape.layout.batch_sizes[t]
        leaves, results = self.tape.graphs[t]
        d_results = [d_output, *(part[:size] for part in self.state)]
        reached = [pair for pair in zip(results, d_results, strict=True) if pair[0].requires_grad]
        wanted = [leaf for leaf in leaves if leaf.requires_grad] + self.tape.of.parameters
        found = iter(
            torch.autograd.grad(
                [result for result, _ in reached],
                wanted,
                [gradient for _, gradient in reached],
                retain_graph=True,  # steps may share what zero_state computed
                allow_unused=True,
            )
        )
        d_leaves = [next(found) if leaf.requires_grad else None for leaf in leaves]
        for index, gradient in enumerate(found):
            before = self.parameters[index]
            if gradient is not None:
                self.parameters[index] = gradient if before is None else before + gradient
        for part, d_leaf in zip(self.state, d_leaves[1:], strict=True):
            part[:size] = 0 if d_leaf is None else d_leaf
        d_inputs = torch.zeros_like(leaves[0]) if d_leaves[0] is None else d_leaves[0]
        x_size = self.x.shape[1]
        self.x[self.tape.layout.output(t)] = d_inputs[:, :x_size]
        return d_inputs[:, x_size:]

    def of_given(self) -> list[Tensor | None]:
        """Gradients of the run's inputs."""
        return [self.x, *self.parameters]

    def of_state(self) -> list[Tensor]:
        """Gradients of the state before the first step."""
        return self.state
