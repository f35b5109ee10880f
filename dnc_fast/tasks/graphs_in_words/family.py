"""People and their parents, told and asked in words.

Random families shuffle the names of women, and those of men, so a name tells a person's sex.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from ..graphs.family import COUPLES
from ..stories import Question, Sentence

WOMEN = tuple(
    sorted({name.lower() for _, wife, girls, _ in COUPLES for name in (wife, *girls) if name})
)
MEN = tuple(sorted({name.lower() for man, _, _, boys in COUPLES for name in (man, *boys) if name}))
PEOPLE = (*WOMEN, *MEN)
RELATIONS: dict[tuple[int, int], tuple[str, str]] = {
    (0, 1): ("mother", "father"),
    (1, 0): ("daughter", "son"),
    (0, 2): ("grandmother", "grandfather"),
    (2, 0): ("granddaughter", "grandson"),
    (1, 1): ("sister", "brother"),
    (1, 2): ("aunt", "uncle"),
    (2, 1): ("niece", "nephew"),
    (2, 2): ("cousin", "cousin"),
}
"""What a woman and a man are to someone, by how many generations she or he, and that someone, are
below the ancestor whom they share."""

FARTHEST = max(map(sum, RELATIONS))
WORDS = {*PEOPLE, *["is", "the", "of", "how", "related", "to"]}
WORDS.update(word for pair in RELATIONS.values() for word in pair)


class Family:
    """A family. parents: of each person whose parents are known."""

    def __init__(self, parents: dict[str, tuple[str, ...]]) -> None:
        self.parents = parents
        found = (name for child, pair in parents.items() for name in (child, *pair))
        self.people = list(dict.fromkeys(found))

    def tell(self) -> list[tuple[Sentence, Sentence]]:
        """For each child and parent, what the child is to the parent, and the reverse."""
        return [
            (told(child, (1, 0), parent), told(parent, (0, 1), child))
            for child, pair in self.parents.items()
            for parent in pair
        ]

    def ask(self, kind: str, links: tuple[int, int], random: Random) -> Question | None:
        """How are two people related? None if no two are as many links apart as wanted."""
        other = random.choice(self.people)
        found: dict[int, list[tuple[str, str]]] = {}
        for person in self.people:
            apart = self.related(person, other)
            if apart in RELATIONS and links[0] <= sum(apart) <= links[1]:
                found.setdefault(sum(apart), []).append((person, _word(apart, person)))
        if not found:
            return None
        person, word = random.choice(found[random.choice(list(found))])
        return Question(("how", "is", person, "related", "to", other, "?"), (word,))

    def related(self, person: str, other: str) -> tuple[int, int]:
        """How many generations each of two people is below their nearest common ancestor; (0, 0)
        for the same person, or if there is none."""
        above, over = self.ancestors(person), self.ancestors(other)
        shared = [(above[name], over[name]) for name in above if name in over]
        return min(shared, key=sum, default=(0, 0))

    def ancestors(self, person: str) -> dict[str, int]:
        """The person and all ancestors, each with the number of generations between."""
        found, people = {person: 0}, [person]
        for child in people:
            for parent in self.parents.get(child, ()):
                if parent not in found:
                    found[parent] = found[child] + 1
                    people.append(parent)
        return found


def told(person: str, apart: tuple[int, int], other: str) -> Sentence:
    """What a person is to another, in words."""
    return (person, "is", "the", _word(apart, person), "of", other, ".")


def _word(apart: tuple[int, int], person: str) -> str:
    """What the person is to someone that many generations apart."""
    return RELATIONS[apart][person in MEN]


def random_family(size: int, random: Random) -> Family:
    """Random people who descend from one person or couple."""
    names = random.sample(PEOPLE, len(PEOPLE))
    couples = [[names.pop()]]
    parents: dict[str, list[str]] = {}
    while left := size - (len(PEOPLE) - len(names)):
        pair = random.choice(couples)
        others = [name for name in names if (name in MEN) != (pair[0] in MEN)]
        if len(pair) == 1 and others and left > 1 and random.random() < 0.5:
            pair.append(others[0])
            names.remove(others[0])
        child = names.pop()
        parents[child] = pair
        couples.append([child])
    return Family({child: tuple(pair) for child, pair in parents.items()})


@lru_cache(maxsize=1)
def known_family() -> Family:
    """The family tree of Graves et al. 2016."""
    parents = {}
    for *pair, girls, boys in COUPLES:
        for child in (*girls, *boys):
            parents[child.lower()] = tuple(name.lower() for name in pair if name)
    return Family(parents)


def part_of_family(size: int, random: Random) -> Family:
    """Random people of the known family, connected by parents and children."""
    whole = known_family().parents
    links = [{parent, child} for child, pair in whole.items() for parent in pair]
    chosen = {random.choice(sorted(whole))}
    while len(chosen) < min(size, len(PEOPLE)):
        near = set().union(*(link for link in links if link & chosen)) - chosen
        chosen.add(random.choice(sorted(near)))
    parents = {
        child: known
        for child in whole
        if child in chosen and (known := tuple(name for name in whole[child] if name in chosen))
    }
    return Family(parents)
