"""How sequences are run."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..backends import Backend
from ..options import StepOptions
from ..precision import Precision


class Plan(NamedTuple):
    """How sequences are run, whatever their number and length.

    | field            | what                                                                 |
    |------------------|----------------------------------------------------------------------|
    | backend          | whose kernels are used                                               |
    | options          | of the memory's steps                                                |
    | in_place         | whether steps write to few cells, in one memory for all of them      |
    | interval         | K; None for the rule of `checkpoint_interval`                        |
    | checkpoint_dtype | of the link matrices of checkpoints; None for the state's            |
    | precision        | of the run                                                           |
    | capture          | whether graphs may be captured and replayed, see `captures`          |
    """

    backend: Backend
    options: StepOptions
    in_place: bool
    interval: int | None
    checkpoint_dtype: torch.dtype | None
    precision: Precision
    capture: bool
