"""The options of a training run: declared, documented and checked in one place."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from ..checks import check_choice, check_integer, check_number
from .schedules import SCHEDULES

CURRICULA = ("off", "on")
OPTIMIZERS = ("adam", "rmsprop")
SPIKES = ("note", "skip")
PRECISIONS = ("float32", "bfloat16", "float16")


def _option(default: Any, help: str, **limits: Any) -> Any:
    """A field with what the command line shows of it, and the limits that are checked.

    Args:
        default: of an integer, a number or a name.
        help: one line.
        limits: `minimum` (1 unless given) of an integer; the further arguments of `check_number`
            for a number; `choices` of a name.
    """
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained on a task."""

    batch_size: int = _option(16, "sequences in a batch")
    accumulate: int = _option(1, "batches whose gradients are averaged in a training step")
    optimizer: str = _option("adam", "optimizer", choices=OPTIMIZERS)
    momentum: float = _option(0.0, "momentum of rmsprop", minimum=0.0, maximum=1.0)
    learning_rate: float = _option(3e-3, "learning rate", minimum=0.0, above=True)
    schedule: str = _option(
        "constant", "how the learning rate falls to zero", choices=tuple(SCHEDULES)
    )
    warm_up: int = _option(0, "steps in which the learning rate rises from zero", minimum=0)
    decay_steps: int = _option(10_000, "step at which linear and cosine reach zero")
    weight_decay: float = _option(
        0.0,
        "share of each parameter, times the learning rate, that a step takes away",
        minimum=0.0,
    )
    clip_norm: float = _option(10.0, "largest norm of the gradient", minimum=0.0, above=True)
    spike_factor: float = _option(
        20.0, "a gradient norm this many times the usual one is a spike", minimum=1.0, above=True
    )
    spikes: str = _option("note", "what is done with the step of a spike", choices=SPIKES)
    precision: str = _option(
        "float32", "dtype of the layers, by torch.autocast", choices=PRECISIONS
    )
    max_steps: int = _option(10_000, "largest number of training steps")
    evaluate_every: int = _option(100, "steps between evaluations")
    evaluation_size: int = _option(1000, "sequences in an evaluation")
    solved_at: float = _option(
        1.0,
        "share of validation sequences right that counts as solved; 2: never stop early",
        minimum=0.0,
        above=True,
    )
    solved_evaluations: int = _option(3, "stop after this many solved evaluations in a row")
    curriculum: str = _option("off", "train on the task's lessons", choices=CURRICULA)
    lesson_pass: float = _option(
        0.9, "share of sequences right that passes a lesson", minimum=0.0, above=True
    )
    lesson_every: int = _option(100, "steps between tests of a lesson")
    lesson_share: float = _option(
        0.1, "share of batches from earlier lessons", minimum=0.0, maximum=1.0
    )
    milestone_every: int = _option(
        0, "steps between tests of the task's milestones, such as a known graph; 0: none", minimum=0
    )
    seed: int = _option(0, "seed of parameters and data", minimum=0)

    def __post_init__(self) -> None:
        for option in fields(self):
            limits = {name: limit for name, limit in option.metadata.items() if name != "help"}
            value = getattr(self, option.name)
            if "choices" in limits:
                check_choice(option.name, value, **limits)
            elif isinstance(option.default, int):
                check_integer(option.name, value, **{"minimum": 1, **limits})
            else:
                check_number(option.name, value, **limits)
        if self.momentum and self.optimizer != "rmsprop":
            raise ValueError(
                f"momentum must be 0 with the optimizer {self.optimizer}, got {self.momentum}"
            )
        if self.schedule != "constant" and self.warm_up >= self.decay_steps:
            raise ValueError(
                f"warm_up must be less than decay_steps, {self.decay_steps}, got {self.warm_up}"
            )
