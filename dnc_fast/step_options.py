"""The options of a memory step: where it may differ from the paper."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from .checks import check_choice, check_flag, check_integer, check_number
from .interface import STRENGTHS, Extras, interface_size
from .kernels.arrays import ALLOCATIONS, SIMILARITIES
from .options import option
from .untraced import constant

Options = TypeVar("Options", bound="StepOptions")

USAGE_ORDERS = ("exact", "robust")
"""`exact`: by usage. `robust`: by usage rounded to a coarse grid. Ties by index in both."""


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The options of a memory step; the linkage follows from the state's link.

    | option          | meaning                                                                   |
    |-----------------|---------------------------------------------------------------------------|
    | usage_order     | one of `USAGE_ORDERS`: how cells are ordered for allocation               |
    | read_topk       | entries kept of a read weighting, see `keep_largest`; None for all        |
    | write_topk      | likewise for a write weighting                                            |
    | link_threshold  | entries of a sparse link matrix below this are dropped; None for 1 / K,   |
    |                 | 0 drops none                                                              |
    | link_unit_sums  | whether a sparse link matrix is updated with weightings scaled to sum to  |
    |                 | one, as in the paper, even when the write gate is closed                  |
    | link_history    | maximum number of writes that a separable link holds                      |
    | similarity      | one of `SIMILARITIES`: how keys are compared with cells                   |
    | allocation      | one of `ALLOCATIONS`: how free cells share new content                    |
    | allocation_power | p of the proportional allocation, at least 1                             |
    | allocation_temperature | of the softmax allocation, above 0                                 |
    | masked_lookup   | whether each key has a mask, for itself and the cells                     |
    | mask_floor      | the least value of a mask, below 1                                        |
    | deallocate      | whether freed cells are erased                                            |
    | link_sharpness  | whether forward and backward weightings are sharpened                     |
    | strengths       | one of `STRENGTHS`: the activation of strengths                           |
    | usage_gradient  | whether gradients reach the last write weightings through the usage       |

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    usage_order: str = option("exact", "how cells are ordered for allocation", choices=USAGE_ORDERS)
    read_topk: int | None = option(None, "keep only this many entries of a read weighting")
    write_topk: int | None = option(None, "keep only this many entries of a write weighting")
    link_threshold: float | None = option(
        None, "drop entries of a sparse link matrix below this (default: 1 / K)"
    )
    link_unit_sums: bool = False
    link_history: int = option(1024, "maximum number of writes that a separable link holds")
    similarity: str = option("cosine", "how keys are compared with cells", choices=SIMILARITIES)
    allocation: str = option("sorted", "how free cells share new content", choices=ALLOCATIONS)
    allocation_power: float = option(1.0, "power of the proportional allocation")
    allocation_temperature: float = option(0.01, "temperature of the softmax allocation")
    masked_lookup: bool = option(False, "mask what a key, and the cells, are compared by")
    mask_floor: float = option(0.1, "least value of a mask")
    deallocate: bool = option(False, "erase freed cells")
    link_sharpness: bool = option(False, "sharpen forward and backward weightings")
    strengths: str = option("oneplus", "activation of the strengths of keys", choices=STRENGTHS)
    usage_gradient: bool = True

    def __post_init__(self) -> None:
        check_choice("usage_order", self.usage_order, USAGE_ORDERS)
        for name in ("read_topk", "write_topk"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        if self.link_threshold is not None:
            check_number("link_threshold", self.link_threshold, 0.0, 1.0)
        for name in ("link_unit_sums", "masked_lookup", "deallocate", "link_sharpness"):
            check_flag(name, getattr(self, name))
        check_integer("link_history", self.link_history, minimum=1)
        check_choice("similarity", self.similarity, SIMILARITIES)
        check_choice("allocation", self.allocation, ALLOCATIONS)
        check_number("allocation_power", self.allocation_power, 1.0)
        check_number("allocation_temperature", self.allocation_temperature, 0.0, above=True)
        check_number("mask_floor", self.mask_floor, 0.0, 1.0)
        if self.mask_floor == 1:
            raise ValueError("mask_floor must be below 1, where a mask hides nothing, got 1")
        check_choice("strengths", self.strengths, STRENGTHS)
        check_flag("usage_gradient", self.usage_gradient)

    @cached_property
    def step_options(self) -> StepOptions:
        """The step options alone, without those that a subclass adds."""
        return StepOptions(**{one.name: getattr(self, one.name) for one in fields(StepOptions)})

    @constant
    def text(self, **others: Any) -> str:
        """The step options, and what is given besides, as a JSON object; dtypes by their names."""
        own = {one.name: getattr(self, one.name) for one in fields(StepOptions)}
        return json.dumps({**others, **own}, default=str)

    @classmethod
    def of(cls: type[Options], read: dict[str, Any]) -> Options:
        """The options that this class has, of those in a JSON object from `text`."""
        return cls(**{one.name: read[one.name] for one in fields(cls) if one.name in read})

    @property
    def cut_weightings(self) -> bool:
        """Whether any weighting keeps only its largest entries."""
        return self.read_topk is not None or self.write_topk is not None

    @property
    def varied_look_up(self) -> bool:
        """Whether keys are not compared with cells as in the paper."""
        return self.similarity != "cosine" or self.masked_lookup

    @property
    def varied(self) -> bool:
        """Whether the step is one of docs/variants.md."""
        return (
            self.varied_look_up
            or self.allocation != "sorted"
            or self.deallocate
            or self.link_sharpness
        )

    @property
    def as_in_paper(self) -> bool:
        """Whether all equations and gradients of the step are the paper's."""
        return not self.varied and self.strengths == "oneplus" and self.usage_gradient

    @property
    def extras(self) -> Extras:
        """Which parts the interface has besides the paper's."""
        return Extras(self.mask_floor if self.masked_lookup else None, self.link_sharpness)

    def interface_length(self, W: int, R: int, Hw: int) -> int:
        """Length of a step's raw interface vector."""
        return interface_size(W, R, Hw, self.masked_lookup, self.link_sharpness)


PAPER = StepOptions()
"""The step of the paper."""
