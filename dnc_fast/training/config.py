"""The options of a training run, checked once, here."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..checks import check_choice, check_integer, check_number

OPTIMIZERS = ("adam", "rmsprop")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained on a task."""

    batch_size: int = field(default=16, metadata={"help": "sequences in a training step"})
    optimizer: str = field(default="adam", metadata={"choices": OPTIMIZERS, "help": "optimizer"})
    learning_rate: float = field(default=3e-3, metadata={"help": "learning rate"})
    clip_norm: float = field(default=10.0, metadata={"help": "clip the gradient's norm to this"})
    max_steps: int = field(default=10_000, metadata={"help": "training steps at most"})
    evaluate_every: int = field(default=100, metadata={"help": "steps between evaluations"})
    evaluation_size: int = field(
        default=1000, metadata={"help": "validation sequences in an evaluation"}
    )
    solved_at: float = field(
        default=1.0,
        metadata={"help": "share of right validation sequences that counts as solved; 2: never"},
    )
    solved_evaluations: int = field(
        default=3, metadata={"help": "stop when that many evaluations in a row are solved"}
    )
    seed: int = field(default=0, metadata={"help": "seed of parameters and data"})

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "max_steps",
            "evaluate_every",
            "evaluation_size",
            "solved_evaluations",
        ):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("seed", self.seed, minimum=0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("learning_rate", "clip_norm", "solved_at"):
            check_number(name, getattr(self, name), 0.0, above=True)
