"""How time and memory grow with one letter: points, fitted exponents, and the lower limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..harness.clock import spread
from ..harness.results import Results
from ..harness.sizes import LARGE, in_a_study

LAST = 3
"""How many of the largest points show the trend; the smaller ones show fixed costs."""


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of y ~ x^exponent, by least squares on the logarithms.

    Raises:
        ValueError: there are fewer than two different x, or a number is not positive.
    """
    if len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ValueError(f"a fit needs two different, positive points, got x={x}, y={y}")
    log_x, log_y = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    log_x, log_y = log_x - log_x.mean(), log_y - log_y.mean()
    return ((log_x * log_y).sum() / log_x.square().sum()).item()


class Curve(NamedTuple):
    """The points of a provider or linkage, in rising order of the letter."""

    name: str
    x: list[int]
    y: list[float]

    def exponents(self) -> tuple[float, float] | None:
        """Over all points, and over the last ones; None if there are too few."""
        if len(self.x) < LAST:
            return None
        return exponent(self.x, self.y), exponent(self.x[-LAST:], self.y[-LAST:])


def letters(results: Results) -> list[str]:
    """The letters that grew in a study, with at least two points."""
    names = {r["size"] for r in results.of_kind("time") if in_a_study(r["size"])}
    grown = [name.partition("=")[0] for name in names]
    return [letter for letter in "NTBRW" if grown.count(letter) > 1]


def curves(results: Results, study: str, what: str) -> list[Curve]:
    """The curves of "seconds" or "peak_bytes" in a study, by its name.

    A curve is of a provider, and of a linkage in the study of large memories. There the seconds are
    those of one time step in the fastest round, as rounds are few; elsewhere medians.
    """
    large = study == LARGE
    points: dict[str, list[tuple[int, float]]] = {}
    for record in results.of_kind("time" if what == "seconds" else "peak"):
        if record["size"].startswith(f"{study}=") and what in record:
            value = float(record[what]) if what != "seconds" else spread(record[what]).median
            if large and what == "seconds":
                value = spread(record[what]).least / record["sizes"]["T"]
            name = record.get("linkage", "dense") if large else record["provider"]
            points.setdefault(name, []).append((record["sizes"][study[-1]], value))
    return [
        Curve(name, [x for x, _ in found], [y for _, y in found])
        for name, found in ((name, sorted(found)) for name, found in points.items())
    ]


def limit(results: Results, letter: str) -> Curve:
    """A lower limit for the time of a training step on this machine.

    Moving the fewest possible bytes at the speed of a copy, or running torch's smallest operation
    once for every step in each direction, whichever takes longer.
    """
    points = {}
    for record in results.of_kind("time", op="model"):
        if record["size"].startswith(f"{letter}=") and "seconds" in record:
            moved = record["least_bytes"] / record["copy_bytes_per_second"]
            launched = 2 * record["sizes"]["T"] * record["launch_seconds"]
            points[record["sizes"][letter]] = max(moved, launched)
    return Curve("limit", sorted(points), [points[x] for x in sorted(points)])
