"""bAbI question answering: hear a story word by word, answer questions (Weston et al. 2015)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_integer, check_number
from .babi_drill import FIXED_FACTS, drill
from .babi_files import FILE_SETS, choose_files, read_stories
from .babi_names import Kinds, exchange_names, names_of
from .babi_published import error_table
from .babi_stories import MAKERS
from .babi_text import ANSWER, CODES, VOCABULARY, Story
from .base import SMALL_STEPS, Batch, ClassTask, Preset, Score, Task, random_shares, uniform
from .paper import BABI_DNC1, BABI_DNC2

NUM_TASKS = 20
ALL_NUMBERS = tuple(range(1, NUM_TASKS + 1))
PARTS = ("train", "validation", "test")
VALIDATION_SHARE = 0.1
"""The last stories of each training file, which decide when to stop (Graves et al. 2016: 10 %)."""
MOST_QUESTIONS = 5
"""Questions of a story in most tasks; none has many more."""
LIKE_LENGTHS = 1.15
"""The stories of a batch differ in length by this factor at most."""


@dataclass(frozen=True)
class BabiTask(ClassTask):
    """Stories with questions, a word at a step, one-hot among 159; answers are words too.

    Small letters; full stop and question mark are words. Where a word of an answer is expected the
    input is the sign "-", and only there does the output count. A question is right when every word
    of its answer is.

    With `data`, the stories are those of the files: the last tenth of each task's training file
    decides when to stop, its test file is held out, whole. A batch draws a task, each as likely,
    and stories of like length. Without, stories like those of the tasks 1, 2, 4, 6, 7 and 15 are
    made up without end. The files must stay as they are while a run goes on: a checkpoint holds
    their name only.
    """

    unit = "question"
    goal = "right"
    published = ("right",)
    scoring_size: ClassVar[int] = 50

    data: str = field(
        default="",
        metadata={"help": "folder or archive of bAbI; default: stories made up on the spot"},
    )
    tasks: str = field(
        default="1", metadata={"help": "numbers of tasks, such as 1 or 1,4,15 or 1-20; or all"}
    )
    files: str = field(
        default="en-10k", metadata={"choices": FILE_SETS, "help": "which of the published sets"}
    )
    part: str = field(
        default="train", metadata={"choices": PARTS, "help": "part of the stories to read"}
    )
    max_questions: int = field(
        default=0, metadata={"help": "end each story after so many questions; 0: none is cut"}
    )
    word_dropout: float = field(
        default=0.0, metadata={"help": "share of words left blank in training, against overfitting"}
    )
    renamed: float = field(
        default=0.0,
        metadata={"help": "share of the files' stories whose names are exchanged in training"},
    )
    drilled: float = field(
        default=0.0,
        metadata={
            "help": "share of stories whose facts come in another order in training, and are each "
            f"asked for too; only of tasks {', '.join(map(str, sorted(FIXED_FACTS)))}"
        },
    )

    def __post_init__(self) -> None:
        check_choice("files", self.files, FILE_SETS)
        check_choice("part", self.part, PARTS)
        check_integer("max_questions", self.max_questions, minimum=0)
        check_number("word_dropout", self.word_dropout, 0.0, 1.0)
        check_number("renamed", self.renamed, 0.0, 1.0)
        check_number("drilled", self.drilled, 0.0, 1.0)
        if self.drilled and FIXED_FACTS.isdisjoint(self.numbers):
            raise ValueError(
                f"drilled must be 0 unless tasks has some of {sorted(FIXED_FACTS)}, whose facts "
                f"hold in any order; got drilled={self.drilled} and tasks={self.tasks!r}"
            )
        if self.data:
            choose_files(self.data, self.files, self.numbers, self.kind)
        else:
            unknown = [number for number in self.numbers if number not in MAKERS]
            if unknown:
                raise ValueError(
                    f"tasks must be of {tuple(MAKERS)} for stories that are made up, got "
                    f"{self.tasks!r}; give `data`, a folder or archive of bAbI, for the others"
                )

    def __str__(self) -> str:
        if not self.data:
            return f"stories made up like bAbI {self.tasks}"
        sets = [name for name, _ in choose_files(self.data, self.files, self.numbers, "train")]
        others = [
            f"task {number} trained on {name}"
            for number, name in zip(self.numbers, sets, strict=True)
            if name not in (self.files, "")
        ]
        return f"bAbI {self.tasks} of {self.files}{''.join(f', {other}' for other in others)}"

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the tasks, rising."""
        return parse_numbers(self.tasks, ALL_NUMBERS if self.data else tuple(MAKERS))

    @property
    def kind(self) -> str:
        """The kind of files that the part is taken from."""
        return "test" if self.part == "test" else "train"

    @property
    def input_size(self) -> int:
        return len(VOCABULARY)

    @property
    def output_size(self) -> int:
        return len(VOCABULARY)

    def validation(self) -> BabiTask:
        """The last tenth of the stories for training."""
        return replace(self, part="validation")

    def held_out(self) -> BabiTask:
        """The stories of the test files."""
        return replace(self, part="test")

    def lessons(self) -> tuple[BabiTask, ...]:
        """Stories up to their first question, up to the second, ...; then whole."""
        last = self.max_questions or MOST_QUESTIONS
        cut = tuple(replace(self, max_questions=count) for count in range(1, last))
        return (*cut, self)

    def parts(self) -> dict[str, Task]:
        """Each of the tasks by itself."""
        return {
            str(number): replace(
                self, tasks=str(number), drilled=self.drilled if number in FIXED_FACTS else 0.0
            )
            for number in self.numbers
        }

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """The paper's two, for all tasks at once."""
        return {"paper-babi-dnc1": BABI_DNC1, "paper-babi-dnc2": BABI_DNC2}

    def parts_table(self, shares: dict[str, float]) -> str:
        """The error of each task beside the published ones, with mean and tasks failed."""
        return error_table({int(name): 100 * (1 - share) for name, share in shares.items()})

    def model_preset(self) -> dict[str, Any]:
        """A small model for the short stories; the paper's are larger, see `PRESETS`."""
        return {"hidden_size": 128, "num_cells": 32, "cell_size": 32, "num_read_heads": 4}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Small steps, and an end when hardly a question is wrong."""
        return {
            **SMALL_STEPS,
            "max_steps": 100_000,
            "evaluate_every": 200,
            "solved_at": 0.98,
            "solved_evaluations": 2,
        }

    @property
    def size(self) -> int | None:
        """Stories in the files' part; None for stories that are made up."""
        return len(self._library().stories) if self.data else None

    def sequences(self, first: int, last: int) -> Batch:
        """Stories `first` to `last` - 1, from short to long."""
        return encode(self._library().stories[first:last], torch.device("cpu"))

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B stories, see `Batch`; of the files, with those of like length."""
        check_integer("batch_size", batch_size, minimum=1)
        stories = self._draw(batch_size, generator)
        return self._with_dropout(encode(stories, generator.device), generator)

    def _draw(self, batch_size: int, generator: torch.Generator) -> list[Story]:
        """The stories of a batch, in training perhaps changed."""
        if not self.data:
            random = Random(int(uniform(0, 2**62, (), generator)))
            return [self._made_up(random) for _ in range(batch_size)]
        library = self._library()
        group = draw(library.group_weights, 1, generator).item()
        first, last = library.groups[int(group)]
        places = (first + draw(library.weights[first:last], batch_size, generator)).tolist()
        if not (self.renamed or self.drilled) or self.part != "train":
            return [library.stories[place] for place in places]
        random = Random(int(uniform(0, 2**62, (), generator)))
        return [self._changed(library, place, random) for place in places]

    def _made_up(self, random: Random) -> Story:
        """A new story of one of the tasks, each as likely; in training perhaps drilled."""
        number = random.choice(self.numbers)
        story = MAKERS[number](random).cut(self.max_questions)
        return self._perhaps_drilled(story, number in FIXED_FACTS, random)

    def _changed(self, library: Library, place: int, random: Random) -> Story:
        """A story of the library as it is trained on: perhaps renamed, perhaps drilled."""
        story = library.stories[place]
        if random.random() < self.renamed:
            story = exchange_names(story, library.names[place], random)
        return self._perhaps_drilled(story, library.fixed[place], random)

    def _perhaps_drilled(self, story: Story, fixed: bool, random: Random) -> Story:
        """The story, by chance as a drill where its facts are fixed and it is for training."""
        if not (fixed and self.drilled and self.part == "train"):
            return story
        return drill(story, random) if random.random() < self.drilled else story

    def _with_dropout(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with some words left blank in training; the signs for an answer all stay."""
        if not self.word_dropout or self.part != "train":
            return batch
        kept = random_shares(tuple(batch.mask.shape), generator) >= self.word_dropout
        return batch._replace(inputs=batch.inputs * (kept | batch.mask).unsqueeze(-1))

    def score(self, outputs: Tensor, batch: Batch) -> Score:
        """The score of each story in questions; a question is right when all its words are."""
        words = super().score(outputs, batch)
        wrong = self.wrong(outputs, batch.targets).squeeze(-1) & batch.mask
        begins = batch.mask.clone()
        begins[1:] &= ~batch.mask[:-1]
        question = begins.long().cumsum(0)  # from 1, and so until the next one begins
        failed = question.new_zeros(len(question) + 1, question.shape[1])
        failed.scatter_reduce_(0, question, wrong.long(), "amax")
        return Score(words.loss, failed.sum(0), begins.sum(0))

    def _library(self) -> Library:
        return make_library(self.data, self.files, self.numbers, self.part, self.max_questions)


