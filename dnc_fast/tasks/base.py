"""What a task is: an endless, seeded source of batches with a loss, a score and lessons.

Tasks know no model. Letters: B sequences, T steps (of the longest), X input features, Y outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .answerer import Answerer


class Batch(NamedTuple):
    """A batch of sequences, zeros past the end of each.

    | field   | shape     | dtype   | meaning                                            |
    |---------|-----------|---------|----------------------------------------------------|
    | inputs  | (T, B, X) | float32 | what the model sees                                |
    | targets | (T, B, Y) | float32 | what it should answer, 0 or 1; one-hot for a class |
    | mask    | (T, B)    | bool    | the steps on which the answer counts               |
    | lengths | (B)       | int64   | steps of each sequence                             |
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor
    lengths: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return Batch(*(tensor.to(device) for tensor in self))

    def split(self, parts: int) -> list[Batch]:
        """The batch cut in time into `parts` of equally many steps, each sequence going on.

        Raises:
            ValueError: T is not a multiple of `parts`.
        """
        steps, rest = divmod(len(self.inputs), parts)
        if rest:
            raise ValueError(f"parts must divide the {len(self.inputs)} steps, got {parts}")
        chunks = zip(*(tensor.split(steps) for tensor in self[:3]), strict=True)
        return [
            Batch(inputs, targets, mask, (self.lengths - number * steps).clamp(0, steps))
            for number, (inputs, targets, mask) in enumerate(chunks)
        ]


class Score(NamedTuple):
    """How well a model answered, each sequence by itself.

    | field   | shape | dtype   | meaning                                          |
    |---------|-------|---------|--------------------------------------------------|
    | loss    | (B)   | float32 | mean loss of its counted answers, nats           |
    | wrong   | (B)   | int64   | counted answers that are wrong                   |
    | counted | (B)   | int64   | answers that count                               |
    """

    loss: Tensor
    wrong: Tensor
    counted: Tensor


class Preset(NamedTuple):
    """Options of a run: of the task, of the model, of the training."""

    task: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]


