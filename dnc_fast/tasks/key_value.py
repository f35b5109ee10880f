"""Key-value recall: hear pairs of a key and a value, then keys alone, and say their values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..checks import check_integer, check_number
from .base import SMALL_STEPS, Batch, BitTask, doubling, random_bits, random_shares, uniform

MOST_BITS = 62
"""In a key: int64 holds it."""

FIRST_LESSON = 16
"""The most pairs in the first lesson."""


@dataclass(frozen=True)
class KeyValueTask(BitTask):
    """n pairs, one a step, then `num_queries` steps that show the key of a pair; answer: its value.

    The input has the bits of a key, the bits of a value, and two cue channels: this is a pair, this
    is a query, whose value is blank and is answered on the same step. An episode takes n +
    num_queries steps, so n may be as many as a memory has cells. n is uniform in [min_items,
    max_items]. The keys of an episode differ, its values need not; each query is any of the pairs,
    each as likely.
    """

    min_items: int = field(default=2, metadata={"help": "fewest pairs"})
    max_items: int = field(default=16, metadata={"help": "most pairs"})
    num_queries: int = field(default=8, metadata={"help": "keys asked for"})
    key_bits: int = field(default=32, metadata={"help": "bits in a key"})
    value_bits: int = field(default=8, metadata={"help": "bits in a value"})

    def __post_init__(self) -> None:
        for name in ("min_items", "num_queries", "value_bits"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("max_items", self.max_items, minimum=self.min_items)
        check_integer("key_bits", self.key_bits, minimum=1)
        least = (2 * self.max_items - 1).bit_length()  # twice as many keys as pairs, or more
        check_number("key_bits", self.key_bits, least, MOST_BITS)

    def __str__(self) -> str:
        return (
            f"recall among {self.min_items} to {self.max_items} pairs of {self.key_bits} and "
            f"{self.value_bits} bits"
        )

    @property
    def input_size(self) -> int:
        return self.key_bits + self.value_bits + 2

    @property
    def output_size(self) -> int:
        return self.value_bits

    def lessons(self) -> tuple[KeyValueTask, ...]:
        """The most pairs double from lesson to lesson, from 16 on: few pairs ask for no look-up."""
        sizes = doubling(max(self.min_items, FIRST_LESSON), self.max_items)
        return tuple(replace(self, max_items=size) for size in sizes)

    def model_preset(self) -> dict[str, Any]:
        """As many cells as pairs, so that it costs one to write on a query.

        Nothing but the cells could hold a pair: the controller has no state, and writes are not
        linked in time.
        """
        sizes = {"hidden_size": 128, "cell_size": 40, "num_read_heads": 1}
        kinds = {"controller": "feedforward", "linkage": "none"}
        return {**sizes, "num_cells": self.max_items, **kinds}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Small steps."""
        return SMALL_STEPS

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
    """Random vectors of bits (count, B, bits), float32, no two of a column alike."""
    numbers = uniform(0, 2**bits - 1, shape, generator)
    while True:
        ordered, order = numbers.sort(dim=0, stable=True)
        again = torch.zeros_like(numbers, dtype=torch.bool)
        again.scatter_(0, order[1:], ordered[1:] == ordered[:-1])
        if not again.any():
            places = torch.arange(bits, device=numbers.device)
            return (numbers.unsqueeze(-1) >> places & 1).float()
        numbers[again] = uniform(0, 2**bits - 1, (int(again.sum()),), generator)
