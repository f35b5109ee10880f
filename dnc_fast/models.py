"""Every model that can be trained, by name: the DNC and what it is compared with.

All are called alike, `output, state = model(x, state)`, have `zero_state(batch_size, num_cells)`,
and are built from a frozen dataclass of options, `model.config`, whose type says which model it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from .baselines import BASELINES
from .config import DNCConfig
from .dnc import DNC

MODELS: dict[str, Any] = {"dnc": DNC, **BASELINES}
"""The classes; each has `from_config`, and all but the DNC name their options' type `Config`."""


def config_type(name: str) -> Any:
    """The dataclass of the options of the model of that name."""
    return DNCConfig if name == "dnc" else MODELS[name].Config


def model_name(config: Any) -> str:
    """The name of the model that has these options.

    Raises:
        TypeError: they are those of no model.
    """
    for name in MODELS:
        if type(config) is config_type(name):
            return name
    raise TypeError(f"config must be of one of {tuple(MODELS)}, got a {type(config).__name__}")


def build_model(
    config: Any, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Any:
    """A new model with these options."""
    return MODELS[model_name(config)].from_config(config, device, dtype)


def count_parameters(config: Any) -> int:
    """How many numbers a model with these options learns; none is drawn."""
    model = build_model(config, device="meta", dtype=torch.float32)
    return sum(parameter.numel() for parameter in model.parameters())


def matched(config: Any, parameters: int) -> Any:
    """The options with the hidden_size whose number of parameters is nearest to a wanted one.

    Args:
        config: of any model; nothing else of it changes.
        parameters: how many are wanted.
    """
    step = getattr(config, "hidden_step", 1)

    def of(multiple: int) -> Any:
        return dataclasses.replace(config, hidden_size=multiple * step)

    low, high = 0, 1  # multiples with too few parameters, and with enough
    while count_parameters(of(high)) < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if count_parameters(of(middle)) < parameters:
            low = middle
        else:
            high = middle
    found = [of(multiple) for multiple in (low, high) if multiple]
    return min(found, key=lambda one: abs(count_parameters(one) - parameters))