class Task(ABC):
    """A source of batches. Implementations are frozen dataclasses whose fields are the options.

    A task is one of `BitTask`, `ClassTask` and `TripleTask`, which tell how its answers are scored.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    unit: ClassVar[str]
    """What one answer is called, such as "bit"."""

    goal: ClassVar[str] = "solved"
    """What decides whether the task, or a lesson of it, is learned: the share of sequences entirely
    right ("solved") or the share of answers that are right ("right")."""

    published: ClassVar[tuple[str, ...]] = ("wrong", "solved")
    """The figures that papers give: of "wrong" (answers per sequence), "right" (share of answers),
    "solved" (share of sequences) and "bits" (cross-entropy of an answer, in bits)."""

    scoring_size: ClassVar[int] = 250
    """Sequences that are scored at a time: fewer where they are long or wide."""

    num_chunks: int = 1
    """Parts in which a batch is trained on, one training step each, with the state carried from
    part to part and cut off from the graph between them (truncated backpropagation)."""

    @property
    def num_classes(self) -> int:
        """Classes of an answer, so many outputs each; 0 where each output answers a bit."""
        return 0

    @property
    @abstractmethod
    def input_size(self) -> int:
        """X."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Y."""

    @abstractmethod
    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences; the same generator state gives the same batch.

        T must be a multiple of `num_chunks`.
        """

    def lessons(self) -> tuple[Task, ...]:
        """The task in steps from easy to itself, all of one input and output size."""
        return (self,)

    def held_out(self) -> Task:
        """The task that scores are taken on; for generated sequences the task itself."""
        return self

    def validation(self) -> Task:
        """The task that decides when to stop; where there is no other, the held-out one."""
        return self.held_out()

    @property
    def size(self) -> int | None:
        """How many sequences there are; None for an endless task."""
        return None

    def sequences(self, first: int, last: int) -> Batch:
        """The sequences `first` to `last` - 1 of a task that is not endless, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__} is endless; draw from it with batch()")

    def parts(self) -> dict[str, Task]:
        """What a score of the task is made of, each to be scored by itself; often nothing."""
        return {}

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Sets of options by name that others published."""
        return {}

    def parts_table(self, shares: dict[str, float]) -> str:
        """The scores of `parts()` in a Markdown table.

        Args:
            shares: of each part by name, the share of `goal` that is right, in [0, 1].
        """
        rows = [f"| {name} | {100 * share:.1f} % |" for name, share in shares.items()]
        return "\n".join(["| part | right |", "|---|---|", *rows])

    def model_preset(self) -> dict[str, Any]:
        """Sizes of a small DNC that suits the task."""
        return {"hidden_size": 64, "cell_size": 16, "num_read_heads": 1}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Options of training that suit the task and the controller of that name."""
        return {}

    def answerer(self, batch: Batch, generator: torch.Generator | None) -> Answerer | None:
        """What makes the inputs that depend on a model's own answers; None where none do.

        Args:
            batch: that this task drew.
            generator: of chance in training; None for none, when answers are scored.
        """
        return None

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean loss over all answers that count, nats per answer; a scalar, 0 if none counts.

        Args:
            outputs: the model's, (T, B, Y), any range.
            batch: the batch that was answered.
        """
        losses = self.losses(outputs, batch.targets) * batch.mask.unsqueeze(-1)
        return losses.sum() / (batch.mask.sum() * losses.shape[-1]).clamp(min=1)

    def score(self, outputs: Tensor, batch: Batch) -> Score:
        """The score of each sequence; a sequence is right when all its counted answers are.

        Args:
            outputs: the model's, (T, B, Y), any range.
            batch: the batch that was answered.
        """
        counts = batch.mask.unsqueeze(-1)
        losses = self.losses(outputs, batch.targets) * counts
        wrong = self.wrong(outputs, batch.targets) & counts
        counted = batch.mask.sum(0) * losses.shape[-1]
        return Score(losses.sum((0, 2)) / counted.clamp(min=1), wrong.sum((0, 2)), counted)

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each answer, nats: (..., Y) to (..., answers of a step)."""

    @abstractmethod
    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each answer is wrong: (..., Y) to bool (..., answers of a step)."""

    @abstractmethod
    def probabilities(self, outputs: Tensor) -> Tensor:
        """What the outputs (..., Y) say of each answer, in [0, 1]."""


class BitTask(Task):
    """Each of the Y outputs answers a bit: the logarithm of its odds; above zero means one."""

    unit = "bit"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of each bit, (..., Y)."""
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Bits on the wrong side of one half, (..., Y); one that is not a number is wrong."""
        return ((outputs > 0) != (targets > 0.5)) | outputs.isnan()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability that each bit is one."""
        return outputs.sigmoid()


class VectorTask(BitTask):
    """Vectors of `num_bits` bits in and out, beside two channels for cues or a number."""

    num_bits: int

    @property
    def input_size(self) -> int:
        return self.num_bits + 2

    @property
    def output_size(self) -> int:
        return self.num_bits


class ClassTask(Task):
    """The Y outputs of a step choose one of Y classes: the largest one."""

    unit = "answer"

    @property
    def num_classes(self) -> int:
        """Y."""
        return self.output_size

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the choice, (..., 1)."""
        return -(targets * outputs.log_softmax(-1)).sum(-1, keepdim=True)

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the class chosen is not the target or not a number, (..., 1)."""
        chosen = outputs.argmax(-1, keepdim=True)
        return (targets.gather(-1, chosen) < 0.5) | outputs.gather(-1, chosen).isnan()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each class; they sum to one."""
        return outputs.softmax(-1)


def uniform(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Integers in [low, high], both included, int64 on the generator's device."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def random_bits(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Fair bits, float32 on the generator's device."""
    return uniform(0, 1, shape, generator).float()


SMALL_STEPS: dict[str, Any] = {"learning_rate": 1e-3, "clip_norm": 1.0}
"""Training options for tasks that are learned slowly."""


def decaying(steps: int) -> dict[str, Any]:
    """Training options for the same in `steps` steps, which grow ever smaller to the end."""
    return {**SMALL_STEPS, "schedule": "cosine", "decay_steps": steps, "max_steps": steps}


def random_shares(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers uniform in [0, 1), float32 on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... and `last` at the end: the sizes of lessons."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]
