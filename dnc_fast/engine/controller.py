"""How a run uses its controller: layer by layer without autograd, or by calling the module."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..controllers import CONTROLLERS, LayeredController
from .called_controller import CalledModule
from .layered_controller import Layers


def controller_run(controller: nn.Module) -> Layers | CalledModule:
    """How a controller will run."""
    if isinstance(controller, LayeredController) and has_tape(controller):
        return Layers(controller)
    return CalledModule(controller)


def has_tape(controller: nn.Module) -> bool:
    """Whether a controller is an unmodified one of `CONTROLLERS` with a tape."""
    return (
        isinstance(controller, LayeredController)
        and controller.tape is not None
        and type(controller) in CONTROLLERS.values()
        and is_plain(controller)
        and all(type(layer) is controller.make_layer for layer in controller.layers)
        and all(map(is_plain, controller.layers))
    )


def is_plain(module: Any) -> bool:
    """Whether a module does no more than its class: no hooks, no parametrised or computed weights.

    A module that is not plain must be called; its weights cannot be used directly.
    """
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    computed = ("weight", "weight_ih", "weight_hh")
    return (
        not any(getattr(module, name) for name in hooks)
        and not hasattr(module, "parametrizations")
        and all(name in module._parameters for name in computed if hasattr(module, name))
    )
