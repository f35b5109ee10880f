"""The text of stories: words, their vocabulary, sentences and questions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import NamedTuple, TypeAlias

ANSWER = "-"
"""The input where a word of an answer is expected."""

SIGNS = (ANSWER, ".", "?")
"""What else counts as a word."""

MOST_HINTS = 3


Sentence: TypeAlias = "tuple[str, ...]"
"""The words of a sentence, with its full stop."""


class StoryError(ValueError):
    """A text does not follow its format; the message says where."""


class Question(NamedTuple):
    """The words of a question, with its question mark, and those of its answer."""

    words: tuple[str, ...]
    answer: tuple[str, ...]


class Story(NamedTuple):
    """Sentences and questions in order.

    words: the inputs; after each question, `ANSWER` once for each word of its answer.
    answers: the words expected there, in order.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]

    @classmethod
    def of(cls, facts: Iterable[Sentence], questions: Sequence[Question]) -> Story:
        """Sentences, then questions."""
        asked = ((*words, *[ANSWER] * len(answer)) for words, answer in questions)
        words = tuple(chain.from_iterable((*facts, *asked)))
        return cls(words, tuple(chain.from_iterable(answer for _, answer in questions)))

    def lines(self) -> list[tuple[str, ...]]:
        """The words of each sentence, and of each question with the signs for its answer."""
        ends = [
            place + 1
            for place, word in enumerate(self.words)
            if word in (".", ANSWER) and self.words[place + 1 : place + 2] != (ANSWER,)
        ]
        return [self.words[first:last] for first, last in pairwise((0, *ends))]

    def cut(self, questions: int) -> Story:
        """The story up to the end of a question, counted from 1; the whole story for 0."""
        lines = self.lines()
        ends = [place for place, line in enumerate(lines, 1) if line[-1] == ANSWER]
        if not 0 < questions < len(ends):
            return self
        words = tuple(chain.from_iterable(lines[: ends[questions - 1]]))
        return Story(words, self.answers[: words.count(ANSWER)])


class Vocabulary:
    """The words of a task's stories in lower case, and the signs. Names may be several words.

    Args:
        what: what the stories are called in messages, such as "bAbI".
        words: all of them, in any order.

    Attributes:
        words: the signs, then the words, sorted.
        codes: the place of each in `words`.
    """

    def __init__(self, what: str, words: Iterable[str]) -> None:
        self.what = what
        self.words = (*SIGNS, *sorted(set(words) - set(SIGNS)))
        self.codes = {word: code for code, word in enumerate(self.words)}
        names = sorted((word for word in self.words if " " in word), key=len, reverse=True)
        spelled = [re.escape(name).replace(r"\ ", r"\s+") for name in names]
        longest = "".join(rf"(?<![^\s.?,]){name}(?![^\s.?,])|" for name in spelled)
        self._pattern = re.compile(rf"{longest}[.?]|[^\s.?,]+")

    def __len__(self) -> int:
        return len(self.words)

    def split(self, text: str) -> list[str]:
        """The words of sentences in lower case; a full stop or question mark is a word.

        A name of several words is found as one word. Commas only separate words.
        """
        found = self._pattern.findall(text.lower().replace("\u2019", "'"))
        return [" ".join(word.split()) for word in found]

    def check(self, words: Iterable[str], where: str) -> None:
        """Raise unless all words are in the vocabulary and none is the sign for an answer.

        Raises:
            StoryError: names `where`, the first such word, and similar words of the vocabulary.
        """
        for word in words:
            if word not in self.codes or word == ANSWER:
                near = self._similar(word)
                hint = f"; similar words: {', '.join(near)}" if near else ""
                raise StoryError(
                    f"{where}: {word!r} is not one of the {len(self) - 1} words of {self.what}"
                    f"{hint}"
                )

    def _similar(self, word: str) -> list[str]:
        """Words like this one, then names with a part like it."""
        known = self.words[len(SIGNS) :]
        parts = {part for name in known if " " in name for part in name.split()}
        near = difflib.get_close_matches(word, known, n=MOST_HINTS)
        for part in difflib.get_close_matches(word, parts, n=MOST_HINTS):
            near += [name for name in known if part in name.split() and name not in near]
        return near[:MOST_HINTS]
