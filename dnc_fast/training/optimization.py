"""From losses to new parameters: mixed precision, clipping, the optimizer, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from .config import TrainingConfig
from .schedules import rate_factor

FUSED_ON = ("cuda",)
"""Devices on which Adam updates all parameters in one kernel."""


class Optimization:
    """The optimizer of a model, its learning-rate schedule, and the loss scaling of float16.

    Adam's weight decay is decoupled (AdamW), RMSProp's is torch's own. With a precision other than
    float32 the layers run under `torch.autocast`; the memory itself stays in float32, see `DNC`.

    Attributes:
        optimizer: torch's.
        skips_itself: whether the device may decide if `step` changes the parameters, without the
            host having to know.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device) -> None:
        self._config = config
        self._device = device.type
        self._parameters = dict(model.named_parameters())
        options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        parameters = list(self._parameters.values())
        fused = config.optimizer == "adam" and device.type in FUSED_ON
        if config.optimizer == "adam":
            options["fused"] = fused or None
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, **options)
        else:
            options["momentum"] = config.momentum
            self.optimizer = torch.optim.RMSprop(parameters, **options)
        factor = partial(
            rate_factor,
            schedule=config.schedule,
            warm_up=config.warm_up,
            decay_steps=config.decay_steps,
        )
        self.schedule = LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(self._device, enabled=config.precision == "float16")
        self.skips_itself = fused and not self.scaler.is_enabled()

    def autocast(self) -> torch.autocast:
        """The context of a forward pass; it does nothing in float32."""
        name = self._config.precision
        return torch.autocast(self._device, getattr(torch, name), enabled=name != "float32")

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to that of the parameters."""
        self.scaler.scale(loss).backward()

    def gradient_norms(self) -> Tensor:
        """The norms of the gradient before clipping: of the whole, then of each parameter's.

        To be called once before `step`.
        """
        self.scaler.unscale_(self.optimizer)
        norms = torch.stack(torch._foreach_norm(list(self.gradients().values())))
        return torch.cat([torch.linalg.vector_norm(norms)[None], norms])

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the parameters that have one, by their names."""
        return {name: p.grad for name, p in self._parameters.items() if p.grad is not None}

    def largest(self, norms: Sequence[float]) -> str:
        """The parameter with the largest gradient, by the norm of each."""
        return max(zip(norms, self.gradients(), strict=True))[1]

    def overflowed(self, norm: float) -> bool:
        """Whether a norm is not finite because the scaled loss of float16 was too large."""
        return self.scaler.is_enabled() and not math.isfinite(norm)

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    def step(self, norm: Tensor, skip: bool | Tensor = False) -> None:
        """Clip the gradient and update the parameters.

        With `skip`, as where float16 overflowed, nothing is updated, and the schedule does not
        count the step. A tensor, if the device decides, is for `skips_itself`; then it does.
        """
        nn.utils.clip_grads_with_norm_(self._parameters.values(), self._config.clip_norm, norm)
        if isinstance(skip, Tensor):  # what GradScaler tells a fused optimizer
            self.optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
            skip = False
        if not skip:
            self.scaler.step(self.optimizer)
            self.schedule.step()
        self.scaler.update()

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
        """Take the state from a checkpoint, also from one that was written on another device."""
        saved = content["optimizer"]
        groups = [dict(group) for group in saved["param_groups"]]
        for group, own in zip(groups, self.optimizer.param_groups, strict=True):
            if "fused" in own:
                group["fused"] = own["fused"]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        self.schedule.load_state_dict(content["schedule"])
        self.scaler.load_state_dict(content["scaler"])
