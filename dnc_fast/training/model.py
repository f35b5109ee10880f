"""What a run asks of its model: sizes, a controller that can be saved, kernels compiled in time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config import DNCConfig
from ..dnc import DNC
from ..tasks import Task


def check_model(config: Any, task: Task) -> None:
    """Raise unless a model with these options can be trained on a task, and saved."""
    if isinstance(config, DNCConfig) and not isinstance(config.controller, str):
        raise ValueError(
            f"controller must be a name so that a checkpoint can hold it, got "
            f"{config.controller!r}; train a model with your own controller in your own loop"
        )
    if (config.input_size, config.output_size) != (task.input_size, task.output_size):
        raise ValueError(
            f"the model must have input_size {task.input_size} and output_size "
            f"{task.output_size} for this task, got {config.input_size} and {config.output_size}"
        )
    name = option_to_look_ahead(config)
    if name is not None and type(task).answerer is not Task.answerer:
        raise ValueError(
            f"{name} must be False for this task, whose inputs follow from the model's own "
            "answers: it would see what comes after them"
        )


def option_to_look_ahead(config: Any) -> str | None:
    """The option by which a model sees inputs before their time; None if there is none."""
    options = ("bidirectional", "bidirectional_controller")
    return next((name for name in options if getattr(config, name, False)), None)


def compile_kernels(model: nn.Module) -> None:
    """Have the CPU kernels compiled that a training step needs, while Ctrl-C still interrupts.

    A twin of the model takes a step, so that nobody who looks into the model sees it.
    """
    device = next(model.parameters()).device
    if device.type != "cpu" or not isinstance(model, DNC):
        return
    with torch.random.fork_rng(devices=[]):
        twin = DNC.from_config(model.config, device, torch.float32)
        x = torch.zeros(1, 1, model.config.input_size, device=device, dtype=torch.float32)
        twin(x)[0].sum().backward()
