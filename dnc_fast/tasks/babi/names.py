"""Names in bAbI stories, and how they are swapped: the same story about others elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TypeAlias

from ..stories import Story

Kinds: TypeAlias = "tuple[tuple[tuple[str, ...], ...], ...]"

WOMEN = ("emily", "gertrude", "jessica", "julie", "lily", "mary", "sandra", "winona")
MEN = ("antoine", "bernhard", "bill", "brian", "daniel", "fred", "greg", "jason", "jeff", "john",
       "julius", "sumit", "yann")  # fmt: skip
PLACES = ("bathroom", "bedroom", "cinema", "garden", "hallway", "kitchen", "office", "park",
          "school")  # fmt: skip
ANIMALS = (("cat", "cats"), ("mouse", "mice"), ("wolf", "wolves"))

KINDS: Kinds = (*(tuple((name,) for name in names) for names in (WOMEN, MEN, PLACES)), ANIMALS)
"""Kinds of names; the words of a name (one, or singular and plural) change together.

Women and men are two kinds because of "he" and "she". Sheep are left out because singular and
plural are the same word.
"""
TELLING_PLACES = frozenset({20})
"""Tasks in which the name of a place tells why people go there."""


def names_of(number: int, stories: Iterable[Story]) -> Kinds:
    """The names that the stories of a task use, by kind; only these are swapped."""
    used = {word for story in stories for word in (*story.words, *story.answers)}
    return tuple(
        tuple(name for name in kind if used.issuperset(name))
        for kind in KINDS
        if not (number in TELLING_PLACES and kind[0][0] in PLACES)
    )


def exchange_names(story: Story, kinds: Kinds, random: Random) -> Story:
    """The story with its names randomly permuted within each kind."""
    new: dict[str, str] = {}
    for kind in kinds:
        for old, other in zip(kind, random.sample(kind, len(kind)), strict=True):
            new.update(zip(old, other, strict=True))
    return Story(
        tuple(new.get(word, word) for word in story.words),
        tuple(new.get(word, word) for word in story.answers),
    )
