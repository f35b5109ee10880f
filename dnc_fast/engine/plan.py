"""How sequences are run."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..backends import Backend
from ..precision import Precision
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
