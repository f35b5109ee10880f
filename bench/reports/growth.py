"""How time and memory grow with one letter: points, fitted exponents, and the limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..harness.clock import spread
from ..harness.results import Results
from ..harness.sizes import in_a_study

LAST = 3
"""So many of the largest points show how it goes on; small ones show what every step costs."""


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Of y ~ x^exponent, by least squares on the logarithms.

    Raises:
        ValueError: there are fewer than two different x, or a number is not positive.
    """
    if len(set(x)) < 2 or min(*x, *y) <= 0:
        raise ValueError(f"a fit needs two different, positive points, got x={x}, y={y}")
    log_x, log_y = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    log_x, log_y = log_x - log_x.mean(), log_y - log_y.mean()
    return ((log_x * log_y).sum() / log_x.square().sum()).item()


class Curve(NamedTuple):
    """One provider's points, in rising order of the letter."""

    provider: str
    x: list[int]
    y: list[float]

    def exponents(self) -> tuple[float, float] | None:
        """Over all points, and over the last ones; None where there are too few."""
        if len(self.x) < LAST:
            return None
        return exponent(self.x, self.y), exponent(self.x[-LAST:], self.y[-LAST:])


def letters(results: Results) -> list[str]:
    """The letters that were let grow, with two points at the least."""
    names = {r["size"] for r in results.of_kind("time") if in_a_study(r["size"])}
    grown = [name.partition("=")[0] for name in names]
    return sorted({letter for letter in grown if grown.count(letter) > 1}, key="NTBRW".index)


def curves(results: Results, letter: str, what: str) -> list[Curve]:
    """The curves of "seconds" (medians) or "peak_bytes" against a letter."""
    kind = "time" if what == "seconds" else "peak"
    points: dict[str, list[tuple[int, float]]] = {}
    for record in results.of_kind(kind):
        if record["size"].startswith(f"{letter}=") and what in record:
            value = spread(record[what]).median if what == "seconds" else float(record[what])
            points.setdefault(record["provider"], []).append((record["sizes"][letter], value))
    return [
        Curve(provider, *map(list, zip(*sorted(found), strict=True)))  # type: ignore[arg-type]
        for provider, found in points.items()
    ]


def limit(results: Results, letter: str) -> Curve:
    """The least time of a training step on this machine.

    What must move at the speed of a copy, and the smallest operation once for every step each way,
    whichever takes longer.
    """
    points = {}
    for record in results.of_kind("time", op="model"):
        if record["size"].startswith(f"{letter}=") and "seconds" in record:
            moved = record["least_bytes"] / record["copy_bytes_per_second"]
            launched = 2 * record["sizes"]["T"] * record["launch_seconds"]
            points[record["sizes"][letter]] = max(moved, launched)
    return Curve("limit", sorted(points), [points[x] for x in sorted(points)])
