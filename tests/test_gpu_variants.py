"""Variants of the whole memory step by the GPU kernels: values, gradients, sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import DEVICE, SMALL_ORDER, assert_as_good_as_torch, poisoned
from states import assert_close, make_cotangents, random_interfaces, run_step, separated_state
from test_variants import assert_sequences_equal_the_reference

from dnc_fast.backends import load_backend
from dnc_fast.backends.step import step_run
from dnc_fast.state import MemorySizes, map_tensors
from dnc_fast.step_options import SIMILARITIES, StepOptions

pytest.importorskip("triton")

from dnc_fast.backends.triton.backend import TritonFusedRun

VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"similarity": kind} for kind in SIMILARITIES[1:]},
    "deallocation": {"deallocate": True},
    "masks": {"masked_lookup": True},
    "masks to zero": {"masked_lookup": True, "mask_floor": 0.0, "similarity": "euclidean"},
    "proportional": {"allocation": "proportional", "allocation_power": 2.5},
    "softmax": {"allocation": "softmax", "allocation_temperature": 0.3},
    "sharpness": {"link_sharpness": True},
    "these three": {"masked_lookup": True, "deallocate": True, "link_sharpness": True},
}
"""Those that the kernels for whole steps know."""

SIZES = {
    "one cell": MemorySizes(1, 1, 1, 1, 1),
    "one program": MemorySizes(2, 5, 3, 2, 1),
    "several heads": MemorySizes(1, 34, 5, 3, 2),
    "full tiles": MemorySizes(1, 64, 8, 4, 1),
}

every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(params=["strips", "tiles"])
def way(request: pytest.FixtureRequest, tiles: Callable[..., None]) -> None:
    """Both implementations; tiles so small that there are several of everything."""
    if request.param == "tiles":
        numbers = {"STEP_NUMBERS": 64, "READ_NUMBERS": 64, "READ_GROUP": 2, "SHARP_CELLS": 16}
        numbers["SMOOTH_CELLS"] = 8
        tiles(SMALL_CELLS=0, **numbers, **SMALL_ORDER)


def assert_step_equals_the_reference(
    sizes: MemorySizes, dtype: torch.dtype, options: dict[str, Any], seed: int = 0
) -> None:
    """float64: equal. float32: as good as plain torch on the same numbers."""
    vector = random_interfaces(1, sizes, seed, **options)[0]
    state = separated_state(sizes, seed)
    given = vector, state, make_cotangents(vector, state, seed, **options)
    given = map_tensors(lambda tensor: tensor.to(DEVICE, dtype), given)
    run = step_run(load_backend("triton"), given[1], StepOptions(**options), steps=1, keep=True)
    assert isinstance(run, TritonFusedRun)
    with poisoned():
        actual = run_step(*given, backend="triton", **options)
    exact = map_tensors(torch.Tensor.double, given)
    exact = run_step(*exact, backend="reference", **options)
    if dtype == torch.float64:
        assert_close(actual, exact, "float64")
    else:
        plain = run_step(*given, backend="reference", **options)
        assert_as_good_as_torch(actual, plain, exact)


@pytest.mark.usefixtures("way")
@every_variant
@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        (sizes, (torch.float64, torch.float32)[place % 2])
        for place, sizes in enumerate(SIZES.values())
    ],
    ids=SIZES,
)
def test_a_step_equals_the_reference(
    sizes: MemorySizes, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    assert_step_equals_the_reference(sizes, dtype, options)


@pytest.mark.usefixtures("way")
@every_variant
@pytest.mark.parametrize("interval", [1, 2])
def test_sequences_equal_the_reference(interval: int, options: dict[str, Any]) -> None:
    """With everything kept, and with matrices rebuilt."""
    options = {"checkpoint_interval": interval, "num_write_heads": 3 - interval, **options}
    assert_sequences_equal_the_reference("triton", options, (3, 2))
