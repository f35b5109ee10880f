"""A forward pass over the steps of a batch, what it keeps, and the backward pass.

Exact backpropagation through time without storing every link matrix: it keeps every step's vectors
and a few checkpoints, see `memory_tape`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..backends.step import ComposedRun, first_gradients, step_run
from ..state import DNCState, MemoryState, map_tensors, tensors
from .all_steps import AllSteps
from .control import InterfaceLayer, begin_control
from .interface_layer import InterfaceTensors
from .layered_controller import LayeredGradients, LayeredTape
from .memory_in_place import InPlaceTape
from .memory_tape import MemoryGradients, MemoryTape
from .passes import Passes
from .rehearsal import prepare_kernels


class Recording:
    """A forward pass over all steps, and what it keeps for the backward pass.

    Args:
        passes: what to run.
        given: tensors of the interface layer, of the state, and what the controller prepared.
    """

    def __init__(self, passes: Passes, given: tuple[Tensor, ...]) -> None:
        if passes.device.type == "cuda":
            prepare_kernels(Recording, passes, given)
        self.passes = passes
        plan, layout = passes.plan, passes.layout
        count = passes.interface.size
        self.interface = InterfaceTensors.parse(passes.interface, given[:count])
        self.weight, parts = self.interface.weight, iter(given[count:])
        state: DNCState = map_tensors(lambda _: next(parts).detach().contiguous(), passes.form)
        assert state.memory is not None and state.read_vectors is not None
        self.first_reads = state.read_vectors
        precision, size = plan.precision, self.weight.shape[1]
        self.features = self.weight.new_empty(
            layout.total, size + self.first_reads[0].numel(), dtype=precision.output
        )
        self.controller = passes.controller.begin(
            plan.backend,
            precision,
            layout,
            list(parts),
            self.features[:, :size],
            state.controller,
        )
        self.steps = step_run(
            plan.backend,
            state.memory,
            plan.options,
            steps=layout.steps,
            keep=layout.keep,
            in_place=plan.in_place,
        )
        memory = state.memory._replace(link=self.steps.link_matrix(state.memory))
        self.memory = self._memory_tape(memory)
        self.final_reads = torch.empty_like(self.first_reads)
        self.control = begin_control(
            plan.backend,
            self.controller,
            InterfaceLayer(self.interface, self.features, self.memory.vectors),
            precision,
            layout,
        )
        self.at_once: AllSteps | None = None
        if (
            self.steps.takes_all_steps
            and passes.interface.plain
            and isinstance(self.controller, LayeredTape)
            and self.controller.of.tape.kernel is not None
            and not self.controller.of.draws
            and precision.half is None
            and plan.checkpoint_dtype is None
        ):
            self.at_once = AllSteps(
                *(self.controller, self.memory, self.weight, self.interface.bias),
                *(self.features, self.first_reads),
            )
        self._run_steps()

    def _memory_tape(self, memory: MemoryState) -> MemoryTape:
        passes, steps = self.passes, self.steps
        others = passes.layout, memory, passes.interval, passes.plan.checkpoint_dtype
        if passes.plan.in_place:
            assert isinstance(steps, ComposedRun)
            return InPlaceTape(steps, *others)
        return MemoryTape(steps, *others)

    def _run_steps(self) -> None:
        """Run all steps."""
        if self.at_once is None:
            self._step_by_step()
        else:
            self.at_once.forward()
            for t in self.passes.layout.last_steps:
                self._finish(t)
        self.memory.release_ring()

    def _step_by_step(self) -> None:
        layout, size = self.passes.layout, self.weight.shape[1]
        reads = first_reads = self.first_reads.flatten(1).contiguous()
        for t, active in enumerate(layout.batch_sizes):
            self.control.forward(t, reads[:active])
            reads = self.memory.forward(t).flatten(1)
            if t in layout.last_steps:
                self._finish(t)
        all_reads = self.memory.reads.flatten(1)
        self.features[:, size:] = all_reads
        self.control.end(first_reads, all_reads)

    def _finish(self, t: int) -> None:
        """Save the final state of the sequences whose last step was t."""
        self.controller.finish(t)
        self.memory.finish(t)
        layout = self.passes.layout
        ending = layout.ending(t)
        self.final_reads[ending] = self.memory.reads[layout.output(t)][ending]

    def results(self) -> list[Tensor]:
        """Features, and the tensors of the final state."""
        final = self.memory.result()
        final = final._replace(link=self.steps.final_link(final.link))
        return [self.features, *self.controller.final_state(), *tensors(final), self.final_reads]

    def backward(self, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Run all steps backward.

        Args:
            gradients: of the results; None means zeros.

        Returns:
            gradients of `given`.
        """
        layout, precision = self.passes.layout, self.passes.plan.precision
        weight, size = self.weight, self.weight.shape[1]
        d_features, *d_final = gradients
        count = len(self.controller.final_state())
        d_reads = torch.zeros_like(self.memory.reads)
        d_hidden = weight.new_zeros(layout.total, size, dtype=precision.full)
        if d_features is not None:
            d_hidden.copy_(d_features[:, :size])
            d_reads.copy_(d_features[:, size:].view(d_reads.shape))
        d_final_reads = d_final[-1]
        if d_final_reads is not None:
            for t in layout.last_steps:
                ending = layout.ending(t)
                d_reads[layout.step(t)][ending].add_(d_final_reads[ending])
        d_first_reads = self.first_reads.new_zeros(self.first_reads.shape)
        controller = self.control.begin_backward(d_final[:count])
        memory = self.memory.begin_backward(d_final[count:-1], d_reads)
        if self.at_once is None:
            self._backward_step_by_step(memory, d_hidden, d_first_reads)
        else:
            assert isinstance(controller, LayeredGradients)
            self.at_once.backward(controller, memory, weight, d_hidden, d_first_reads)
        d_weight = precision.product(memory.vectors.t(), self.features[:, :size])
        d_weights: list[Tensor | None] = [d_weight.to(weight.dtype)]
        bias, ahead = self.interface.bias, self.interface.ahead
        if bias is not None:
            d_weights.append(memory.vectors.sum(0).to(bias.dtype))
        if ahead is not None:
            d_weights.append(memory.vectors.to(ahead.dtype))
        return [
            *d_weights,
            *self.control.norm_gradients(),
            *controller.of_state(),
            *first_gradients(memory.state, self.steps, self.memory.initial),
            d_first_reads,
            *controller.of_given(),
        ]

    def _backward_step_by_step(
        self, memory: MemoryGradients, d_hidden: Tensor, d_first_reads: Tensor
    ) -> None:
        layout = self.passes.layout
        for t in reversed(range(layout.steps)):
            d_vectors, d_reads = memory.backward(t), d_first_reads
            if t:
                start = layout.step(t - 1).start
                d_reads = memory.reads[start : start + len(d_vectors)]
            self.control.backward(t, d_vectors, d_hidden[layout.output(t)], d_reads.flatten(1))
