"""A task of stories: a word at a step, one-hot; the answers are words too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from ..base import ClassTask
from ..batch import Batch, Score
from .text import Vocabulary


class StoryTask(ClassTask):
    """Stories with questions. Full stop and question mark are words.

    Where a word of an answer is expected, the input is "-"; only there does the output count. A
    question is right if every word of its answer is.
    """

    unit = "question"
    goal = "right"
    published = ("right",)
    scoring_size: ClassVar[int] = 50

    vocabulary: ClassVar[Vocabulary]

    without_files: ClassVar[Mapping[str, Any]] = {}
    """Options with which the task needs no files, for when a model is only asked questions."""

    @property
    def input_size(self) -> int:
        return len(self.vocabulary)

    @staticmethod
    def answer_length(question: Sequence[str]) -> int:
        """How many words answer a question, if its own words tell; otherwise 1."""
        return 1

    def words(self, steps: Tensor) -> list[str]:
        """The word of each step."""
        known = self.vocabulary.words
        return [known[int(step.argmax())] if step.any() else "" for step in steps]

    def score(self, outputs: Tensor, batch: Batch) -> Score:
        """The score of each story in questions; a question is right if all its words are."""
        words = super().score(outputs, batch)
        wrong = self.wrong(outputs, batch.targets).squeeze(-1) & batch.mask
        begins = batch.mask.clone()
        begins[1:] &= ~batch.mask[:-1]
        question = begins.long().cumsum(0)  # from 1, constant until the next question begins
        failed = question.new_zeros(len(question) + 1, question.shape[1])
        failed.scatter_reduce_(0, question, wrong.long(), "amax")
        return Score(words.loss, failed.sum(0), begins.sum(0))
