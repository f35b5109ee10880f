"""The stories of a part of the files, ordered by length, and how often each is drawn."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..stories import Story
from .drill import FIXED_FACTS
from .files import read_stories
from .names import Kinds, names_of

VALIDATION_SHARE = 0.1
"""The last stories of each training file, which decide when to stop (Graves et al. 2016: 10 %)."""
LIKE_LENGTHS = 1.15
"""The stories of a batch differ in length by this factor at most."""


class Library(NamedTuple):
    """Stories from short to long.

    names: those that may be swapped in each story.
    fixed: whether each story may be drilled.
    weights: (stories) how often each is drawn, such that all tasks are equally likely.
    groups: for each group of similar length the place of its first story and the end.
    group_weights: (groups) how often each group is drawn.
    """

    stories: list[Story]
    names: list[Kinds]
    fixed: list[bool]
    weights: Tensor
    groups: list[tuple[int, int]]
    group_weights: Tensor

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """The places of random stories of one group, with replacement."""
        first, last = self.groups[int(_draw(self.group_weights, 1, generator))]
        return (first + _draw(self.weights[first:last], count, generator)).tolist()


@lru_cache(maxsize=64)
def make_library(
    data: str, files: str, numbers: tuple[int, ...], part: str, max_questions: int
) -> Library:
    """The stories of a part in order of length.

    Raises:
        StoryError: a file does not follow the format.
        ValueError: a training file has too few stories for the part.
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


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Places drawn with replacement in proportion to their weights; (count) int64."""
    weights = weights.to(generator.device)
    return torch.multinomial(weights, count, replacement=True, generator=generator)
