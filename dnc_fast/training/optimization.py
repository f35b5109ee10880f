"""From losses to new parameters: mixed precision, clipping, the optimizer, the learning rate."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .config import TrainingConfig
from .schedules import rate_factor


class Optimization:
    """The optimizer of a model, its learning-rate schedule, and the loss scaling of float16.

    Adam's weight decay is decoupled (AdamW), RMSProp's is torch's own. With a precision other than
    float32 the layers run under `torch.autocast`; the memory itself stays in float32, see `DNC`.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self._config = config
        self._device = device.type
        self._parameters = list(model.parameters())
        options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        if config.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(self._parameters, **options)
        else:
            options["momentum"] = config.momentum
            self.optimizer = torch.optim.RMSprop(self._parameters, **options)
        factor = partial(
            rate_factor,
            schedule=config.schedule,
            warm_up=config.warm_up,
            decay_steps=config.decay_steps,
        )
        self.schedule = LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(self._device, enabled=config.precision == "float16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; it does nothing in float32."""
        name = self._config.precision
        return torch.autocast(self._device, getattr(torch, name), enabled=name != "float32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to that of the parameters."""
        self.scaler.scale(loss).backward()

    def gradient_norm(self) -> Tensor:
        """The norm of the gradient before clipping; to be called once before `step`."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])

    def overflowed(self, norm: float) -> bool:
        """Whether a norm is not finite because the scaled loss of float16 was too large."""
        return self.scaler.is_enabled() and not math.isfinite(norm)

    def step(self, norm: Tensor, skip: bool = False) -> float:
        """Clip the gradient and update the parameters; returns the learning rate.

        With `skip`, as where float16 overflowed, nothing is updated, and the schedule does not
        count the step.
        """
        nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip_norm, norm)
        rate = float(self.schedule.get_last_lr()[0])
        if not skip:
            self.scaler.step(self.optimizer)
            self.schedule.step()
        self.scaler.update()
        return rate

    def scale_rate(self, factor: float) -> None:
        """Multiply the learning rate, now and for the rest of its schedule."""
        self.schedule.base_lrs = [factor * rate for rate in self.schedule.base_lrs]
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Take the state from a checkpoint."""
        for name in ("optimizer", "schedule", "scaler"):
            getattr(self, name).load_state_dict(content[name])
