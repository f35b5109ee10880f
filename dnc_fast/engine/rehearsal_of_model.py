"""What a model will launch, found before there is any data: a model on the device "meta"."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..layout import Layout
from ..state import DNCState, tensors
from .controller import controller_run
from .interface_layer import InterfaceTensors
from .layered_controller import Layers
from .passes import Passes
from .plan import Plan
from .recording import Recording
from .rehearsal import STEPS, rehearse


def rehearse_batch(
    controllers: list[Any],
    interface: tuple[nn.Linear, nn.LayerNorm | None],
    plan: Plan,
    state: DNCState,
    x_size: int,
    keep: bool,
) -> None:
    """Rehearse a batch of sequences of one length with a model that is on the device "meta".

    Args:
        controllers: the cell's, that from the end last.
        interface: the cell's interface layer, and its normalisation if it has one.
        plan: how to run.
        state: before the first step.
        x_size: X.
        keep: whether there will be a backward pass.

    Raises:
        ValueError: the controller is not a built-in one.
    """
    assert state.memory is not None
    controller, *reverse = controllers
    batch_size, of = state.memory.sizes.batch_size, controller_run(controller)
    if not isinstance(of, Layers):
        raise ValueError("only a built-in controller can be rehearsed")
    rows, like = STEPS * batch_size, interface[0].weight
    with torch.no_grad():
        ahead = like.new_empty(rows, reverse[0].output_size) if reverse else None
        layer = InterfaceTensors.of(*interface, ahead)
        prepared = of.prepare(controller, like.new_empty(rows, x_size))
    if plan.precision.half is not None:  # what autocast would make of products
        stride = of.tape.prepared
        prepared[::stride] = [part.to(plan.precision.half) for part in prepared[::stride]]
    layout = Layout([batch_size] * STEPS, keep)
    for interval in (1, 2) if keep and plan.interval is None else (plan.interval,):
        passes = Passes(plan._replace(interval=interval), of, layout, state, layer.form())
        rehearse(Recording, passes, [*layer.given(), *tensors(state), *prepared])
