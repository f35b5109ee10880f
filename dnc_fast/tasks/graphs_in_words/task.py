"""Graphs in words: hear about a railway or a family in sentences, answer questions on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from random import Random
from typing import ClassVar

import torch

from ...checks import check_choice, check_integer
from ...options import option
from ..base import Task, count, span, uniform
from ..batch import Batch
from ..lessons import RangedTask
from ..stories import Story, StoryTask, Vocabulary, encode
from . import family, railway
from .family import Family, part_of_family, random_family
from .railway import LINES, Railway, part_of_underground, random_railway

VOCABULARY = Vocabulary("railways and families", railway.WORDS | family.WORDS)

KINDS = {"path": "railway", "distance": "railway", "relation": "family"}
"""Each kind of question, and what it is about."""

MAKERS: dict[str, dict[str, Callable[[int, Random], Railway | Family]]] = {
    "random": {"railway": random_railway, "family": random_family},
    "known": {"railway": part_of_underground, "family": part_of_family},
}
MOST = {
    "railway": {"max_nodes": len(railway.STATIONS), "max_links": len(railway.NUMBERS)},
    "family": {"max_nodes": len(family.PEOPLE), "max_links": family.FARTHEST},
}

TOLD = ("twice", "once")

TRIES = 1000
"""How many graphs are drawn at most to find one with questions of as many links as wanted."""
TRIES_TO_ASK = 4
"""How many questions about a graph are drawn at most for each one that is wanted."""


@dataclass(frozen=True)
class GraphsInWordsTask(RangedTask, StoryTask):
    """Sentences about a railway or a family in random order, then questions, in English words.

    The kinds of questions, after sentences such as "Bank is east of Holborn on the Central line."
    and "Jane is the mother of Bob.":

    - path: What is west of Bank on the Central line then north on the Piccadilly line?
    - distance: How many stops is Bank from Holborn?
    - relation: How is Jane related to Bob?

    A path is answered with its stations, a distance with a number, a relation with a word such as
    aunt. A link leads to the next station, to a parent or to a child. Random graphs have random
    names; known ones are connected parts of the Underground and of the family tree of Graves et al.
    2016.
    """

    vocabulary: ClassVar = VOCABULARY
    parts_by: ClassVar[str] = "kind"
    scoring_size: ClassVar[int] = 20  # of graphs of one size
    RANGES: ClassVar = (("min_nodes", "max_nodes"), ("min_links", "max_links"))
    LESSONS: ClassVar = (
        ((3, 4), (1, 1)), ((3, 6), (1, 1)), ((3, 6), (1, 2)), ((4, 8), (1, 2)), ((4, 8), (1, 3)),
        ((4, 8), (1, 4)), ((6, 12), (1, 4)), ((10, 16), (1, 4)), ((10, 21), (1, 4)),
    )  # fmt: skip

    kinds: str = option("all", "kinds of questions, any of path,distance,relation; or all")
    graph: str = option(
        "random", "random graphs, or connected parts of known ones", choices=tuple(MAKERS)
    )
    told: str = option("twice", "each link told from both ends, or from one", choices=TOLD)
    min_nodes: int = option(3, "fewest stations or people")
    max_nodes: int = option(6, "most stations or people")
    min_links: int = option(1, "fewest links from question to answer")
    max_links: int = option(2, "most links from question to answer")
    num_questions: int = option(4, "questions after each story")

    def __post_init__(self) -> None:
        check_choice("graph", self.graph, tuple(MAKERS))
        check_choice("told", self.told, TOLD)
        check_integer("num_questions", self.num_questions, minimum=1)
        check_integer("min_nodes", self.min_nodes, minimum=2)
        self.check_ranges()
        for kind in self.chosen:
            check_choice("kinds", kind, tuple(KINDS))
            for name, most in MOST[KINDS[kind]].items():
                if (value := getattr(self, name)) > most:
                    raise ValueError(f"{name} must be at most {most} for {kind!r}, got {value}")

    def __str__(self) -> str:
        links = f"{span(self.min_links, self.max_links)} link{'s' * (self.max_links > 1)}"
        return (
            f"questions of {links} ({', '.join(self.chosen)}) on {self.graph} graphs of "
            f"{span(self.min_nodes, self.max_nodes)} nodes"
        )

    @property
    def chosen(self) -> tuple[str, ...]:
        """The kinds of questions that are named."""
        return tuple(KINDS) if self.kinds == "all" else tuple(self.kinds.split(","))

    @property
    def asked(self) -> tuple[str, ...]:
        """Those that are asked; beside others, no distances where they would all be the same."""
        if self.min_links < self.max_links:
            return self.chosen
        return tuple(kind for kind in self.chosen if kind != "distance") or self.chosen

    @property
    def memory_load(self) -> int:
        return 2 * self.max_nodes

    def parts(self) -> dict[str, Task]:
        """Each kind of question separately; paths by their length."""
        parts: dict[str, Task] = {}
        for kind in self.asked:
            if kind != "path":
                parts[kind] = replace(self, kinds=kind)
                continue
            for links in range(self.min_links, self.max_links + 1):
                name = f"path of {count(links, 'link')}"
                parts[name] = replace(self, kinds=kind, min_links=links, max_links=links)
        return parts

    def milestones(self) -> dict[str, Task]:
        """Known graphs of the same size, which are never trained on."""
        return {
            f"known graphs, {name}": replace(part, graph="known")
            for name, part in self.parts().items()
        }

    @staticmethod
    def answer_length(question: Sequence[str]) -> int:
        """One station for each line in the question; otherwise one word."""
        return max(1, sum(word in LINES for word in question))

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B stories with the same number of stations or people, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        random = Random(int(uniform(0, 2**62, (), generator)))
        size = random.randint(self.min_nodes, self.max_nodes)
        stories = [self.story(size, random) for _ in range(batch_size)]
        return encode(stories, VOCABULARY, generator.device)

    def story(self, size: int, random: Random) -> Story:
        """A story with its questions; all kinds of questions are equally likely.

        Raises:
            ValueError: the graphs are too small for the links.
        """
        topic = KINDS[random.choice(self.asked)]
        kinds = [kind for kind in self.asked if KINDS[kind] == topic]
        links, most = (self.min_links, self.max_links), TRIES_TO_ASK * self.num_questions
        for _ in range(TRIES):
            graph = MAKERS[self.graph][topic](size, random)
            tried = (graph.ask(random.choice(kinds), links, random) for _ in range(most))
            questions = list(islice(filter(None, tried), self.num_questions))
            if len(questions) == self.num_questions:
                pairs = graph.tell()
                if self.told == "once":
                    facts = [random.choice(pair) for pair in pairs]
                else:
                    facts = list(chain.from_iterable(pairs))
                return Story.of(random.sample(facts, len(facts)), questions)
        raise ValueError(
            f"min_links must be no more than graphs of {size} nodes allow, got {self.min_links}; "
            "raise min_nodes"
        )
