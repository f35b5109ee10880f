"""The text of bAbI stories (Weston et al. 2015): words, vocabulary, and the parser of its files.

Each line of a file has a number and a sentence; a question is followed by a tab, its answer, a tab
and the numbers of the sentences that support it. Number 1 begins a new story.
"""

from __future__ import annotations

import re

from ..stories import ANSWER, Story, StoryError, Vocabulary

WORDS = """
    a above afraid after afternoon afterwards and antoine apple are back bathroom bedroom
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
VOCABULARY = Vocabulary("bAbI", WORDS.split())
"""All words of the 20 English tasks in lower case, and three signs."""


def parse_stories(text: str, name: str) -> list[Story]:
    """The stories of a file.

    Args:
        text: the contents of the file.
        name: of the file, for messages.

    Raises:
        StoryError: a line does not follow the format; names file and line.
    """
    stories: list[Story] = []
    words: list[str] = []
    answers: list[str] = []
    number = 0

    def finish(where: str) -> None:
        if not answers:
            raise StoryError(f"{where}: the story that ends here asks no question")
        stories.append(Story(tuple(words), tuple(answers)))
        words.clear()
        answers.clear()

    lines = [line for line in enumerate(text.splitlines(), 1) if line[1].strip()]
    for place, line in lines:
        where = f"{name}, line {place}"
        match = re.fullmatch(r"\s*(\d+) +([^\t]*)(?:\t([^\t]*)(?:\t([^\t]*))?)?", line)
        if not match:
            raise StoryError(
                f"{where}: expected a number, a space and a sentence, after a question also a tab "
                f"and its answer, got {line!r}"
            )
        if int(match[1]) == 1 and number:
            finish(where)
            number = 0
        if int(match[1]) != number + 1:
            expected = f"{number + 1} or 1" if number else "1"
            raise StoryError(f"{where}: expected line number {expected} of a story, got {match[1]}")
        number += 1
        sentence = VOCABULARY.split(match[2])
        if not sentence:
            raise StoryError(f"{where}: expected a sentence after the number, got {line!r}")
        VOCABULARY.check(sentence, where)
        words += sentence
        if match[3] is None:
            if sentence[-1] == "?":
                raise StoryError(
                    f"{where}: expected a tab and an answer after a question, got none"
                )
            continue
        answer = [word.strip().lower() for word in match[3].split(",")]
        VOCABULARY.check(answer, where)
        words += [ANSWER] * len(answer)
        answers += answer
    if not lines:
        raise StoryError(f"{name}: expected stories, got an empty file")
    finish(f"{name}, line {lines[-1][0]}")
    return stories
