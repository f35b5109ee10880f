"""A rehearsal of a run: a few of its steps on tensors without data, to learn what it will launch.

On a GPU, kernels are compiled at their first launch, each of which waits for the one before. After
a rehearsal the backend compiles all of them at once instead, see `Parts.compile_ahead`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layout import Layout
from ..state import map_tensors, tensors
from .interface_layer import InterfaceTensors
from .layered_controller import Layers
from .passes import Passes

STEPS = 6
"""The steps of a rehearsal: more than there are places of a row in 16 bytes, by which the compiler
tells addresses apart, and enough for a segment that is rebuilt."""

Record = Callable[[Passes, tuple[Tensor, ...]], Any]
"""Runs passes forward on what they are given: `Recording`."""

_rehearsed: set[Any] = set()


def prepare_kernels(record: Record, passes: Passes, given: Sequence[Tensor]) -> None:
    """Have the backend compile what passes will launch, once for each kind of passes.

    Args:
        record: runs the passes.
        passes: what will be run, on a GPU.
        given: tensors of the interface layer, of the state, and what the controller prepared.
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
        passes.plan.backend.compile_ahead(passes.device, lambda: rehearse(record, passes, given))


def rehearse(record: Record, passes: Passes, given: Sequence[Tensor]) -> None:
    """Run the first and last steps of passes, forward and backward, on tensors without data.

    Arguments as in `prepare_kernels`, on any device.
    """
    assert isinstance(passes.controller, Layers)
    sizes = passes.layout.batch_sizes
    if len(sizes) > STEPS:
        sizes = [*sizes[: STEPS // 2], *sizes[-STEPS // 2 :]]
    form, rows = passes.interface, sum(sizes)
    interface = InterfaceTensors.parse(form, given[: form.size])
    if interface.ahead is not None:
        interface = interface._replace(ahead=interface.ahead[:rows])
    parts = iter(given[form.size :])
    state = map_tensors(lambda _: without_data(next(parts)), passes.form)
    prepared, stride = list(parts), passes.controller.tape.prepared
    prepared[::stride] = [x_part[:rows] for x_part in prepared[::stride]]
    weights = map(without_data, interface.given())
    given = (*weights, *tensors(state), *map(without_data, prepared))
    plan = passes.plan._replace(interval=min(passes.interval, 2))
    layout = Layout(sizes, passes.layout.keep)
    with torch.no_grad():
        few = Passes(plan, passes.controller, layout, state, form)
        recording = record(few, given)
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
