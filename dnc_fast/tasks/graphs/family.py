"""The family tree of Graves et al. 2016, figure 2, as couples and their children."""

from __future__ import annotations

from .known import KnownGraph

COUPLES: tuple[tuple[str | None, str | None, tuple[str, ...], tuple[str, ...]], ...] = (
    # father, mother, daughters and sons, each in the order of their numbers
    ("Alan", "Lindsey", ("Charlotte", "Alison"), ("Fergus",)),
    ("Ian", "Jodie", ("Mary", "Becky"), ("Tom",)),
    ("Fergus", "Jane", ("Alice",), ("Bob",)),
    ("Tom", "Charlotte", ("Jo",), ("Mat",)),
    (None, "Alison", ("Nina",), ("Liam",)),
    (None, "Alice", ("Natalie",), ()),
    ("Steve", "Jo", ("Freya",), ("Simon",)),
)


def family_triples() -> list[tuple[str, str, str]]:
    """Edges from each parent to the children, such as Daughter1, and from each child to them."""
    triples = []
    for father, mother, daughters, sons in COUPLES:
        children = [(name, f"Daughter{number}") for number, name in enumerate(daughters, 1)]
        children += [(name, f"Son{number}") for number, name in enumerate(sons, 1)]
        for parent, role in ((father, "Father"), (mother, "Mother")):
            if parent is None:
                continue
            for child, edge in children:
                triples += [(parent, edge, child), (child, role, parent)]
    return triples


FAMILY = KnownGraph.of(family_triples())
