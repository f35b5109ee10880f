"""The interchanges of the London Underground in zone 1, connected along the lines.

Stations without an interchange are left out, so an edge leads to the next interchange on its line.
An edge is named after the line and its direction there, such as "Central East".
"""

from __future__ import annotations

from itertools import pairwise

from .known import KnownGraph

LINES = (
    # line, direction down the list, direction back, and the interchanges in order
    ("Bakerloo", "South", "North",
     "Paddington, Baker Street, Oxford Circus, Piccadilly Circus, Charing Cross, Embankment, "
     "Waterloo, Elephant & Castle"),
    ("Central", "East", "West",
     "Notting Hill Gate, Bond Street, Oxford Circus, Tottenham Court Road, Holborn, Bank, "
     "Liverpool Street"),
    ("Circle", "Clockwise", "Anticlockwise",
     "Paddington, Baker Street, King's Cross St. Pancras, Moorgate, Liverpool Street, "
     "Embankment, Westminster, Victoria, South Kensington, Gloucester Road, Notting Hill Gate, "
     "Paddington"),
    ("Jubilee", "South", "North",
     "Baker Street, Bond Street, Green Park, Westminster, Waterloo, London Bridge"),
    ("Northern (Bank)", "South", "North",
     "Euston, King's Cross St. Pancras, Moorgate, Bank, London Bridge, Elephant & Castle"),
    ("Northern (Charing Cross)", "South", "North",
     "Euston, Warren Street, Tottenham Court Road, Leicester Square, Charing Cross, "
     "Embankment, Waterloo"),
    ("Piccadilly", "East", "West",
     "Earl's Court, Gloucester Road, South Kensington, Green Park, Piccadilly Circus, "
     "Leicester Square, Holborn, King's Cross St. Pancras"),
    ("Victoria", "North", "South",
     "Victoria, Green Park, Oxford Circus, Warren Street, Euston, King's Cross St. Pancras"),
    ("Waterloo & City", "East", "West",
     "Waterloo, Bank"),
)  # fmt: skip


def line_triples() -> list[tuple[str, str, str]]:
    """Each pair of neighbours on each line, in both directions."""
    triples = []
    for line, down, up, names in LINES:
        stations = names.split(", ")
        for here, there in pairwise(stations):
            triples += [(here, f"{line} {down}", there), (there, f"{line} {up}", here)]
    return triples


UNDERGROUND = KnownGraph.of(line_triples())
