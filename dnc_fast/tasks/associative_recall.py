"""Associative recall: see items, then one of them; answer with the next (Graves et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checks import check_integer
from ..options import option
from .base import VectorTask, random_bits, random_shares, span, uniform
from .batch import Batch


@dataclass(frozen=True)
class AssociativeRecallTask(VectorTask):
    """n items of `item_length` random vectors each, then one of them as a query; answer: the next.

    The input has `num_bits` bits and two cue channels: the first marks the start of each item, the
    second the start and the end of the query, which is any item but the last, all equally likely.
    An episode has (n + 2) (item_length + 1) steps; on the last item_length the input is blank and
    the target is the item that followed the query. n is uniform in [min_items, max_items].
    """

    lengths_by = ("min_items", "max_items")

    min_items: int = option(2, "fewest items")
    max_items: int = option(6, "most items")
    item_length: int = option(3, "vectors in an item")
    num_bits: int = option(6, "bits in a vector")

    def __post_init__(self) -> None:
        check_integer("min_items", self.min_items, minimum=2)
        check_integer("max_items", self.max_items, minimum=self.min_items)
        for name in ("item_length", "num_bits"):
            check_integer(name, getattr(self, name), minimum=1)

    def __str__(self) -> str:
        return (
            f"recall among {span(self.min_items, self.max_items)} items of "
            f"{self.item_length} x {self.num_bits} bits"
        )

    @property
    def memory_load(self) -> int:
        return self.max_items * self.item_length

    def lessons(self) -> tuple[AssociativeRecallTask, ...]:
        """One more item in each lesson."""
        counts = range(self.min_items, self.max_items + 1)
        return tuple(replace(self, max_items=count) for count in counts)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        size = self.item_length
        device = generator.device
        items = uniform(self.min_items, self.max_items, (batch_size,), generator)
        query = (random_shares((batch_size,), generator) * (items - 1)).long()
        vectors = random_bits((self.max_items, size, batch_size, self.num_bits), generator)
        query_cue = items * (size + 1)  # the first of the two
        lengths = query_cue + 2 * (size + 1)

        clock = torch.arange(int(lengths.max()), device=device).unsqueeze(1)
        place = clock % (size + 1)  # 0 on a cue, 1 to size on the vectors after it
        block = clock // (size + 1)
        item_cue = (place == 0) & (clock < query_cue)
        asked = (place == 0) & ((clock == query_cue) | (clock == query_cue + size + 1))
        answer = (place > 0) & (block == items + 1)
        hear = (place > 0) & (block <= items)

        number = torch.where(block == items, query, block)
        number = torch.where(answer, query + 1, number).clamp(max=self.max_items - 1)
        columns = torch.arange(batch_size, device=device)
        shown = vectors[number, (place - 1).clamp(min=0), columns]
        cues = torch.stack([item_cue, asked], -1).float()
        return Batch(
            inputs=torch.cat([shown * hear.unsqueeze(-1), cues], -1),
            targets=shown * answer.unsqueeze(-1),
            mask=answer,
            lengths=lengths,
        )
