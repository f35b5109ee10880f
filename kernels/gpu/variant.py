"""How a whole step may differ from the paper's, as constants of its kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays import COSINE, SORTED


class Variant(NamedTuple):
    """How a step differs from the paper's; see the reference for the equations.

    | field          | constant       | meaning                                                    |
    |----------------|----------------|------------------------------------------------------------|
    | deallocate     | DEALLOCATE     | freed cells are erased before the write                    |
    | similarity     | SIMILARITY     | how keys are compared with cells                           |
    | masked         | MASKED         | whether each key has a mask                                |
    | floor          | FLOOR          | the least value of a mask                                  |
    | sharp          | SHARP          | whether forward and backward weightings are sharpened      |
    | smooth         | SMOOTH         | allocation: SORTED, which is 0, PROPORTIONAL or SOFTMAX    |
    | steepness      | STEEPNESS      | power if PROPORTIONAL, 1 / temperature if SOFTMAX          |
    | least_strength | LEAST_STRENGTH | strengths are this plus log(1 + e^x)                       |
    | usage_gradient | USAGE_GRADIENT | whether gradients reach the last write weightings through  |
    |                |                | the usage                                                  |
    |                | VARIED         | whether keys are not compared with cells as in the paper   |
    """

    deallocate: bool = False
    similarity: int = COSINE
    masked: bool = False
    floor: float = 0.0
    sharp: bool = False
    smooth: int = SORTED
    steepness: float = 1.0
    least_strength: float = 1.0
    usage_gradient: bool = True

    @property
    def varied(self) -> bool:
        """Whether keys are not compared with cells as in the paper."""
        return self.masked or self.similarity != COSINE

    def constants(self) -> dict[str, Any]:
        """By their names in kernels; with those of `PAPER`, kernels compile to its step."""
        return {name.upper(): value for name, value in self._asdict().items()} | {
            "VARIED": self.varied
        }


PAPER = Variant()
