"""bAbI question answering: read a story word by word, answer questions (Weston et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar

import torch

from ...checks import check_choice, check_integer, check_number
from ...options import option
from ..base import Task, random_shares, uniform
from ..batch import Batch
from ..stories import Story, StoryTask, encode
from .drill import FIXED_FACTS, drill
from .files import FILE_SETS, choose_files
from .library import Library, make_library
from .names import exchange_names
from .published import error_table
from .stories import MAKERS
from .text import VOCABULARY

NUM_TASKS = 20
ALL_NUMBERS = tuple(range(1, NUM_TASKS + 1))
PARTS = ("train", "validation", "test")
MOST_QUESTIONS = 5
"""The questions of a story in most tasks; none has many more."""


@dataclass(frozen=True)
class BabiTask(StoryTask):
    """Stories with questions, a word at a step, one-hot among 159; answers are words too.

    All words are in lower case; full stop and question mark are words. Where a word of an answer is
    expected the input is "-", and only there does the output count. A question is right if every
    word of its answer is.

    With `data`, the stories come from the files: the last tenth of each task's training file
    decides when to stop, and the whole test file is held out. A batch holds stories of similar
    length; all tasks are equally likely. Without `data`, stories like those of the tasks 1, 2, 4,
    6, 7 and 15 are generated endlessly. The files must not change during a run: a checkpoint holds
    only their name.
    """

    vocabulary: ClassVar = VOCABULARY
    without_files: ClassVar = {"data": "", "tasks": "1", "drilled": 0.0}

    data: str = option("", "folder or archive of bAbI (default: generated stories)")
    tasks: str = option("1", "task numbers, such as 1 or 1,4,15 or 1-20; or all")
    files: str = option("en-10k", "which of the published sets to read", FILE_SETS)
    part: str = option("train", "part of the stories to read", PARTS)
    max_questions: int = option(0, "end each story after this many questions; 0: never")
    word_dropout: float = option(0.0, "share of words blanked in training, against overfitting")
    renamed: float = option(0.0, "share of the files' stories whose names are swapped in training")
    drilled: float = option(
        0.0,
        "share of stories whose facts are shuffled in training, with a question about each; only "
        f"of tasks {', '.join(map(str, sorted(FIXED_FACTS)))}",
    )

    def __post_init__(self) -> None:
        check_choice("files", self.files, FILE_SETS)
        check_choice("part", self.part, PARTS)
        check_integer("max_questions", self.max_questions, minimum=0)
        for name in ("word_dropout", "renamed", "drilled"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        if self.drilled and FIXED_FACTS.isdisjoint(self.numbers):
            raise ValueError(
                f"drilled must be 0 unless tasks has some of {sorted(FIXED_FACTS)}, whose facts "
                f"hold in any order, got drilled={self.drilled} and tasks={self.tasks!r}"
            )
        if self.data:
            choose_files(self.data, self.files, self.numbers, self.kind)
        elif not set(self.numbers) <= set(MAKERS):
            raise ValueError(
                f"tasks must be among {tuple(MAKERS)} for generated stories, got {self.tasks!r}; "
                "give `data`, a folder or archive of bAbI, for the others"
            )

    def __str__(self) -> str:
        if not self.data:
            return f"generated stories like bAbI {self.tasks}"
        sets = [name for name, _ in choose_files(self.data, self.files, self.numbers, "train")]
        others = [
            f"task {number} trained on {name}"
            for number, name in zip(self.numbers, sets, strict=True)
            if name not in (self.files, "")
        ]
        return f"bAbI {self.tasks} of {self.files}{''.join(f', {other}' for other in others)}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the tasks, in order."""
        return parse_numbers(self.tasks, ALL_NUMBERS if self.data else tuple(MAKERS))

    @property
    def kind(self) -> str:
        """The files that the part is taken from: "train" or "test"."""
        return "test" if self.part == "test" else "train"

    def validation(self) -> BabiTask:
        """The last tenth of each training file."""
        return replace(self, part="validation")

    def held_out(self) -> BabiTask:
        """The stories of the test files."""
        return replace(self, part="test")

    def lessons(self) -> tuple[BabiTask, ...]:
        """Stories up to their first question, up to the second, ...; finally whole stories."""
        last = self.max_questions or MOST_QUESTIONS
        cut = tuple(replace(self, max_questions=count) for count in range(1, last))
        return (*cut, self)

    def parts(self) -> dict[str, Task]:
        """Each of the tasks separately."""
        return {
            str(number): replace(
                self, tasks=str(number), drilled=self.drilled if number in FIXED_FACTS else 0.0
            )
            for number in self.numbers
        }

    def parts_table(self, shares: dict[str, float], guesses: dict[str, float]) -> str:
        """The error of each task beside published ones, with means and numbers of failed tasks."""
        on = f"the test files of {self.data}" if self.data else "generated stories"
        if self.max_questions:
            on += f", up to question {self.max_questions} of each story"
        caption = (
            f"error in % of questions: ours and guessing on {on}; the other columns on the whole "
            "test files of bAbI, from Graves et al. 2016, trained on all 20 tasks of en-10k at once"
        )
        ours = "ours, on other stories" if self.max_questions or not self.data else "ours"
        errors, guessed = (
            {int(name): 100 * (1 - share) for name, share in found.items()}
            for found in (shares, guesses)
        )
        return f"{caption}\n\n{error_table(errors, guessed, ours)}"

    @property
    def size(self) -> int | None:
        """The number of stories in the part of the files; None if they are generated."""
        return len(self.library.stories) if self.data else None

    def sequences(self, first: int, last: int) -> Batch:
        """Stories `first` to `last` - 1, from short to long."""
        return encode(self.library.stories[first:last], VOCABULARY, torch.device("cpu"))

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B stories, see `Batch`; those from files are of similar length."""
        check_integer("batch_size", batch_size, minimum=1)
        stories = self._draw(batch_size, generator)
        return self._with_dropout(encode(stories, VOCABULARY, generator.device), generator)

    def _draw(self, batch_size: int, generator: torch.Generator) -> list[Story]:
        """The stories of a batch, with the changes that are made in training."""
        if not self.data:
            random = Random(int(uniform(0, 2**62, (), generator)))
            return [self._made_up(random) for _ in range(batch_size)]
        library = self.library
        places = library.draw(batch_size, generator)
        if not (self.renamed or self.drilled) or self.part != "train":
            return [library.stories[place] for place in places]
        random = Random(int(uniform(0, 2**62, (), generator)))
        return [self._changed(library, place, random) for place in places]

    def _made_up(self, random: Random) -> Story:
        """A new story of one of the tasks, all equally likely, with a chance to be drilled."""
        number = random.choice(self.numbers)
        story = MAKERS[number](random).cut(self.max_questions)
        return self._perhaps_drilled(story, number in FIXED_FACTS, random)

    def _changed(self, library: Library, place: int, random: Random) -> Story:
        """A story of the library for training, with a chance to be renamed and to be drilled."""
        story = library.stories[place]
        if random.random() < self.renamed:
            story = exchange_names(story, library.names[place], random)
        return self._perhaps_drilled(story, library.fixed[place], random)

    def _perhaps_drilled(self, story: Story, fixed: bool, random: Random) -> Story:
        """The story, or by chance a drill of it, in training and if its facts are fixed."""
        if not (fixed and self.drilled and self.part == "train"):
            return story
        return drill(story, random) if random.random() < self.drilled else story

    def _with_dropout(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch, in training with some words blanked, but none where an answer is expected."""
        if not self.word_dropout or self.part != "train":
            return batch
        kept = random_shares(tuple(batch.mask.shape), generator) >= self.word_dropout
        return batch._replace(inputs=batch.inputs * (kept | batch.mask).unsqueeze(-1))

    @property
    def library(self) -> Library:
        """The stories of the files' part."""
        return make_library(self.data, self.files, self.numbers, self.part, self.max_questions)


def parse_numbers(text: str, known: Sequence[int]) -> tuple[int, ...]:
    """Numbers of tasks such as "1,4-6", sorted; "all" stands for all known ones.

    Raises:
        ValueError: the text is not of this form.
    """
    if text == "all":
        return tuple(known)
    numbers: set[int] = set()
    for word in text.split(","):
        first, _, last = word.partition("-")
        ends = (first, last or first)
        if not all(end.strip().isdecimal() for end in ends):
            raise ValueError(f"tasks must be numbers such as 1 or 1,4,15 or 1-20, got {text!r}")
        low, high = map(int, ends)
        if not 1 <= low <= high <= NUM_TASKS:
            raise ValueError(
                f"tasks must be from 1 to {NUM_TASKS}, in ascending order, got {text!r}"
            )
        numbers |= set(range(low, high + 1))
    return tuple(sorted(numbers))
