"""The interchanges of the London Underground's zone 1, and which follows which on each line.

Stations without an interchange are left out, so an edge leads to the next interchange of its line.
An edge's name is its line and the way that it runs there, such as "Central East".
"""

from __future__ import annotations

from itertools import pairwise

from .known_graph import KnownGraph

LINES = (
    # line, the way down the list, the way back, and its interchanges in order
    (
        "Bakerloo",
        "South",
        "North",
        "Paddington, Baker Street, Oxford Circus, Piccadilly Circus, Charing Cross, "
        "Embankment, Waterloo, Elephant & Castle",
    ),
    (
        "Central",
        "East",
        "West",
        "Notting Hill Gate, Bond Street, Oxford Circus, Tottenham Court Road, Holborn, Bank, "
        "Liverpool Street",
    ),
    (
        "Circle",
        "Clockwise",
        "Anticlockwise",
        "Paddington, Baker Street, King's Cross St. Pancras, Moorgate, Liverpool Street, "
        "Embankment, Westminster, Victoria, South Kensington, Gloucester Road, Notting Hill "
        "Gate, Paddington",
    ),
    (
        "Jubilee",
        "South",
        "North",
        "Baker Street, Bond Street, Green Park, Westminster, Waterloo, London Bridge",
    ),
    (
        "Northern (Bank)",
        "South",
        "North",
        "Euston, King's Cross St. Pancras, Moorgate, Bank, London Bridge, Elephant & Castle",
    ),
    (
        "Northern (Charing Cross)",
        "South",
        "North",
        "Euston, Warren Street, Tottenham Court Road, Leicester Square, Charing Cross, "
        "Embankment, Waterloo",
    ),
    (
        "Piccadilly",
        "East",
        "West",
        "Earl's Court, Gloucester Road, South Kensington, Green Park, Piccadilly Circus, "
        "Leicester Square, Holborn, King's Cross St. Pancras",
    ),
    (
        "Victoria",
        "North",
        "South",
        "Victoria, Green Park, Oxford Circus, Warren Street, Euston, King's Cross St. Pancras",
    ),
    (
        "Waterloo & City",
        "East",
        "West",
        "Waterloo, Bank",
    ),
)


def line_triples() -> list[tuple[str, str, str]]:
    """Each pair of neighbours on each line, both ways."""
    triples = []
    for line, down, up, names in LINES:
        stations = names.split(", ")
        for here, there in pairwise(stations):
            triples += [(here, f"{line} {down}", there), (there, f"{line} {up}", here)]
    return triples


UNDERGROUND = KnownGraph.of(line_triples())
