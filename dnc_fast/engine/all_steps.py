"""All steps in one call of the kernels, if the backend supports it: the arguments of that call.

The buffers are the same that steps fill one by one. Parameters are copied: kernels see tensors as
NumPy arrays, and torch never again resizes a storage that NumPy has seen, as FSDP does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, AdjointSteps, Steps
from .layered_controller import LayeredGradients, LayeredTape
from .memory_tape import MemoryGradients, MemoryTape


class AllSteps:
    """The arrays of all steps of a batch, for the forward pass.

    Args:
        controller, memory: just begun.
        weight, bias: of the interface layer.
        features: (outputs, L H + R W), to be filled.
        reads0: (B, R, W), before the first step.
    """

    def __init__(
        self,
        controller: LayeredTape,
        memory: MemoryTape,
        weight: Tensor,
        bias: Tensor | None,
        features: Tensor,
        reads0: Tensor,
    ) -> None:
        self.controller, self.memory = controller, memory
        layout, array, states = memory.layout, memory.steps.array, memory.vector_states
        layers, of = controller.layers, controller.of
        H, recurrent = of.hidden_size, of.tape.recurrent
        bias = weight.new_zeros(len(weight)) if bias is None else bias.clone()
        if recurrent:
            hidden0 = _stack([layer.initial[0] for layer in layers])
        else:
            hidden0 = features.new_empty(len(layers), layout.batch_size, H)
        steps, whole = range(layout.steps), torch.contiguous_format
        none = array(_integers([0] * layout.steps))
        self._arrays = Steps(
            kind=of.tape.kernel,
            own=H if recurrent else 0,
            interval=memory.interval,
            c_clip=math.inf if of.c_clip is None else float(of.c_clip),
            batch_sizes=array(_integers(layout.batch_sizes)),
            before=array(_integers(layout.before(t).start for t in steps)),
            after=array(_integers(layout.after(t).start for t in steps)),
            place=array(_integers(layout.step(t).start for t in steps)),
            output=array(_integers(layout.output(t).start for t in steps)),
            x_part=array(_stack([layer.x_part for layer in layers])),
            weights=array(_stack(_padded_weights(controller)).mT.clone(memory_format=whole)),
            hidden0=array(hidden0),
            inputs=array(controller.buffers.inputs),
            active=array(controller.buffers.active),
            c=array(controller.buffers.c),
            tanh_c=array(controller.buffers.tanh_c),
            features=array(features),
            interface=array(weight.t().clone(memory_format=whole)),
            bias=array(bias),
            vectors=array(memory.vectors),
            reads=array(memory.reads),
            reads0=array(reads0.contiguous()),
            usage=array(states["usage"]),
            precedence=array(states["precedence"]),
            write=array(states["write_weights"]),
            read=array(states["read_weights"]),
            **dict.fromkeys(("memory0", "memory1", "link0", "link1", "rebuilt"), none),
        )

    def forward(self) -> None:
        """Run all steps."""
        matrices = [self.memory.matrices(t) for t in range(self.memory.layout.steps + 1)]
        self.memory.steps.forward_steps(self._with(matrices[:-1], matrices[1:]))

    def backward(
        self,
        controller: LayeredGradients,
        memory: MemoryGradients,
        weight: Tensor,
        d_hidden: Tensor,
        d_first_reads: Tensor,
    ) -> None:
        """Run all steps backward.

        Args:
            controller, memory: gradients, just begun.
            weight: of the interface layer.
            d_hidden: (outputs, L H), added to.
            d_first_reads: (B, R, W), zeros; added to.
        """
        array, clip = self.memory.steps.array, self.controller.of.activation_clip
        state = Adjoint(array(memory.vectors), *map(array, memory.state))
        seen = self.controller.buffers.inputs.shape[-1]
        adjoint = AdjointSteps(
            clip=math.inf if clip is None else float(clip),
            weights=array(torch.stack(_padded_weights(self.controller))),
            interface=array(weight.clone(memory_format=torch.contiguous_format)),
            hidden=array(d_hidden),
            active=array(controller.active),
            last=array(controller.last),
            c=array(controller.c),
            seen=array(d_hidden.new_empty(len(d_first_reads), seen)),
            vectors=state.vector,
            reads=array(memory.reads),
            reads0=array(d_first_reads),
            state=state,
        )
        before, after, rebuilt = [], [], []
        count, interval = self.memory.layout.steps, self.memory.interval
        for first in range(0, count, interval):
            last = min(first + interval, count) - 1
            matrices = memory.segment(last)
            before += matrices[:-1]
            after += matrices[1:]
            rebuilt += [0 if memory.kept(t) else 1 + (t < last) for t in range(first, last + 1)]
        steps = self._with(before, after)._replace(rebuilt=array(_integers(rebuilt)))
        self.memory.steps.backward_steps(steps, adjoint)

    def _with(
        self, before: list[tuple[Tensor, Tensor]], after: list[tuple[Tensor, Tensor]]
    ) -> Steps:
        """The arrays, with the addresses of the matrices (memory, link) before and after each step.

        The caller must keep these tensors alive until the kernels are done.
        """
        array = self.memory.steps.array
        return self._arrays._replace(
            memory0=array(_integers(memory.data_ptr() for memory, _ in before)),
            memory1=array(_integers(memory.data_ptr() for memory, _ in after)),
            link0=array(_integers(link.data_ptr() for _, link in before)),
            link1=array(_integers(link.data_ptr() for _, link in after)),
        )


def _integers(values: Iterable[int]) -> Tensor:
    """A CPU tensor, whatever torch's default device is."""
    return torch.tensor(list(values), device="cpu")


def _stack(parts: list[Tensor]) -> Tensor:
    """One contiguous tensor with a leading L; a single contiguous part is not copied."""
    return parts[0].contiguous().unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def _padded_weights(controller: LayeredTape) -> list[Tensor]:
    """Each layer's weights (G H, S), padded with zeros if the lowest layer sees less."""
    seen = controller.buffers.inputs.shape[-1]
    return [
        torch.nn.functional.pad(layer.weight, (0, seen - layer.weight.shape[1]))
        if layer.weight.shape[1] < seen
        else layer.weight
        for layer in controller.layers
    ]
