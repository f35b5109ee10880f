"""A rehearsal of a run: a few of its steps on tensors without data, to learn what it will launch.

On a GPU, kernels are compiled at their first launch, each of which waits for the one before. After
a rehearsal the backend compiles all of them at once instead, see `Parts.compile_ahead`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..layout import Layout
from ..state import DNCState, map_tensors, tensors
from .controller import controller_run
from .layered_controller import Layers
from .passes import Passes
from .plan import Plan
from .recording import Recording

STEPS = 6
"""The steps of a rehearsal: more than there are places of a row in 16 bytes, by which the compiler
tells addresses apart, and enough for a segment that is rebuilt."""

_rehearsed: set[Any] = set()


def prepare_kernels(passes: Passes, given: Sequence[Tensor], state: DNCState) -> None:
    """Have the backend compile what passes will launch, once for each kind of passes.

    Args:
        passes: what will be run, on a GPU.
        given: tensors of the interface layer, of the state, and what the controller prepared.
        state: before the first step.
    """
    if not isinstance(passes.controller, Layers):  # calling a user's module has effects
        return
    shapes = tuple((tensor.shape[1:], tensor.dtype) for tensor in given)
    sizes = passes.layout.batch_sizes
    key = (
        *(passes.plan, passes.device, passes.layout.keep, min(passes.interval, 2), shapes),
        *(passes.controller.key, passes.sizes, sizes[0] == sizes[-1]),
    )
    if key not in _rehearsed:
        _rehearsed.add(key)
        passes.plan.backend.compile_ahead(passes.device, lambda: rehearse(passes, given, state))


def rehearse(passes: Passes, given: Sequence[Tensor], state: DNCState) -> None:
    """Run the first and last steps of passes, forward and backward, on tensors without data.

    Arguments as in `prepare_kernels`, on any device.
    """
    controller, sizes = passes.controller, passes.layout.batch_sizes
    assert isinstance(controller, Layers)
    if len(sizes) > STEPS:
        sizes = [*sizes[: STEPS // 2], *sizes[-STEPS // 2 :]]
    rows, weights = sum(sizes), given[: passes.num_weights]
    prepared = list(given[len(weights) + len(list(tensors(state))) :])
    x_parts = controller.split(prepared, [rows, sum(passes.layout.batch_sizes) - rows])[0]
    state = map_tensors(without_data, state)
    given = (*map(without_data, weights), *tensors(state), *map(without_data, x_parts))
    plan = passes.plan._replace(interval=min(passes.interval, 2))
    layout = Layout(sizes, passes.layout.keep)
    with torch.no_grad():
        recording = Recording(Passes(plan, controller, layout, state, len(weights)), given)
        results = recording.results()
        if layout.keep:
            recording.backward(tuple(map(torch.empty_like, results)))


def without_data(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and alignment without data."""
    place = 0 if tensor.data_ptr() % 16 == 0 else 1
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    span = 1 + sum((size - 1) * stride for size, stride in pairs)
    buffer = torch.empty(place + span, dtype=tensor.dtype, device="meta")
    return buffer.as_strided(tensor.shape, tensor.stride(), place)


def rehearse_batch(
    controller: Any, interface: nn.Linear, plan: Plan, state: DNCState, x_size: int, keep: bool
) -> None:
    """Rehearse a batch of sequences of one length with a model that is on the device "meta".

    Args:
        controller, interface: the cell's parts.
        plan: how to run.
        state: before the first step.
        x_size: X.
        keep: whether there will be a backward pass.
    """
    assert state.memory is not None
    batch_size, of = state.memory.sizes.batch_size, controller_run(controller)
    if not isinstance(of, Layers):
        raise ValueError("only a built-in controller can be rehearsed")
    weights = [interface.weight] if interface.bias is None else [interface.weight, interface.bias]
    with torch.no_grad():
        x = interface.weight.new_empty(STEPS * batch_size, x_size)
        prepared = of.prepare(controller, x)
        if plan.precision.half is not None:  # what autocast would make of products
            prepared[::2] = [x_part.to(plan.precision.half) for x_part in prepared[::2]]
    layout = Layout([batch_size] * STEPS, keep)
    for interval in (1, 2) if keep and plan.interval is None else (plan.interval,):
        passes = Passes(plan._replace(interval=interval), of, layout, state, len(weights))
        rehearse(passes, [*weights, *tensors(state), *prepared], state)
