"""In what a whole step may differ from the paper's, as constants of its kernels."""

from __future__ import annotations

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """What a step does otherwise than the paper's; see the reference for the equations.

    | field      | constant   | meaning                                                            |
    |------------|------------|--------------------------------------------------------------------|
    | deallocate | DEALLOCATE | freed cells are erased before the write                            |
    """

    deallocate: bool = False

    def constants(self) -> dict[str, Any]:
        """By the names that kernels give them; with the paper's, they compile to its step."""
        return {name.upper(): value for name, value in self._asdict().items()}


PAPER = Variant()
