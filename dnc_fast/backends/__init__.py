"""The memory step by backend: the only interface between the maths and everything above it.

`reference` is autograd through the paper's equations. Every other one is a `Backend`: the same
step with a hand-derived backward.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..checks import check_tensor
from ..interface import Interface, parse_interface
from ..opaque import is_traced, refuse_jit_trace
from ..options import read_options, takes_options
from ..reference import Weightings
from ..state import MemoryState, check_memory_state, sizes_of
from ..step_options import PAPER, StepOptions
from .base import FULL_DTYPES, Backend, full_dtype
from .choice import (
    REGISTRY,
    VARIABLE,
    Registered,
    backend_names,
    backend_problem,
    load_backend,
    resolve_backend,
)
from .operation import step_operation

__all__ = [
    "FULL_DTYPES",
    "REGISTRY",
    "VARIABLE",
    "Backend",
    "Registered",
    "backend_names",
    "backend_now",
    "backend_problem",
    "inspected_step",
    "load_backend",
    "memory_step",
    "resolve_backend",
    "unchecked_step",
]


@takes_options(StepOptions, [one.name for one in fields(StepOptions)])
def memory_step(
    interface: Tensor, state: MemoryState, *, backend: str = "auto", **options: Any
) -> tuple[Tensor, MemoryState]:
    """One step of the external memory: write, then read (Graves et al. 2016, Methods).

    All sizes and the linkage are inferred from the state. The arithmetic is in the state's dtype,
    but at least in float32, also under autocast.

    Args:
        interface: (B, R W + R + Hw (3 W + 3) + R + R (1 + 2 Hw)), the controller's raw vector in
            the order of `dnc_fast.interface`, before any activation; with masked_lookup and
            link_sharpness longer by (R + Hw) W and 2 R Hw.
        state: the memory after the previous step; `MemoryState.zeros(...)` before the first.
        backend: one of `backend_names()`, see `DNC`.
        usage_order, read_topk, write_topk, link_threshold, link_unit_sums, link_history,
            similarity, allocation, allocation_power, allocation_temperature, masked_lookup,
            mask_floor, deallocate, link_sharpness, strengths, usage_gradient: see `DNC`.

    Returns:
        read vectors (B, R, W) and the state after the step, both in the state's dtype.

    Raises:
        TypeError: an argument has the wrong type, or its dtype is not floating-point.
        ValueError: a shape, dtype, device or name is wrong, or the interface is not finite
            (checked on a CPU only: elsewhere the check would have to wait for the device).
        ModuleNotFoundError: the backend needs a package that is not installed.
        RuntimeError: from a backward pass that is to be differentiated again (create_graph=True),
            unless by the reference.
    """
    refuse_jit_trace()
    chosen = read_options(StepOptions, also=("backend",), given=options) if options else PAPER
    B, _, W, R, Hw = check_memory_state(state)
    check_tensor("interface", interface, state.memory.device)
    expected = (B, chosen.interface_length(W, R, Hw))
    if tuple(interface.shape) != expected:
        raise ValueError(
            f"interface must have shape {expected} for a state with B={B}, W={W}, R={R}, Hw={Hw}, "
            f"got {tuple(interface.shape)}"
        )
    return unchecked_step(interface, state, backend, chosen)


def backend_now(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """`resolve_backend` for a single step or part, which torch.compile may be compiling.

    There "auto" is the reference, unless the kernels are ops that can be part of a graph.
    """
    name = resolve_backend(backend, device, dtype)
    if backend == "auto" and name != "triton" and is_traced():
        return "reference"
    return name


def unchecked_step(
    vector: Tensor, state: MemoryState, backend: str, options: StepOptions
) -> tuple[Tensor, MemoryState]:
    """`memory_step` without the checks of its tensors."""
    name = backend_now(backend, state.memory.device, state.memory.dtype)
    if name == "reference":
        read_vectors, new_state, _, _ = inspected_step(vector, state, options)
        return read_vectors, new_state
    loaded = load_backend(name)
    if is_traced() and not loaded.step_is_operation(state, options):
        return step_operation(name, vector, state, options)
    return loaded.memory_step(vector, state, options)


def inspected_step(
    vector: Tensor, state: MemoryState, options: StepOptions
) -> tuple[Tensor, MemoryState, Interface, Weightings]:
    """The reference step without checks; also returns its interface and weightings."""
    dtype = state.memory.dtype
    arithmetic = full_dtype(dtype)
    _, _, W, R, Hw = sizes_of(state)
    meta = vector.device.type == "meta"  # which has no autocast
    with nullcontext() if meta else torch.autocast(vector.device.type, enabled=False):
        interface = parse_interface(
            vector.to(arithmetic), W, R, Hw, options.strengths, options.extras
        )
        read_vectors, new_state, weightings = reference.memory_step(
            interface, state if dtype == arithmetic else state.to(arithmetic), options
        )
    if dtype != arithmetic:
        read_vectors, new_state = read_vectors.to(dtype), new_state.to(dtype)
    return read_vectors, new_state, interface, weightings
