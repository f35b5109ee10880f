"""Helpers for tests of GPU kernels: where they run, and how accurate they must be.

Without a GPU they run in Triton's interpreter, which tests/conftest.py switches on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch
from states import named_parts, rms
from torch import Tensor

from dnc_fast.backends import backend_problem

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

needs_triton = pytest.mark.skipif(
    backend_problem("triton", torch.device("cpu"), torch.float32) is not None,
    reason="needs Triton's interpreter",
)

# The relative RMS error that is allowed whatever plain torch's is.
FLOORS = {
    # Sums in another order than torch's: some tens of roundings of 6e-8.
    torch.float32: 2e-6,
    # The rounding of the result itself: half a unit in its last place.
    torch.float16: 2.0**-11,
    # The same. The interpreter cuts off where a GPU rounds, up to a whole unit: of the result, and
    # of weightings that the backward pass reads again.
    torch.bfloat16: 2.0**-8 if DEVICE == "cuda" else 2.0**-6,
}

# The RMS error that is allowed besides: with inputs and cotangents of size one, sums that cancel
# leave half a unit in the last place of one. Half precision is calculated in float32.
ABSOLUTE = 2.0**-24


# Rows, tiles and blocks of the order of allocation so small that there are many of each.
SMALL_ORDER: dict[str, Any] = {
    "ROW_CELLS": 2,
    "ORDER_TILES": {1 << 62: 4},
    "SEARCH_CELLS": 2,
    "SEARCH_TILES": 2,
    "ORDERED_CELLS": 2,
    "ORDER_BLOCK": 4,
}


def error_ratios(actual: Any, plain: Any, exact: Any, name: str = "result") -> dict[str, float]:
    """The error of each part of a nest of tensors, divided by the error that is allowed.

    Args:
        actual: from kernels.
        plain: from plain torch in the same dtype, on the same numbers.
        exact: the same in float64.
    """
    parts, rivals, truths = (dict(named_parts(tree, name)) for tree in (actual, plain, exact))
    assert parts.keys() == rivals.keys() == truths.keys()
    found = {}
    for part, value in parts.items():
        assert value.dtype == rivals[part].dtype and value.shape == truths[part].shape, part
        assert value.isfinite().all(), part
        truth = truths[part].double()
        size, rival = rms(truth), rms(rivals[part].double() - truth)
        allowed = max(FLOORS[value.dtype] * size, ABSOLUTE, 2 * rival)
        # The fewer numbers, the more of both errors is chance.
        allowed *= 1 + 8 / math.sqrt(value.numel())
        found[part] = rms(value.double() - truth) / allowed
    return found


def assert_none_above(most: float, ratios: dict[str, float]) -> None:
    for part, ratio in ratios.items():
        assert ratio <= most, f"{part}: {ratio:.3g} times the error that is allowed"


def assert_as_good_as_torch(
    actual: Any, plain: Any, exact: Any, name: str = "result", slack: float = 1.0
) -> None:
    """The error is at most twice that of plain torch in the same dtype, or negligible."""
    assert_none_above(slack, error_ratios(actual, plain, exact, name))


@contextmanager
def poisoned() -> Iterator[None]:
    """A context in which new tensors hold NaN until they are filled."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def guarded(tensor: Tensor) -> Tensor:
    """The same numbers with NaN before and after them in memory, so that bad reads show."""
    buffer = tensor.new_full((tensor.numel() + 256,), torch.nan)
    inside = buffer[128:-128].view(tensor.shape)
    return inside.copy_(tensor.detach()).requires_grad_(tensor.requires_grad)


def strided(tensor: Tensor) -> Tensor:
    """The same numbers with reversed strides, and NaN between them."""
    axes = list(reversed(range(tensor.dim())))
    reversed_axes = tensor.detach().permute(axes)
    wide = torch.stack([reversed_axes, torch.full_like(reversed_axes, torch.nan)], dim=-1)
    return wide[..., 0].permute(axes).requires_grad_(tensor.requires_grad)


def patch_once() -> None:
    """Halve the interpreter's time: it patches Triton's language again for each function called."""
    from triton import language
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_unless_done(function: Any) -> Any:
        modules = [part for part in (language, language.core) if part in used_by(function)]
        if any(language.core.is_builtin(module.load) for module in modules):
            return patch(function)
        return interpreter._LangPatchScope()

    def used_by(function: Any) -> list[Any]:
        return [part for part in function.__globals__.values() if isinstance(part, ModuleType)]

    interpreter._patch_lang = patch_unless_done


if DEVICE == "cpu" and find_spec("triton") is not None:
    patch_once()