class Library(NamedTuple):
    """Stories from short to long.

    names: those that may be exchanged in each story.
    fixed: whether each story may be drilled.
    weights: (stories) how likely each is drawn, so that every task is as likely.
    groups: first and last place + 1 of stories of like length.
    group_weights: (groups) how likely each group is.
    """

    stories: list[Story]
    names: list[Kinds]
    fixed: list[bool]
    weights: Tensor
    groups: list[tuple[int, int]]
    group_weights: Tensor


@lru_cache(maxsize=64)
def make_library(
    data: str, files: str, numbers: tuple[int, ...], part: str, max_questions: int
) -> Library:
    """The stories of a part, in order of length.

    Raises:
        BabiError: a file is not as the format has it.
        ValueError: a training file has too few stories for a validation part.
    """
    by_task = read_stories(data, files, numbers, "test" if part == "test" else "train")
    weighted: list[tuple[Story, Kinds, bool, float]] = []
    for number, stories in zip(numbers, by_task, strict=True):
        cut = len(stories) - round(VALIDATION_SHARE * len(stories))
        chosen = {"train": stories[:cut], "validation": stories[cut:], "test": stories}[part]
        if not chosen:
            raise ValueError(
                f"data must have more stories of task {number} for its part {part!r}, got "
                f"{len(stories)} in all"
            )
        names = names_of(number, chosen)
        fixed, chance = number in FIXED_FACTS, 1.0 / len(chosen)
        weighted += [(story.cut(max_questions), names, fixed, chance) for story in chosen]
    weighted.sort(key=lambda item: len(item[0].words))
    stories, kinds, fixed_facts, chances = zip(*weighted, strict=True)
    lengths = [len(story.words) for story in stories]
    edges = [0]
    while edges[-1] < len(lengths):
        edges.append(bisect_right(lengths, LIKE_LENGTHS * lengths[edges[-1]]))
    groups = list(pairwise(edges))
    weights = torch.tensor(chances, dtype=torch.float64, device="cpu")
    sums = torch.stack([weights[first:last].sum() for first, last in groups])
    return Library(list(stories), list(kinds), list(fixed_facts), weights, groups, sums)


def draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places drawn with replacement, each as likely as its weight; (count) int64."""
    weights = weights.to(generator.device)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def encode(stories: Sequence[Story], device: torch.device) -> Batch:
    """Stories as a batch, in their order."""
    lengths = [len(story.words) for story in stories]
    words = torch.full((max(lengths), len(stories)), -1, device="cpu")
    answers = torch.full_like(words, -1)
    for place, story in enumerate(stories):
        codes = torch.tensor([CODES[word] for word in story.words], device="cpu")
        words[: len(codes), place] = codes
        asked = codes == CODES[ANSWER]
        answers[: len(codes), place][asked] = torch.tensor(
            [CODES[word] for word in story.answers], device="cpu"
        )
    words, answers = words.to(device), answers.to(device)
    return Batch(
        inputs=one_hot(words),
        targets=one_hot(answers),
        mask=answers >= 0,
        lengths=torch.tensor(lengths, device=device),
    )


def hear(words: Sequence[str]) -> Tensor:
    """Words of the vocabulary as the input of one sequence, (T, 1, 159) float32."""
    return one_hot(torch.tensor([CODES[word] for word in words], device="cpu")).unsqueeze(1)


def one_hot(codes: Tensor) -> Tensor:
    """Words as float32 vectors over the vocabulary; zeros for -1."""
    return F.one_hot(codes + 1, len(VOCABULARY) + 1)[..., 1:].float()


def parse_numbers(text: str, known: Sequence[int]) -> tuple[int, ...]:
    """Numbers of tasks, such as "1,4-6", rising; "all" are all known.

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
            raise ValueError(f"tasks must be from 1 to {NUM_TASKS}, rising, got {text!r}")
        numbers |= set(range(low, high + 1))
    return tuple(sorted(numbers))
