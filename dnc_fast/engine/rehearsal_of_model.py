"""What a model will launch, found before there is any data: a model on the device "meta"."""

from __future__ import annotations

from typing import Any

import torch

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
    controller: Any,
    interface: InterfaceTensors,
    plan: Plan,
    state: DNCState,
    x_size: int,
    keep: bool,
) -> None:
    """Rehearse a batch of sequences of one length with a model that is on the device "meta".

    Args:
        controller: the cell's.
        interface: of the cell's interface layer, for `STEPS` steps.
        plan: how to run.
        state: before the first step.
        x_size: X.
        keep: whether there will be a backward pass.

    Raises:
        ValueError: the controller is not a built-in one.
    """
    assert state.memory is not None
    batch_size, of = state.memory.sizes.batch_size, controller_run(controller)
    if not isinstance(of, Layers):
        raise ValueError("only a built-in controller can be rehearsed")
    with torch.no_grad():
        prepared = of.prepare(controller, interface.weight.new_empty(STEPS * batch_size, x_size))
    if plan.precision.half is not None:  # what autocast would make of products
        stride = of.tape.prepared
        prepared[::stride] = [part.to(plan.precision.half) for part in prepared[::stride]]
    layout = Layout([batch_size] * STEPS, keep)
    for interval in (1, 2) if keep and plan.interval is None else (plan.interval,):
        passes = Passes(plan._replace(interval=interval), of, layout, state, interface.form)
        rehearse(Recording, passes, [*interface.given, *tensors(state), *prepared])
