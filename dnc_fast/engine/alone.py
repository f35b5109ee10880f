"""A built-in controller alone, without a memory, over the steps of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends.autograd import refuse_second_gradient, without_autocast
from ..controllers import LayeredController
from ..layout import Layout
from ..state import map_tensors
from ..untraced import untraced
from .layered_controller import Layers
from .plan import Plan


@untraced
def run_alone(
    controller: LayeredController, x: Tensor, batch_sizes: list[int], state: Any, plan: Plan
) -> Tensor:
    """The outputs of a controller that reads nothing, differentiable once.

    Its few kernels are in no rehearsal: they are compiled at their first launch.

    Args:
        controller: a built-in one, made for inputs of X numbers.
        x: (sum of batch_sizes, X), one step after another.
        batch_sizes: number of sequences at each step; never increases.
        state: before the first step.
        plan: how to run.

    Returns:
        (rows, L H).
    """
    of = Layers(controller)
    prepared = of.prepare(controller, x)
    keep = torch.is_grad_enabled() and any([part.requires_grad for part in prepared])
    state = map_tensors(lambda part: part.to(plan.precision.full), state)
    return _Alone.apply(of, plan, Layout(batch_sizes, keep), state, *prepared)


class _Alone(torch.autograd.Function):
    """The outputs as a function of what the controller prepared."""

    @staticmethod
    @without_autocast
    def forward(
        ctx: Any, of: Layers, plan: Plan, layout: Layout, state: Any, *prepared: Tensor
    ) -> Tensor:
        given = [part.detach() for part in prepared]
        size = of.num_layers * of.hidden_size
        output = given[0].new_empty(layout.total, size, dtype=plan.precision.output)
        tape = of.begin(plan.backend, plan.precision, layout, given, output, state)
        for t, active in enumerate(layout.batch_sizes):
            tape.forward(t, output.new_empty(active, 0))
        if layout.keep:
            ctx.tape, ctx.precision = tape, plan.precision
            ctx.save_for_backward(*prepared)  # notices changes in place
        return output.detach()

    @staticmethod
    @without_autocast
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(d_output)
        _, tape = ctx.saved_tensors, ctx.tape
        d_output = d_output.to(ctx.precision.full)
        gradients = tape.begin_backward([None] * len(tape.final_state()))
        for t in reversed(range(tape.layout.steps)):
            gradients.backward(t, d_output[tape.layout.output(t)])
        return (*[None] * 4, *gradients.of_given())
