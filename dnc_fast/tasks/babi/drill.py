"""Drills: the facts of a story in random order, then a question about each of them."""

from __future__ import annotations

from itertools import chain
from random import Random

from ..stories import ANSWER, Story

FIXED_FACTS = frozenset({4, 15, 17, 18, 19})
"""Tasks whose sentences hold throughout a story, whatever order they are told in."""


def drill(story: Story, random: Random) -> Story:
    """The story's sentences in random order, then its questions, mixed with one for each sentence.

    A question about a sentence asks for its last word: "gertrude is a mouse ." becomes "gertrude is
    a -". There is none if another sentence begins with the same words.
    """
    facts: list[tuple[str, ...]] = []
    questions: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    answers = iter(story.answers)
    for line in story.lines():
        if line[-1] == ANSWER:
            questions.append((line, tuple(next(answers) for word in line if word == ANSWER)))
        else:
            facts.append(line)
    for fact in facts:
        begun = fact[:-2]
        if sum(other[: len(begun)] == begun for other in facts) == 1:
            questions.append(((*begun, ANSWER), fact[-2:-1]))
    random.shuffle(facts)
    random.shuffle(questions)
    lines = chain(facts, (line for line, _ in questions))
    return Story(
        tuple(chain.from_iterable(lines)),
        tuple(chain.from_iterable(answer for _, answer in questions)),
    )
