"""Priority sort: see vectors with priorities; answer the highest in order (Graves et al. 2014)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checks import check_integer
from ..options import option
from .base import VectorTask, random_bits, random_shares
from .batch import Batch


@dataclass(frozen=True)
class PrioritySortTask(VectorTask):
    """`num_items` random vectors with priorities, then the `num_sorted` of highest priority.

    The input has `num_bits` bits, the priority, uniform in [-1, 1), and a recall cue after the last
    vector. On the last `num_sorted` of the num_items + 1 + num_sorted steps the input is blank and
    the targets are the vectors in order of falling priority.
    """

    num_items: int = option(20, "vectors shown")
    num_sorted: int = option(16, "vectors asked for")
    num_bits: int = option(8, "bits in a vector")

    def __post_init__(self) -> None:
        for name in ("num_sorted", "num_bits"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("num_items", self.num_items, minimum=self.num_sorted)

    def __str__(self) -> str:
        return f"sort {self.num_items} vectors of {self.num_bits} bits, answer {self.num_sorted}"

    @property
    def memory_load(self) -> int:
        return self.num_items

    def lessons(self) -> tuple[PrioritySortTask, ...]:
        """Two more vectors in each lesson; the share of them that is asked for stays the same."""
        counts = [*range(2, self.num_items, 2), self.num_items]
        return tuple(
            replace(self, num_items=count, num_sorted=-(-count * self.num_sorted // self.num_items))
            for count in counts
        )

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        shape, device = (self.num_items, batch_size), generator.device
        vectors = random_bits((*shape, self.num_bits), generator)
        priorities = 2 * random_shares(shape, generator) - 1
        order = priorities.argsort(dim=0, descending=True, stable=True)[: self.num_sorted]

        steps = self.num_items + 1 + self.num_sorted
        inputs = vectors.new_zeros(steps, batch_size, self.input_size)
        inputs[: self.num_items, :, : self.num_bits] = vectors
        inputs[: self.num_items, :, self.num_bits] = priorities
        inputs[self.num_items, :, self.num_bits + 1] = 1
        targets = vectors.new_zeros(steps, batch_size, self.num_bits)
        targets[-self.num_sorted :] = vectors[order, torch.arange(batch_size, device=device)]
        mask = torch.arange(steps, device=device) > self.num_items
        return Batch(
            inputs=inputs,
            targets=targets,
            mask=mask.unsqueeze(1).expand(steps, batch_size),
            lengths=torch.full((batch_size,), steps, device=device),
        )
