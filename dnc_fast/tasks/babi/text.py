"""The text of bAbI stories (Weston et al. 2015): words, vocabulary, and the parser of its files.

Each line of a file has a number and a sentence; a question is followed by a tab, its answer, a tab
and the numbers of the sentences that support it. Number 1 begins a new story.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import chain, pairwise
from typing import NamedTuple

ANSWER = "-"
"""The input where a word of an answer is expected."""

WORDS = """
    - . ? a above afraid after afternoon afterwards and antoine apple are back bathroom bedroom
    before below bernhard bigger bill blue bored box brian carrying cat cats chest chocolate
    chocolates cinema color container daniel did discarded do does down dropped e east either
    emily evening fit fits following football fred frog from garden gave gertrude get give go got
    grabbed gray green greg hallway handed he how hungry in inside is jason jeff jessica john
    journeyed julie julius kitchen left lily lion longer many mary maybe mice milk morning mouse
    moved n no none north not nothing objects of office one or pajamas park passed picked pink put
    received rectangle red rhino right s sandra school she sheep south sphere square suitcase
    sumit swan than that the then there they thirsty this three tired to took travelled triangle
    two up w was went west what where white who why will winona wolf wolves yann yellow yes
    yesterday you
"""
VOCABULARY = tuple(WORDS.split())
"""All words of the 20 English tasks in lower case, and three signs; sorted."""

CODES = {word: code for code, word in enumerate(VOCABULARY)}


class BabiError(ValueError):
    """A text does not follow the bAbI format; the message names file and line."""


class Story(NamedTuple):
    """Sentences and questions in order.

    words: the inputs; after each question, `ANSWER` once for each word of its answer.
    answers: the words expected there, in order.
    """

    words: tuple[str, ...]
    answers: tuple[str, ...]

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


def split_words(sentence: str) -> list[str]:
    """The words of a sentence in lower case; a full stop or question mark is a word."""
    return re.findall(r"[.?]|[^\s.?]+", sentence.lower())


def check_words(words: Iterable[str], where: str) -> None:
    """Raise unless all words are in the vocabulary and none is the sign for an answer.

    Raises:
        BabiError: names `where`, the first such word, and similar words of the vocabulary.
    """
    for word in words:
        if word not in CODES or word == ANSWER:
            near = difflib.get_close_matches(word, VOCABULARY[3:], n=3)
            hint = f"; similar words: {', '.join(near)}" if near else ""
            raise BabiError(
                f"{where}: {word!r} is not one of the {len(VOCABULARY) - 1} words of bAbI{hint}"
            )


def parse_stories(text: str, name: str) -> list[Story]:
    """The stories of a file.

    Args:
        text: the contents of the file.
        name: of the file, for messages.

    Raises:
        BabiError: a line does not follow the format; names file and line.
    """
    stories: list[Story] = []
    words: list[str] = []
    answers: list[str] = []
    number = 0

    def finish(where: str) -> None:
        if not answers:
            raise BabiError(f"{where}: the story that ends here asks no question")
        stories.append(Story(tuple(words), tuple(answers)))
        words.clear()
        answers.clear()

    lines = [line for line in enumerate(text.splitlines(), 1) if line[1].strip()]
    for place, line in lines:
        where = f"{name}, line {place}"
        match = re.fullmatch(r"\s*(\d+) +([^\t]*)(?:\t([^\t]*)(?:\t([^\t]*))?)?", line)
        if not match:
            raise BabiError(
                f"{where}: expected a number, a space and a sentence, after a question also a tab "
                f"and its answer, got {line!r}"
            )
        if int(match[1]) == 1 and number:
            finish(where)
            number = 0
        if int(match[1]) != number + 1:
            expected = f"{number + 1} or 1" if number else "1"
            raise BabiError(f"{where}: expected line number {expected} of a story, got {match[1]}")
        number += 1
        sentence = split_words(match[2])
        if not sentence:
            raise BabiError(f"{where}: expected a sentence after the number, got {line!r}")
        check_words(sentence, where)
        words += sentence
        if match[3] is None:
            if sentence[-1] == "?":
                raise BabiError(f"{where}: expected a tab and an answer after a question, got none")
            continue
        answer = [word.strip().lower() for word in match[3].split(",")]
        check_words(answer, where)
        words += [ANSWER] * len(answer)
        answers += answer
    if not lines:
        raise BabiError(f"{name}: expected stories, got an empty file")
    finish(f"{name}, line {lines[-1][0]}")
    return stories
