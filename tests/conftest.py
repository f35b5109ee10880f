"""What all tests share: one thread, fixed seeds, and hypothesis without chance or a clock."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():  # kernels are interpreted; they look when they are imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

from inside import (  # noqa: F401
    calls,
    engine_runs,
    every_team,
    kept,
    limits,
    recorded_kernels,
    rehearsals,
    shared_out,
    threads,
    tiles,
    without,
)

# More threads than one change the order of sums, and gain nothing at these sizes.
torch.set_num_threads(1)

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
