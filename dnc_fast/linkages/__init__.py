"""Temporal memory linkage: how the memory remembers the order in which its cells were written.

Each linkage is one file: the type of the state's link, the equations, their run over many steps,
forward and backward, and the bytes it takes. Nothing else knows their names.
"""

from __future__ import annotations

from typing import Any

from .base import Linkage, LinkBudget, LinkGradients, LinkRun, LinkSizes
from .dense import DenseLinkage
from .none import NoLinkage
from .separable import SeparableLink, SeparableLinkage
from .sparse import SparseLink, SparseLinkage

LINKAGES: dict[str, Linkage] = {
    linkage.name: linkage
    for linkage in (DenseLinkage(), SparseLinkage(), SeparableLinkage(), NoLinkage())
}
"""`dense`: the link matrix of the paper. `sparse`: K entries of each of its rows. `separable`: the
writes themselves, exact if each writes to one cell. `none`: a link matrix that stays zero."""


def linkage_of(link: Any) -> Linkage:
    """The linkage that a state's link belongs to.

    Raises:
        TypeError: it belongs to none.
    """
    for linkage in LINKAGES.values():
        if isinstance(link, linkage.link_type):
            return linkage
    expected = ", ".join(linkage.link_type.__name__ for linkage in LINKAGES.values())
    raise TypeError(f"state.link must be one of {expected}, got {type(link).__name__}")


__all__ = [
    "LINKAGES",
    "LinkBudget",
    "LinkGradients",
    "LinkRun",
    "LinkSizes",
    "Linkage",
    "SeparableLink",
    "SparseLink",
    "linkage_of",
]
