"""Stations and the lines between them, told and asked in words. Lines run both ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from random import Random
from typing import NamedTuple

from ..graphs.underground import LINES as MAP
from ..stories import Question, Sentence

STATIONS = tuple(sorted({name.lower() for *_, names in MAP for name in names.split(", ")}))
LINES = tuple(f"the {line} line".lower() for line, *_ in MAP)
WAYS = (("north", "south"), ("east", "west"), ("clockwise", "anticlockwise"))
OPPOSITE = {a: b for pair in WAYS for a, b in (pair, pair[::-1])}
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
WORDS = {
    *STATIONS,
    *LINES,
    *OPPOSITE,
    *NUMBERS,
    *["what", "how", "many", "stops", "is", "of", "on", "from", "then"],
}


class Way(NamedTuple):
    """One station lies in a direction from another on a line, such as north of it."""

    here: str
    line: str
    direction: str
    there: str

    def back(self) -> Way:
        """The same link from its other end."""
        return Way(self.there, self.line, OPPOSITE[self.direction], self.here)


def told(way: Way) -> Sentence:
    """A way in words."""
    return (way.there, "is", way.direction, "of", way.here, "on", way.line, ".")


class Railway:
    """A network of stations. ways: those out of each station."""

    def __init__(self, links: list[Way]) -> None:
        self.links = links
        self.ways: dict[str, list[Way]] = {}
        for link in links:
            self.ways.setdefault(link.here, []).append(link)
            self.ways.setdefault(link.there, []).append(link.back())

    def tell(self) -> list[tuple[Sentence, Sentence]]:
        """For each link, a sentence from either end."""
        return [(told(link), told(link.back())) for link in self.links]

    def ask(self, kind: str, links: tuple[int, int], random: Random) -> Question | None:
        """A question of one of `KINDS`; None if none has as many links as wanted."""
        return KINDS[kind](self, links, random)

    def path(self, links: tuple[int, int], random: Random) -> Question:
        """Where do some lines lead? The answer is the stations on the way."""
        here = random.choice(list(self.ways))
        asked = ["what", "is"]
        reached: list[str] = []
        for _ in range(random.randint(*links)):
            way = random.choice(self.ways[here])
            start = ("then", way.direction) if reached else (way.direction, "of", here)
            asked += (*start, "on", way.line)
            here = way.there
            reached.append(here)
        return Question((*asked, "?"), tuple(reached))

    def distance(self, links: tuple[int, int], random: Random) -> Question | None:
        """How many links lie between two stations?"""
        here = random.choice(list(self.ways))
        far = self.distances(here)
        found = [number for number in range(links[0], links[1] + 1) if number in far.values()]
        if not found:
            return None
        wanted = random.choice(found)
        there = random.choice([station for station, number in far.items() if number == wanted])
        asked = ("how", "many", "stops", "is", there, "from", here, "?")
        return Question(asked, (NUMBERS[wanted - 1],))

    def distances(self, here: str) -> dict[str, int]:
        """How many links away from a station each station is."""
        found, edge = {here: 0}, [here]
        for station in edge:
            for way in self.ways[station]:
                if way.there not in found:
                    found[way.there] = found[station] + 1
                    edge.append(way.there)
        return found


KINDS: dict[str, Callable[[Railway, tuple[int, int], Random], Question | None]] = {
    "path": Railway.path,
    "distance": Railway.distance,
}


def random_railway(size: int, random: Random) -> Railway:
    """Random stations on random lines of two to four links, some of which meet again."""
    new = random.sample(STATIONS, size)
    reached = [new.pop()]
    links = []
    for left, line in zip(range(len(LINES), 0, -1), random.sample(LINES, len(LINES)), strict=True):
        if not new:
            break
        count = min(max(random.randint(1, 3), -(-len(new) // left)), len(new))
        stops = [random.choice(reached), *new[-count:]]
        del new[-count:]
        if random.random() < 0.5 and (other := random.choice(reached)) != stops[0]:
            stops.append(other)
        reached += stops[1 : count + 1]
        direction = random.choice(list(OPPOSITE))
        links += [Way(here, line, direction, there) for here, there in pairwise(stops)]
    return Railway(links)


@lru_cache(maxsize=1)
def underground() -> Railway:
    """The interchanges of the London Underground in zone 1."""
    links = []
    for (_, direction, _, names), line in zip(MAP, LINES, strict=True):
        for here, there in pairwise(names.lower().split(", ")):
            links.append(Way(here, line, direction.lower(), there))
    return Railway(links)


def part_of_underground(size: int, random: Random) -> Railway:
    """Random connected interchanges of the Underground, with all links among them."""
    whole = underground()
    chosen = [random.choice(STATIONS)]
    while len(chosen) < min(size, len(STATIONS)):
        near = {way.there for here in chosen for way in whole.ways[here]} - {*chosen}
        chosen.append(random.choice(sorted(near)))
    return Railway([link for link in whole.links if {link.here, link.there} <= {*chosen}])
