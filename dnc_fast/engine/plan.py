"""How sequences are run, and where they start."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from ..backends import Backend, load_backend
from ..config import DNCConfig
from ..precision import Precision
from ..state import DNCState, MemorySizes
from ..step_options import StepOptions


class Plan(NamedTuple):
    """How sequences are run; independent of their number and length.

    | field            | what                                                                 |
    |------------------|----------------------------------------------------------------------|
    | backend          | provides the kernels                                                 |
    | options          | options of the memory's steps                                        |
    | in_place         | whether each step writes to few cells, in place in a single memory   |
    | interval         | K; None: see `checkpoint_interval`                                   |
    | checkpoint_dtype | dtype of the link matrices in checkpoints; None for the state's      |
    | precision        | dtypes of the run                                                    |
    | capture          | whether graphs may be captured and replayed, see `captures`          |
    """

    backend: Backend
    options: StepOptions
    in_place: bool
    interval: int | None
    checkpoint_dtype: torch.dtype | None
    precision: Precision
    capture: bool

    @classmethod
    def of(cls, config: DNCConfig, backend: str, precision: Precision) -> Plan:
        """How a model's configuration says, with a backend by its name."""
        return cls(
            backend=load_backend(backend),
            options=config.step_options,
            in_place=config.in_place,
            interval=config.checkpoint_interval,
            checkpoint_dtype=config.checkpoint_dtype,
            precision=precision,
            capture=config.cuda_graphs,
        )


class Start(NamedTuple):
    """The state before the first step.

    | field     | what                                                                 |
    |-----------|----------------------------------------------------------------------|
    | state     | complete; None: all zeros, which a capture has and need not be given |
    | sizes     | of the memory                                                        |
    | is_matrix | whether its link is a matrix                                         |
    | zeros     | makes the state that is all zeros                                    |
    """

    state: DNCState | None
    sizes: MemorySizes
    is_matrix: bool
    zeros: Callable[[], DNCState]

    def made(self) -> DNCState:
        """The state as tensors."""
        return self.zeros() if self.state is None else self.state
