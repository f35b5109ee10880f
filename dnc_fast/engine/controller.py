"""How a run uses its controller: layer by layer without autograd, or by calling the module."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..controllers import CONTROLLERS, LayeredController
from .called_controller import CalledModule
from .layered_controller import Layers

COMPUTED = ("weight", "weight_ih", "weight_hh")
"""What weight norm, pruning and the like replace by something other than a parameter."""


def controller_run(controller: nn.Module) -> Layers | CalledModule:
    """How a controller will run."""
    if isinstance(controller, LayeredController) and has_tape(controller):
        return Layers(controller)
    return CalledModule(controller)


def has_tape(controller: nn.Module) -> bool:
    """Whether a controller is an unmodified one of `CONTROLLERS` whose tape can run it."""
    if not isinstance(controller, LayeredController) or controller.tape is None:
        return False
    if controller.value_clip is not None and controller.value_clip < 1:
        return False  # a tape can only clip an LSTM's c; activations are within 1 as they are
    kind = controller.make_layer
    return (
        type(controller) in [*CONTROLLERS.values()]
        and is_plain(controller)
        and all([type(layer) is kind and is_plain(layer) for layer in controller.layers])
    )


def is_plain(module: Any) -> bool:
    """Whether a module does no more than its class: no hooks, no parametrised or computed weights.

    A module that is not plain must be called; its weights cannot be used directly. Looks into the
    module's own dicts, because this is asked at every call and a failing `hasattr` is slow.
    """
    own = module.__dict__
    modules, others = own["_modules"], own["_buffers"]
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "parametrizations" in modules
        or any([name in own or name in modules or name in others for name in COMPUTED])
    )


def interface_is_plain(layer: nn.Module, norm: nn.Module | None) -> bool:
    """Whether the weights of an interface layer and of its normalisation can be used directly."""
    kinds = {nn.Linear: layer} if norm is None else {nn.Linear: layer, nn.LayerNorm: norm}
    return all([type(one) is kind and is_plain(one) for kind, one in kinds.items()])
