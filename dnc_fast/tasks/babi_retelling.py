"""Stories told anew: the same facts in another order, some of them twice."""

from __future__ import annotations

from itertools import chain
from random import Random

from .babi_text import ANSWER, Story

FIXED_FACTS = frozenset({4, 15, 17, 18, 19})
"""Tasks whose sentences hold throughout a story, in whichever order they are told."""


def retell(story: Story, random: Random) -> Story:
    """The story with the sentences before each question in random order.

    After them comes a second telling of some: each with one chance in two, again in random order.
    """
    lines: list[tuple[str, ...]] = []
    facts: list[tuple[str, ...]] = []
    for line in story.lines():
        if line[-1] != ANSWER:
            facts.append(line)
            continue
        again = [fact for fact in facts if random.random() < 0.5]
        lines += random.sample(facts, len(facts)) + random.sample(again, len(again)) + [line]
        facts.clear()
    return Story(tuple(chain.from_iterable(lines)), story.answers)
