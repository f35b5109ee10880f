"""The options of a training run, checked once, here."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checks import check_choice, check_integer, check_number
from .precision import PRECISIONS
from .schedules import SCHEDULES

OPTIMIZERS = ("adam", "rmsprop")
CURRICULA = ("off", "on")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained on a task."""

    batch_size: int = field(default=16, metadata={"help": "sequences in a batch"})
    accumulate: int = field(
        default=1, metadata={"help": "batches whose mean gradient makes a training step"}
    )
    optimizer: str = field(default="adam", metadata={"choices": OPTIMIZERS, "help": "optimizer"})
    learning_rate: float = field(default=3e-3, metadata={"help": "learning rate"})
    schedule: str = field(
        default="constant",
        metadata={"choices": tuple(SCHEDULES), "help": "how the learning rate falls to zero"},
    )
    warm_up: int = field(
        default=0, metadata={"help": "steps in which the learning rate rises from zero"}
    )
    decay_steps: int = field(
        default=10_000, metadata={"help": "step at which linear and cosine have reached zero"}
    )
    weight_decay: float = field(
        default=0.0,
        metadata={"help": "share of each parameter, times the learning rate, lost in a step"},
    )
    clip_norm: float = field(default=10.0, metadata={"help": "clip the gradient's norm to this"})
    precision: str = field(
        default="float32",
        metadata={"choices": tuple(PRECISIONS), "help": "of layers under torch.autocast"},
    )
    max_steps: int = field(default=10_000, metadata={"help": "training steps at most"})
    evaluate_every: int = field(default=100, metadata={"help": "steps between evaluations"})
    evaluation_size: int = field(default=1000, metadata={"help": "sequences in an evaluation"})
    solved_at: float = field(
        default=1.0,
        metadata={"help": "share of right validation sequences that counts as solved; 2: never"},
    )
    solved_evaluations: int = field(
        default=3, metadata={"help": "stop when that many evaluations in a row are solved"}
    )
    curriculum: str = field(
        default="off", metadata={"choices": CURRICULA, "help": "train on the task's lessons"}
    )
    lesson_pass: float = field(
        default=0.9, metadata={"help": "share of right sequences that passes a lesson"}
    )
    lesson_every: int = field(default=100, metadata={"help": "steps between tests of a lesson"})
    lesson_share: float = field(
        default=0.1, metadata={"help": "share of batches from earlier lessons"}
    )
    seed: int = field(default=0, metadata={"help": "seed of parameters and data"})

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accumulate",
            "decay_steps",
            "max_steps",
            "evaluate_every",
            "evaluation_size",
            "solved_evaluations",
            "lesson_every",
        ):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("seed", "warm_up"):
            check_integer(name, getattr(self, name), minimum=0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("curriculum", self.curriculum, CURRICULA)
        for name in ("learning_rate", "clip_norm", "solved_at", "lesson_pass"):
            check_number(name, getattr(self, name), 0.0, above=True)
        check_number("lesson_share", self.lesson_share, 0.0, 1.0)
        check_number("weight_decay", self.weight_decay, 0.0)
        if self.schedule != "constant" and self.warm_up >= self.decay_steps:
            raise ValueError(
                f"warm_up must be less than decay_steps, {self.decay_steps}, got {self.warm_up}"
            )
