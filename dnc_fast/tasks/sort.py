"""Sort: see numbers, then name their places from the least on (Vinyals et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import check_integer
from ..options import option
from .base import ClassTask, random_shares, span, uniform
from .batch import Batch


@dataclass(frozen=True)
class SortTask(ClassTask):
    """n numbers, uniform in [0, 1), a number at a step; then n steps without input.

    The input is the number, and one in a second channel that says that there is a number. Answer k
    is the place, of `max_items`, of the k-th least number. n is uniform in [min_items, max_items].
    """

    unit = "place"
    published = ("right", "solved")

    min_items: int = option(5, "fewest numbers")
    max_items: int = option(5, "most numbers")

    def __post_init__(self) -> None:
        check_integer("min_items", self.min_items, minimum=1)
        check_integer("max_items", self.max_items, minimum=self.min_items)

    def __str__(self) -> str:
        return f"sort {span(self.min_items, self.max_items)} numbers"

    @property
    def input_size(self) -> int:
        return 2

    @property
    def output_size(self) -> int:
        return self.max_items

    @property
    def memory_load(self) -> int:
        return self.max_items

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        items = uniform(self.min_items, self.max_items, (batch_size,), generator)
        numbers = random_shares((self.max_items, batch_size), generator)
        clock = torch.arange(2 * self.max_items, device=items.device).unsqueeze(1)
        shown, answer = clock < items, (clock >= items) & (clock < 2 * items)
        present = shown[: self.max_items]
        order = numbers.masked_fill(~present, 2.0).argsort(0)  # what is not there comes last
        places = order.gather(0, (clock - items).clamp(0, self.max_items - 1))
        inputs = numbers.new_zeros(len(clock), batch_size, 2)
        inputs[: self.max_items] = torch.stack([numbers * present, present.float()], -1)
        steps = int(2 * items.max())
        return Batch(
            inputs=inputs[:steps],
            targets=(F.one_hot(places, self.max_items) * answer.unsqueeze(-1)).float()[:steps],
            mask=answer[:steps],
            lengths=2 * items,
        )
