"""The options of a memory step: what may be calculated otherwise than in the paper."""

from __future__ import annotations

from typing import NamedTuple

USAGE_ORDERS = ("exact", "robust")
"""`exact`: by usage. `robust`: by usage rounded to `ROBUST_GRID`. Ties by index in both."""


class StepOptions(NamedTuple):
    """The options of a memory step; the linkage is that of the state's link.

    | option          | what                                                                      |
    |-----------------|---------------------------------------------------------------------------|
    | usage_order     | one of `USAGE_ORDERS`                                                     |
    | read_topk       | entries that a read weighting keeps, see `keep_largest`; None for all     |
    | write_topk      | likewise of a write weighting                                             |
    | link_threshold  | entries of a sparse link matrix below it are dropped; None for 1 / K, 0   |
    |                 | drops none                                                                |
    | link_unit_sums  | whether a sparse link matrix is updated by weightings scaled to sum one,  |
    |                 | as in the paper, even when the write gate is shut                         |
    | link_history    | writes that a separable link holds at most                                |
    """

    usage_order: str = "exact"
    read_topk: int | None = None
    write_topk: int | None = None
    link_threshold: float | None = None
    link_unit_sums: bool = False
    link_history: int = 1024

    @property
    def sparse_weightings(self) -> bool:
        """Whether any weighting keeps only some of its entries."""
        return self.read_topk is not None or self.write_topk is not None


PAPER = StepOptions()
"""The step of the paper."""
