"""Learning-rate schedules: a warm-up from zero, then constant or down to zero."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}
"""The factor of the learning rate when a share `done`, in [0, 1], of the decay is over."""


def rate_factor(step: int, schedule: str, warm_up: int, decay_steps: int) -> float:
    """The factor of the learning rate, in [0, 1], after `step` training steps.

    Args:
        step: steps taken, from 0.
        schedule: one of `SCHEDULES`.
        warm_up: until this step the factor rises as (step + 1) / (warm_up + 1).
        decay_steps: where linear and cosine, which begin after the warm-up, reach zero.
    """
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    done = (step - warm_up) / max(decay_steps - warm_up, 1)
    return SCHEDULES[schedule](min(done, 1.0))
