"""Variants of the whole memory step by the GPU kernels: values, gradients, sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import DEVICE, assert_as_good_as_torch, poisoned
from states import assert_close, make_cotangents, random_interfaces, run_step, separated_state
from test_variants import assert_sequences_equal_the_reference

from dnc_fast.backends import load_backend
from dnc_fast.backends.step import step_run
from dnc_fast.kernels.interface import interface_offsets
from dnc_fast.state import MemorySizes, map_tensors
from dnc_fast.step_options import SIMILARITIES, StepOptions

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.backends.triton.backend import TritonFusedRun

VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"similarity": kind} for kind in SIMILARITIES[1:]},
    "deallocation": {"deallocate": True},
    "masks": {"masked_lookup": True},
    "masks to zero": {"masked_lookup": True, "mask_floor": 0.0, "similarity": "manhattan"},
    "sharpness": {"link_sharpness": True},
    "proportional": {"allocation": "proportional", "allocation_power": 2.5},
    "softmax": {"allocation": "softmax", "allocation_temperature": 0.3},
    "softplus": {"strengths": "softplus"},
    "no usage gradient": {"usage_gradient": False},
    "official": {"strengths": "softplus", "usage_gradient": False},
    "these three": {"masked_lookup": True, "deallocate": True, "link_sharpness": True},
}
VARIANTS["everything"] = (
    VARIANTS["these three"] | VARIANTS["softmax"] | VARIANTS["euclidean"] | VARIANTS["softplus"]
)

SIZES = {
    "strips": {
        "one cell": MemorySizes(1, 1, 1, 1, 1),
        "one program": MemorySizes(2, 5, 3, 2, 1),
        "several heads": MemorySizes(1, 34, 5, 2, 2),
        "full": MemorySizes(1, 64, 8, 3, 1),
    },
    "tiles": {
        "two tiles": MemorySizes(1, 5, 3, 2, 1),
        "several heads": MemorySizes(1, 34, 5, 3, 2),
        "full tiles": MemorySizes(2, 32, 4, 3, 1),
        "one cell": MemorySizes(1, 1, 1, 1, 1),
    },
}
"""By implementation."""

TILES: dict[str, Any] = {
    **{"STEP_NUMBERS": 16, "READ_NUMBERS": 8, "READ_GROUP": 2, "SHARP_CELLS": 4},
    **{"SMOOTH_CELLS": 4, "ROW_CELLS": 4, "ORDER_TILES": {1 << 62: 16}, "SEARCH_TILES": 2},
    **{"ORDERED_CELLS": 4, "ORDER_BLOCK": 16},
}
"""Of all memories but the smallest, several of everything."""


def cases() -> list[Any]:
    """Each variant with a size; with -m full, with all of them."""
    found = []
    for i, name in enumerate(VARIANTS):
        for way, sizes in SIZES.items():
            for k, size in enumerate(sizes):
                few = k == (i % 4 if way == "strips" else 0)
                marks = [] if few else [pytest.mark.full]
                dtype = (torch.float64, torch.float32)[(i + k) % 2]
                given = way, sizes[size], dtype, VARIANTS[name]
                found.append(pytest.param(*given, id=f"{way}, {name}, {size}", marks=marks))
    return found


@pytest.fixture
def way(request: pytest.FixtureRequest, tiles: Callable[..., None]) -> None:
    """Both implementations."""
    if request.param == "tiles":
        tiles(SMALL_CELLS=0, **TILES)


def assert_step_equals_the_reference(
    sizes: MemorySizes,
    dtype: torch.dtype,
    options: dict[str, Any],
    seed: int = 0,
    strengths: float | None = None,
) -> None:
    """float64: equal. float32: as good as plain torch on the same numbers.

    strengths: all of them before their activation; None for random ones.
    """
    vector = random_interfaces(1, sizes, seed, **options)[0]
    if strengths is not None:
        offsets = interface_offsets(*sizes[2:])
        for name, heads in (("read_strengths", sizes[3]), ("write_strengths", sizes[4])):
            vector[:, offsets[name] : offsets[name] + heads] = strengths
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


@pytest.mark.parametrize(("way", "sizes", "dtype", "options"), cases(), indirect=["way"])
def test_a_step_equals_the_reference(
    way: None, sizes: MemorySizes, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    assert_step_equals_the_reference(sizes, dtype, options)


@pytest.mark.parametrize("allocation", ["proportional", "softmax"])
def test_smooth_allocation_in_the_programs_of_other_work(
    allocation: str, tiles: Callable[..., None]
) -> None:
    """As up to 256 cells: in the launch that finds the usage, and in the last one."""
    tiles(SMALL_CELLS=0, SMOOTH_CELLS=4)
    sizes, options = MemorySizes(1, 9, 3, 1, 2), VARIANTS[allocation]
    assert_step_equals_the_reference(sizes, torch.float64, options)


@pytest.mark.parametrize("way", SIZES, indirect=True)
@pytest.mark.parametrize(("dtype", "strengths"), [(torch.float64, -50.0), (torch.float32, -20.0)])
def test_strengths_near_zero(way: None, dtype: torch.dtype, strengths: float) -> None:
    """1 + e^x is 1."""
    sizes = MemorySizes(1, 5, 3, 2, 1)
    assert_step_equals_the_reference(sizes, dtype, VARIANTS["softplus"], strengths=strengths)


def test_with_many_heads(tiles: Callable[..., None]) -> None:
    tiles(SMALL_CELLS=0, **TILES)
    sizes = MemorySizes(1, 9, 3, 5, 3)
    assert_step_equals_the_reference(sizes, torch.float64, VARIANTS["everything"])


@pytest.mark.parametrize(
    ("way", "interval", "variant", "controller"),
    [
        ("strips", 1, "everything", "lstm"),
        ("strips", 2, "these three", "lstm"),
        ("strips", 2, "official", "lstm"),
        ("tiles", 2, "everything", "lstm"),
        ("tiles", 1, "official", "feedforward"),
        pytest.param("tiles", 1, "these three", "lstm", marks=pytest.mark.full),
        pytest.param("tiles", 2, "deallocation", "lstm", marks=pytest.mark.full),
        pytest.param("tiles", 2, "official", "lstm", marks=pytest.mark.full),
        pytest.param("strips", 1, "official", "feedforward", marks=pytest.mark.full),
    ],
    indirect=["way"],
)
def test_sequences_equal_the_reference(
    way: None, interval: int, variant: str, controller: str
) -> None:
    """With everything kept, and with matrices rebuilt."""
    options = {"checkpoint_interval": interval, "num_write_heads": 3 - interval}
    options |= {"controller": controller}
    assert_sequences_equal_the_reference("triton", options | VARIANTS[variant], (3, 2))
