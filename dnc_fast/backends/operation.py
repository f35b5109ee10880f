"""A memory step as one operation, for graphs that cannot look into a backend; see `opaque`."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..linkages import LINKAGES, linkage_of
from ..opaque import as_one_operation
from ..state import MemoryState, map_tensors, tensors
from ..step_options import StepOptions
from .autograd import memory_state
from .choice import load_backend


def step_operation(
    backend: str, vector: Tensor, state: MemoryState, options: StepOptions
) -> tuple[Tensor, MemoryState]:
    """`Backend.memory_step` of a backend, by its name."""
    text = options.text(backend=backend, linkage=linkage_of(state.link).name)
    reads, *after = _step([vector, *tensors(state)], text)
    found = iter(after)
    return reads, map_tensors(lambda _: next(found), state)


def shapes_after(state: MemoryState, steps: int) -> list[Tensor]:
    """Empty tensors like those of a state after so many more steps."""
    link = linkage_of(state.link).lengthened(state.link, steps)
    whole = torch.contiguous_format
    after = tensors(state._replace(link=link))
    return [torch.empty_like(tensor, memory_format=whole) for tensor in after]


class _Text(NamedTuple):
    """What the text of an operation says."""

    backend: str
    link_type: type
    options: StepOptions


@cache
def _read(text: str) -> _Text:
    read = json.loads(text)
    link_type = LINKAGES[read["linkage"]].link_type
    return _Text(read["backend"], link_type, StepOptions.of(read))


def _run(given: list[Tensor], text: str) -> list[Tensor]:
    backend, link_type, options = _read(text)
    vector, *parts = given
    state = memory_state(link_type, parts)
    with torch.autocast(vector.device.type, enabled=False):
        return [*tensors(load_backend(backend).memory_step(vector, state, options))]


def _fake(given: list[Tensor], text: str) -> list[Tensor]:
    state = memory_state(_read(text).link_type, given[1:])
    (B, _, W), R = state.memory.shape, state.read_weights.shape[1]
    return [state.memory.new_empty(B, R, W), *shapes_after(state, 1)]


_step = as_one_operation("step", _run, _fake)
