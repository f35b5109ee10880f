"""Checks of a state that a user gives to a model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .config import DNCConfig
from .linkages import LINKAGES, LinkSizes, linkage_of
from .state import (
    DNCState,
    MemoryState,
    check_memory_state,
    map_tensors,
    memory_state_shapes,
    tensors,
)


def check_state_type(state: Any) -> None:
    """Raise unless a user's state is a `DNCState` or None."""
    if state is not None and not isinstance(state, DNCState):
        raise TypeError(
            f"state must be a DNCState or None, got {type(state).__name__}; a DNC's state is "
            "what an earlier call returned, or zero_state(batch_size)"
        )


def check_like(name: str, given: Any, zeros: Any, batch_size: int) -> None:
    """Raise unless a field of a state has the shapes, dtypes and device of the model's zeros."""
    try:
        shapes = map_tensors(_shape, given)
    except TypeError as error:
        raise TypeError(f"state.{name} is not a state: {error}") from None
    _check_shapes(name, shapes, map_tensors(_shape, zeros), batch_size)
    for part, zero in zip(tensors(given), tensors(zeros), strict=True):
        _check_kind(name, part, zero.device, zero.dtype)


def check_memory(
    memory: MemoryState,
    config: DNCConfig,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Raise unless a user's memory fits the model; its number of cells may differ.

    Args:
        memory: what the user gave.
        config: of the model.
        batch_size: B.
        device, dtype: of the model's memory.
    """
    axes = [getattr(part, "ndim", 0) for part in memory] if isinstance(memory, MemoryState) else []
    if axes[:2] == [2, 1]:  # of memory and usage
        raise ValueError(
            f"state must have a batch axis, like the input, got memory {_shape(memory.memory)}; "
            "leave out the input's batch axis too, or start from the state of a batched call"
        )
    N = check_memory_state(memory).num_cells
    given = linkage_of(memory.link).name
    if given != config.linkage:
        raise ValueError(
            f"state.memory.link must have linkage {config.linkage!r} like the model, got {given!r}"
        )
    held = memory.memory.shape[0]
    if held != batch_size:
        hint = "; state.slice_batch(...) takes some of them" if held > batch_size else ""
        raise ValueError(
            f"state must be for {batch_size} sequences, like the input, got one for {held}{hint}"
        )
    sizes, linkage = config.memory_sizes(batch_size, N), LINKAGES[given]
    link_sizes = LinkSizes(batch_size, sizes.num_write_heads, N, config.link_fan_out)
    expected = {**memory_state_shapes(sizes), **linkage.shapes(memory.link, link_sizes)}
    fields = dict(zip(MemoryState._fields, memory, strict=True))
    parts = {**fields, **linkage.tensors(memory.link)}
    shapes = {name: _shape(parts[name]) for name in expected}
    wrong = [name for name in expected if shapes[name] != expected[name]]
    shapes, expected = ({name: of[name] for name in wrong} for of in (shapes, expected))
    _check_shapes("memory", shapes, expected, batch_size)
    _check_kind("memory", memory.memory, device, dtype)  # the other fields match it


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_shapes(name: str, shapes: Any, expected: Any, batch_size: int) -> None:
    """Raise unless a state's field has the expected shapes."""
    if not _equal(shapes, expected):
        raise ValueError(
            f"state.{name} must have shapes {expected} for a batch of {batch_size}, got {shapes}"
        )


def _equal(shapes: Any, expected: Any) -> bool:
    """Whether nests of shapes are equal; torch.compile cannot compare dicts of unknown sizes."""
    if isinstance(shapes, dict) and isinstance(expected, dict):
        same = shapes.keys() == expected.keys()
        return same and all([_equal(part, expected[name]) for name, part in shapes.items()])
    return bool(shapes == expected)


def _check_kind(name: str, part: Tensor, device: torch.device, dtype: torch.dtype) -> None:
    """Raise unless a state's tensor is on the model's device and has the given dtype."""
    if part.device != device:
        raise ValueError(
            f"state.{name} must be on {device} like the model, got {part.device}; "
            f"state.to({str(device)!r}) moves it"
        )
    if part.dtype != dtype:
        way = f"state.{name}.to({dtype}) casts it"
        if name == "controller":
            way = f"cast each of its tensors with .to({dtype})"
        raise ValueError(f"state.{name} must be {dtype} in this model, got {part.dtype}; {way}")
