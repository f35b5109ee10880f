"""What a task is: an endless, seeded source of batches with a loss, a score and lessons.

Tasks know no model. Letters: B sequences, T steps (of the longest), X input features, Y outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .answerer import Answerer
from .batch import Account, Batch, Score


class Task(ABC):
    """A source of batches. Implementations are frozen dataclasses whose fields are the options.

    A task is a `BitTask` or a `ClassTask`, which define how answers are scored.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    goal: ClassVar[str] = "solved"
    """What decides whether the task, or a lesson of it, is learned: the share of sequences that
    are entirely right ("solved") or the share of answers that are right ("right")."""

    published: ClassVar[tuple[str, ...]] = ("wrong", "solved")
    """The figures that papers report: of "wrong" (wrong answers per sequence), "right" (share of
    answers), "solved" (share of sequences) and "bits" (cross-entropy of an answer, in bits)."""

    parts_by: ClassVar[str] = "part"
    """What the tasks of `parts()` differ in."""

    loss_unit: ClassVar[str] = ""
    """What the loss of a score counts, where it is not nats for each answer."""

    parts_goal: ClassVar[str] = ""
    """What the scores of `parts()` are, where it is another than `goal`."""

    scoring_size: ClassVar[int] = 250
    """Sequences scored at a time: fewer where they are long or wide."""

    lengths_by: ClassVar[tuple[str, ...]] = ()
    """The options for the least and the greatest length of sequences, if the task has such."""

    num_chunks: int = 1
    """The number of chunks that a batch is cut into for training, one training step each; the state
    is carried over but detached between them (truncated backpropagation through time)."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What one answer is called, such as "bit"."""

    @property
    def num_classes(self) -> int:
        """How many outputs choose one class of an answer; 0 where each output answers a bit."""
        return 0

    @property
    @abstractmethod
    def input_size(self) -> int:
        """X."""

    @property
    def output_size(self) -> int:
        """Y; by default equal to X."""
        return self.input_size

    @property
    def alphabet_digest(self) -> str:
        """A digest of what each input and output stands for where a file decides it, or ""."""
        return ""

    @property
    def memory_load(self) -> int | None:
        """The most things, such as vectors or edges, to be remembered at once; None if unknown."""
        return None

    @abstractmethod
    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences; the same generator state gives the same batch.

        T must be a multiple of `num_chunks`.
        """

    def lessons(self) -> tuple[Task, ...]:
        """Tasks from easy to this one, all of the same input and output size."""
        return (self,)

    def longer(self, factor: int) -> Task | None:
        """The task with sequences that are all `factor` times as long as the longest of this one;
        None if it has no options for their length."""
        if not self.lengths_by:
            return None
        length = factor * getattr(self, self.lengths_by[-1])
        return replace(self, **dict.fromkeys(self.lengths_by, length))

    def held_out(self) -> Task:
        """The task that is scored in the end; for generated sequences the task itself."""
        return self

    def validation(self) -> Task:
        """The task that decides when to stop; by default the held-out one."""
        return self.held_out()

    @property
    def size(self) -> int | None:
        """How many sequences there are; None for an endless task."""
        return None

    def sequences(self, first: int, last: int) -> Batch:
        """The sequences `first` to `last` - 1 of a finite task, in a fixed order."""
        raise NotImplementedError(f"{type(self).__name__} is endless; draw from it with batch()")

    def words(self, steps: Tensor) -> list[str] | None:
        """What each step of a sequence is in words or characters; None if steps are none.

        Args:
            steps: (T, X) inputs or (T, Y) outputs or targets; zeros are the empty word.
        """
        return None

    def account(self, inputs: Tensor, targets: Tensor) -> Account | None:
        """A sequence in words that are not one for each step; None if there are none.

        Args:
            inputs, targets: (T, X) and (T, Y), as the model has answered them.
        """
        return None

    def parts(self) -> dict[str, Task]:
        """Tasks by name that are also scored separately; usually none.

        Those of a finite task divide its sequences between them.
        """
        return {}

    def milestones(self) -> dict[str, Task]:
        """Tasks by name that show how far a long training has come; usually none."""
        return {}

    def parts_table(self, shares: dict[str, float], guesses: dict[str, float]) -> str:
        """The scores of `parts()` in a Markdown table, with a caption.

        Args:
            shares: for each part, the share of `goal` that is right, in [0, 1].
            guesses: the same of guesses.
        """
        what = "sequences" if self.goal == "solved" else f"{self.unit}s"
        rows = [
            f"| {name} | {100 * share:.1f} % | {100 * guesses[name]:.1f} % |"
            for name, share in shares.items()
        ]
        head = ["|  | right | by guessing |", "|---|---|---|"]
        return "\n".join([f"{what} right, by {self.parts_by}:", "", *head, *rows])

    def answerer(self, batch: Batch, generator: torch.Generator | None) -> Answerer | None:
        """What makes the inputs that depend on a model's own answers; None if none do.

        Args:
            batch: drawn by this task.
            generator: of random choices in training; None to make none, for scoring.
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
        """The score of each sequence; a sequence is right if all its counted answers are.

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
        """The probabilities, in [0, 1], that the outputs (..., Y) stand for."""


class BitTask(Task):
    """Each of the Y outputs answers a bit with its log-odds; above zero means one."""

    unit = "bit"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy of each bit, (..., Y)."""
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Bits on the wrong side of one half, (..., Y); NaN is wrong."""
        return ((outputs > 0) != (targets > 0.5)) | outputs.isnan()

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability that each bit is one."""
        return outputs.sigmoid()


class VectorTask(BitTask):
    """Vectors of `num_bits` bits in and out, and two more input channels for cues or a number."""

    num_bits: int

    @property
    def input_size(self) -> int:
        return self.num_bits + 2

    @property
    def output_size(self) -> int:
        return self.num_bits


class ClassTask(Task):
    """Each `num_classes` of the Y outputs choose one class: the largest of them."""

    @property
    def unit(self) -> str:
        return "answer"

    @property
    def num_classes(self) -> int:
        """Y, unless a step has several answers."""
        return self.output_size

    def _by_answer(self, outputs: Tensor) -> Tensor:
        """From (..., Y) to (..., answers of a step, classes)."""
        return outputs.unflatten(-1, (-1, self.num_classes))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each answer, (..., answers of a step)."""
        return -(self._by_answer(targets) * self._by_answer(outputs).log_softmax(-1)).sum(-1)

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether each chosen class is not the target or its output is NaN."""
        outputs, targets = self._by_answer(outputs), self._by_answer(targets)
        chosen = outputs.argmax(-1, keepdim=True)
        wrong = (targets.gather(-1, chosen) < 0.5) | outputs.gather(-1, chosen).isnan()
        return wrong.squeeze(-1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each class; those of one answer sum to one."""
        return self._by_answer(outputs).softmax(-1).flatten(-2)


def span(low: int, high: int) -> str:
    """A range as people say it: "1 to 8", or "4" where both ends are the same."""
    return f"{low} to {high}" if low < high else str(low)


def count(number: int, unit: str) -> str:
    """A number of things: "1 step", "1,200 steps"."""
    return f"{number:,} {unit}{'s' * (number != 1)}"


def uniform(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Integers in [low, high], both included, int64 on the generator's device."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def random_bits(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Fair bits, float32 on the generator's device."""
    return uniform(0, 1, shape, generator).float()


def random_shares(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers uniform in [0, 1), float32 on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)


def doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ..., and finally `last`: the sizes of lessons."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]
