"""Binary mapping: learn a fixed map between two sets of one-hot vectors, a minimal demo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..checks import check_integer
from ..options import option
from .base import BitTask, uniform
from .batch import Batch


@dataclass(frozen=True)
class MappingTask(BitTask):
    """Each step shows one of `num_symbols` symbols; the answer is the symbol it is mapped to.

    The map is a permutation drawn with `map_seed`; it is the same for every batch.
    """

    num_symbols: int = option(8, "symbols on each side of the map")
    length: int = option(4, "symbols shown in a sequence")
    map_seed: int = option(0, "seed of the map")

    def __post_init__(self) -> None:
        for name in ("num_symbols", "length"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("map_seed", self.map_seed, minimum=0)

    def __str__(self) -> str:
        return f"map {self.num_symbols} symbols, {self.length} in a sequence"

    @property
    def input_size(self) -> int:
        return self.num_symbols

    def mapping(self) -> torch.Tensor:
        """(num_symbols) int64: what each symbol is mapped to."""
        generator = torch.Generator("cpu").manual_seed(self.map_seed)
        return torch.randperm(self.num_symbols, generator=generator, device="cpu")

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B sequences, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        shape = (self.length, batch_size)
        device = generator.device
        symbols = uniform(0, self.num_symbols - 1, shape, generator)
        return Batch(
            inputs=F.one_hot(symbols, self.num_symbols).float(),
            targets=F.one_hot(self.mapping().to(device)[symbols], self.num_symbols).float(),
            mask=torch.ones(shape, dtype=torch.bool, device=device),
            lengths=torch.full((batch_size,), self.length, device=device),
        )
