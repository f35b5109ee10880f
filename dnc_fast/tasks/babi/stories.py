"""Generated stories like those of bAbI, for training without its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from ..stories import ANSWER, Story
from .names import ANIMALS
from .text import VOCABULARY

PEOPLE = ("daniel", "john", "mary", "sandra")
ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
NUMBERS = ("none", "one", "two", "three")
GO = ("went to", "moved to", "journeyed to", "travelled to", "went back to")
TAKE = ("got", "took", "grabbed", "picked up")
LEAVE = ("dropped", "left", "discarded", "put down")
WOMEN = ("emily", "gertrude", "jessica", "winona")
PLURALS = dict(sorted((*ANIMALS, ("sheep", "sheep"))))
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class Teller:
    """Collects the words of a story, sentence by sentence."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._answers: list[str] = []

    def tell(self, sentence: str) -> None:
        """Add a sentence, with its full stop."""
        self._words += VOCABULARY.split(sentence)

    def ask(self, question: str, answer: str) -> None:
        """Add a question, with its question mark, and the word that answers it."""
        self._words += [*VOCABULARY.split(question), ANSWER]
        self._answers.append(answer)

    def story(self) -> Story:
        """The story so far."""
        return Story(tuple(self._words), tuple(self._answers))


class World(Teller):
    """People who walk from room to room, take things and leave them there."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self._random = random
        self.room_of: dict[str, str] = {}
        self.holder_of: dict[str, str] = {}
        self.left_in: dict[str, str] = {}

    def move(self) -> None:
        """Someone goes to another room."""
        person = self._random.choice(PEOPLE)
        room = self._random.choice([room for room in ROOMS if room != self.room_of.get(person)])
        self.room_of[person] = room
        self.tell(f"{person} {self._random.choice(GO)} the {room} .")

    def handle(self) -> None:
        """Someone whose room is known takes a thing there or drops one; if nobody can, a move."""
        taken = [
            (person, thing)
            for person, room in self.room_of.items()
            for thing in THINGS
            if thing not in self.holder_of and self.left_in.get(thing, room) == room
        ]
        held = list(self.holder_of.items())
        choices = [(TAKE, person, thing) for person, thing in taken]
        choices += 2 * [(LEAVE, person, thing) for thing, person in held]
        if not choices:
            return self.move()
        words, person, thing = self._random.choice(choices)
        if words is TAKE:
            self.holder_of[thing] = person
            self.left_in.pop(thing, None)
        else:
            del self.holder_of[thing]
            self.left_in[thing] = self.room_of[person]
        self.tell(f"{person} {self._random.choice(words)} the {thing} there .")

    def move_or_handle(self) -> None:
        """One of the two, equally likely."""
        self._random.choice((self.move, self.handle))()

    def room_of_thing(self, thing: str) -> str | None:
        """Where a thing is, if that is known."""
        if thing in self.holder_of:
            return self.room_of[self.holder_of[thing]]
        return self.left_in.get(thing)


def after_moves(random: Random) -> Iterator[tuple[World, str]]:
    """Five times, after two moves each: the world, and someone who has moved."""
    world = World(random)
    for _ in range(5):
        world.move()
        world.move()
        yield world, random.choice(list(world.room_of))


def one_fact(random: Random) -> Story:
    """Where is a person? Five questions, each after two moves."""
    for world, person in after_moves(random):
        world.ask(f"where is {person} ?", world.room_of[person])
    return world.story()


def two_facts(random: Random) -> Story:
    """Where is a thing? Three questions, each after at least four sentences."""
    world = World(random)
    for _ in range(3):
        for _ in range(4):
            world.move_or_handle()
        while not (known := [thing for thing in THINGS if world.room_of_thing(thing)]):
            world.move_or_handle()
        thing = random.choice(known)
        world.ask(f"where is the {thing} ?", world.room_of_thing(thing) or "")
    return world.story()


def relations(random: Random) -> Story:
    """Three rooms in a row along a compass line, two facts, one question."""
    first, middle, last = random.sample(ROOMS, 3)
    direction = random.choice(list(OPPOSITE))
    pairs = [(first, middle), (middle, last)]  # each `direction` of the next
    teller = Teller()
    for a, b in random.sample(pairs, 2):
        if random.random() < 0.5:
            teller.tell(f"the {a} is {direction} of the {b} .")
        else:
            teller.tell(f"the {b} is {OPPOSITE[direction]} of the {a} .")
    a, b = random.choice(pairs)
    if random.random() < 0.5:
        a, b, direction = b, a, OPPOSITE[direction]
    if random.random() < 0.5:
        teller.ask(f"what is {direction} of the {b} ?", a)
    else:
        teller.ask(f"what is the {a} {direction} of ?", b)
    return teller.story()


def yes_or_no(random: Random) -> Story:
    """Is a person in a room? Five questions, each after two moves; half the answers are yes."""
    for world, person in after_moves(random):
        room = world.room_of[person]
        yes = random.random() < 0.5
        asked = room if yes else random.choice([other for other in ROOMS if other != room])
        world.ask(f"is {person} in the {asked} ?", "yes" if yes else "no")
    return world.story()


def counting(random: Random) -> Story:
    """How many things does a person carry? Four questions, each after three sentences."""
    world = World(random)
    for _ in range(4):
        for _ in range(3):
            world.move_or_handle()
        person = random.choice(list(world.room_of))
        count = list(world.holder_of.values()).count(person)
        world.ask(f"how many objects is {person} carrying ?", NUMBERS[count])
    return world.story()


def deduction(random: Random) -> Story:
    """What is a woman afraid of? Four kinds of animals, each afraid of another; four questions."""
    feared = {
        kind: random.choice([other for other in PLURALS if other != kind]) for kind in PLURALS
    }
    kind_of = {woman: random.choice(list(PLURALS)) for woman in WOMEN}
    facts = [f"{PLURALS[kind]} are afraid of {PLURALS[other]} ." for kind, other in feared.items()]
    facts += [f"{woman} is a {kind} ." for woman, kind in kind_of.items()]
    teller = Teller()
    for fact in random.sample(facts, len(facts)):
        teller.tell(fact)
    for woman in random.choices(WOMEN, k=4):
        teller.ask(f"what is {woman} afraid of ?", feared[kind_of[woman]])
    return teller.story()


MAKERS: dict[int, Callable[[Random], Story]] = {
    1: one_fact,
    2: two_facts,
    4: relations,
    6: yes_or_no,
    7: counting,
    15: deduction,
}
"""Generators of stories by the number of the bAbI task that they imitate."""
