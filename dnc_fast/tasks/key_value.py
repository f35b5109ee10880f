"""Key-value recall: see pairs of a key and a value, then answer keys with their values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..checks import check_integer, check_number
from ..options import option
from .base import BitTask, doubling, random_bits, random_shares, span, uniform
from .batch import Batch

MOST_BITS = 62
"""The most bits of a key: as many as fit an int64."""

FIRST_LESSON = 16
"""`max_items` of the first lesson: with fewer pairs there is no need to look up a key."""


@dataclass(frozen=True)
class KeyValueTask(BitTask):
    """n pairs, one a step, then `num_queries` steps that show the key of a pair; answer: its value.

    The input has the bits of a key, the bits of a value, and two cue channels, one for pairs and
    one for queries. The value of a query is blank and is answered on the same step. An episode has
    n + num_queries steps, so n can be as large as the memory. n is uniform in [min_items,
    max_items]. All keys of an episode differ, its values need not; each query asks for any of the
    pairs, all equally likely.
    """

    lengths_by = ("min_items", "max_items")

    min_items: int = option(2, "fewest pairs")
    max_items: int = option(16, "most pairs")
    num_queries: int = option(8, "keys asked for")
    key_bits: int = option(32, "bits in a key")
    value_bits: int = option(8, "bits in a value")

    def __post_init__(self) -> None:
        for name in ("min_items", "num_queries", "value_bits"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("max_items", self.max_items, minimum=self.min_items)
        check_integer("key_bits", self.key_bits, minimum=1)
        least = (2 * self.max_items - 1).bit_length()  # at least twice as many keys as pairs
        check_number("key_bits", self.key_bits, least, MOST_BITS)

    def __str__(self) -> str:
        return (
            f"recall among {span(self.min_items, self.max_items)} pairs of {self.key_bits} and "
            f"{self.value_bits} bits"
        )

    @property
    def input_size(self) -> int:
        return self.key_bits + self.value_bits + 2

    @property
    def output_size(self) -> int:
        return self.value_bits

    @property
    def memory_load(self) -> int:
        return self.max_items

    def lessons(self) -> tuple[KeyValueTask, ...]:
        """The largest number of pairs doubles from lesson to lesson, starting at 16."""
        sizes = doubling(max(self.min_items, FIRST_LESSON), self.max_items)
        return tuple(replace(self, max_items=size) for size in sizes)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        device, queries = generator.device, self.num_queries
        items = uniform(self.min_items, self.max_items, (batch_size,), generator)
        asked = (random_shares((queries, batch_size), generator) * items).long()
        keys = distinct_bits((self.max_items, batch_size), self.key_bits, generator)
        values = random_bits((self.max_items, batch_size, self.value_bits), generator)
        lengths = items + queries

        clock = torch.arange(int(lengths.max()), device=device).unsqueeze(1)
        store = clock < items
        query = (clock >= items) & (clock < lengths)
        number = asked.gather(0, (clock - items).clamp(0, queries - 1))
        number = torch.where(store, clock, number)
        columns = torch.arange(batch_size, device=device)
        key, value = keys[number, columns], values[number, columns]
        cues = torch.stack([store, query], dim=-1).float()
        shown = (store | query).unsqueeze(-1)
        return Batch(
            inputs=torch.cat([key * shown, value * store.unsqueeze(-1), cues], dim=-1),
            targets=value * query.unsqueeze(-1),
            mask=query,
            lengths=lengths,
        )


def distinct_bits(shape: tuple[int, int], bits: int, generator: torch.Generator) -> Tensor:
    """Random vectors of bits (count, B, bits), float32; those of one sequence all differ."""
    numbers = uniform(0, 2**bits - 1, shape, generator)
    while True:
        ordered, order = numbers.sort(dim=0, stable=True)
        again = torch.zeros_like(numbers, dtype=torch.bool)
        again.scatter_(0, order[1:], ordered[1:] == ordered[:-1])
        if not again.any():
            places = torch.arange(bits, device=numbers.device)
            return (numbers.unsqueeze(-1) >> places & 1).float()
        numbers[again] = uniform(0, 2**bits - 1, (int(again.sum()),), generator)
