"""An episode of a graph task in words: what was told, asked and answered."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .task import Names
from .triples import ANSWER_CUE, BLANK, END, TRIPLE_SIZE, decode_triples, phase_numbers

Triple = tuple[str, str, str]
"""Names of source, edge and destination; "-" for one that is left out."""


class Exchange(NamedTuple):
    """A query and its answer, without the triples that end answers."""

    asked: list[Triple]
    wanted: list[Triple]
    answered: list[Triple]


class Episode(NamedTuple):
    """The triples of an episode by their step, and the exchanges about those that were told.

    told: of the description.
    asked: of the queries.
    answers: the right one and the model's, with those that end answers.
    """

    told: dict[int, Triple]
    asked: dict[int, Triple]
    answers: dict[int, tuple[Triple, Triple]]
    exchanges: list[Exchange]

    @property
    def wanted(self) -> list[Triple]:
        """The triples of all right answers."""
        return [triple for exchange in self.exchanges for triple in exchange.wanted]

    @property
    def answered(self) -> list[Triple]:
        """The triples of all the model's answers."""
        return [triple for exchange in self.exchanges for triple in exchange.answered]

    def words(self, steps: int) -> tuple[list[str], list[str], list[str]]:
        """What is heard, wanted and answered at each of the steps, "" for nothing."""
        answers = self.answers.items()
        kinds = (
            self.told | self.asked,
            {step: wanted for step, (wanted, _) in answers},
            {step: answered for step, (_, answered) in answers},
        )
        heard, wanted, answered = (
            [", ".join(kind.get(step, ())).rstrip(" ,-") for step in range(steps)] for kind in kinds
        )
        return heard, wanted, answered

    def __str__(self) -> str:
        lines = [f"{len(self.told)} triples told"]
        for exchange in self.exchanges:
            lines += [
                f"asked:    {chain(exchange.asked)}",
                f"wanted:   {chain(exchange.wanted)}",
                f"answered: {chain(exchange.answered)}",
            ]
        return "\n".join(lines)


def read_episode(inputs: Tensor, outputs: Tensor, targets: Tensor, names: Names) -> Episode:
    """A sequence in words.

    Args:
        inputs: (T, 92).
        outputs: (T, 90), any range; ignored where the next input shows the action that was taken.
        targets: (T, 90).
        names: what the labels stand for.
    """
    heard = decode_triples(inputs[:, :TRIPLE_SIZE]).tolist()
    said, wanted = decode_triples(outputs).tolist(), decode_triples(targets).tolist()
    phase = phase_numbers(inputs).tolist()
    answering = (inputs[:, ANSWER_CUE] > 0.5).tolist()
    told = {step: named(triple, names) for step, triple in enumerate(heard) if phase[step] == 0}
    asked: dict[int, Triple] = {}
    answers: dict[int, tuple[Triple, Triple]] = {}
    exchanges: list[Exchange] = []
    for step in range(len(told), len(heard)):
        if not answering[step]:
            if any(label != BLANK for label in heard[step]):
                if not exchanges or exchanges[-1].wanted:
                    exchanges.append(Exchange([], [], []))
                asked[step] = named(heard[step], names)
                exchanges[-1].asked.append(asked[step])
        elif wanted[step][0] != BLANK:
            exchange = exchanges[-1]
            goes_on = step + 1 < len(heard) and answering[step + 1]
            acted = heard[step + 1] if goes_on else [BLANK] * 3
            answer = said[step] if acted[0] == BLANK else acted
            answers[step] = named(wanted[step], names), named(answer, names)
            if tuple(wanted[step]) != END:
                exchange.wanted.append(answers[step][0])
            if tuple(answer) != END:
                exchange.answered.append(answers[step][1])
    return Episode(told, asked, answers, exchanges)


def named(triple: list[int], names: Names) -> Triple:
    """Labels by their names; those without a name by their number."""
    if tuple(triple) == END:
        return "end", "-", "-"
    source, edge, end = triple
    return (
        "-" if source == BLANK else names.nodes.get(source, f"#{source}"),
        "-" if edge == BLANK else names.edges.get(edge, f"#{edge}"),
        "-" if end == BLANK else names.nodes.get(end, f"#{end}"),
    )


def chain(triples: list[Triple]) -> str:
    """Triples in one line; a source is left out if it is the destination before."""
    text = ""
    for number, (source, edge, end) in enumerate(triples):
        follows = number and source in ("-", triples[number - 1][2])
        text += "" if follows else f"{'; ' if number else ''}{source}"
        text += f" [{edge}]" if edge != "-" else ""
        text += f" {'to ' if edge == '-' else ''}{end}" if end != "-" else ""
    return text or "nothing"
