"""The one door between the maths and everything above it: the memory step, by backend.

`reference` is autograd through the paper's equations. `eager` (plain torch), `cpu` (compiled by
Numba) and `triton` (kernels for GPUs) are the hand-derived step, forward and backward; each is a
module with the same primitives: `array`, `make_scratch`, `forward`, `rebuild`, `backward`,
`lstm_forward`, `lstm_backward`. `cpu` also has `forward_steps` and `backward_steps`: all steps in
one call.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..checks import check_choice, check_flag, check_integer, check_number, check_tensor
from ..interface import Interface, interface_size, parse_interface
from ..reference import USAGE_ORDERS, StepOptions, Weightings
from ..state import MemoryState, check_memory_state
from .choice import (
    BACKENDS,
    FULL_DTYPES,
    VARIABLE,
    numba_installed,
    resolve_backend,
    triton_problem,
)
from .step import hand_derived_step

__all__ = [
    "BACKENDS",
    "FULL_DTYPES",
    "VARIABLE",
    "composed_parts",
    "inspected_step",
    "memory_step",
    "numba_installed",
    "primitives",
    "resolve_backend",
    "triton_problem",
    "unchecked_step",
]


def primitives(backend: str) -> Any:
    """The module of a hand-derived backend: "eager", "cpu" or "triton"."""
    return importlib.import_module(f"{__name__}.{backend}")


PARTS = {"eager": "plain_parts", "cpu": "cpu_parts", "triton": "triton_parts"}
"""The modules of parts, by backend."""


def composed_parts(backend: str) -> Any:
    """The module of parts with which a backend takes composed steps, see `composed`."""
    return importlib.import_module(f"{__name__}.{PARTS[backend]}")


def memory_step(
    interface: Tensor,
    state: MemoryState,
    *,
    backend: str = "auto",
    usage_order: str = "exact",
    read_topk: int | None = None,
    write_topk: int | None = None,
    link_threshold: float | None = None,
    link_unit_sums: bool = False,
    link_history: int = 1024,
) -> tuple[Tensor, MemoryState]:
    """One step of the external memory: write, then read (Graves et al. 2016, Methods).

    All sizes are inferred from the state, and so is the linkage. The arithmetic is done in the
    state's dtype, in float32 at the least, also under autocast.

    Args:
        interface: (B, R W + R + Hw (3 W + 3) + R + R (1 + 2 Hw)), the controller's raw vector in
            the order of `dnc_fast.interface`, before any activation.
        state: the memory after the step before; `MemoryState.zeros(...)` before the first.
        backend: one of `BACKENDS`.
        usage_order: one of `USAGE_ORDERS`: how cells are ordered for allocation.
        read_topk, write_topk, link_threshold, link_unit_sums, link_history: see `DNC`. Where a
            weighting is cut, or the linkage is not dense, every backend takes the reference here;
            a whole sequence in a `DNC` runs on its kernels.

    Returns:
        read vectors (B, R, W) and the state after the step, both in the state's dtype.

    Raises:
        TypeError: an argument is of the wrong type, or not of a floating-point dtype.
        ValueError: a shape, dtype, device or name does not fit, or the interface is not finite
            (looked at on a CPU only: elsewhere it would wait for the device).
        ModuleNotFoundError: the backend needs a package that is not installed.
    """
    check_choice("usage_order", usage_order, USAGE_ORDERS)
    for name, count in (("read_topk", read_topk), ("write_topk", write_topk)):
        if count is not None:
            check_integer(name, count, minimum=1)
    if link_threshold is not None:
        check_number("link_threshold", link_threshold, 0.0, 1.0)
    check_flag("link_unit_sums", link_unit_sums)
    check_integer("link_history", link_history, minimum=1)
    B, _, W, R, Hw = check_memory_state(state)
    check_tensor("interface", interface, state.memory.device)
    expected = (B, interface_size(W, R, Hw))
    if tuple(interface.shape) != expected:
        raise ValueError(
            f"interface must have shape {expected} for a state with B={B}, W={W}, R={R}, Hw={Hw}, "
            f"got {tuple(interface.shape)}"
        )
    options = StepOptions(
        usage_order, read_topk, write_topk, link_threshold, link_unit_sums, link_history
    )
    return unchecked_step(interface, state, backend, options)


def unchecked_step(
    vector: Tensor, state: MemoryState, backend: str, options: StepOptions
) -> tuple[Tensor, MemoryState]:
    """`memory_step` without the checks of its tensors."""
    backend = resolve_backend(backend, state.memory.device, state.memory.dtype)
    paper = isinstance(state.link, Tensor) and not options.sparse_weightings
    if backend == "reference" or not paper:
        read_vectors, new_state, _, _ = inspected_step(vector, state, options)
        return read_vectors, new_state
    usage_order = options.usage_order
    if backend == "triton":
        from . import triton

        return triton.memory_step(vector, state, usage_order)
    return hand_derived_step(primitives(backend), vector.to(state.memory.dtype), state, usage_order)


def inspected_step(
    vector: Tensor, state: MemoryState, options: StepOptions
) -> tuple[Tensor, MemoryState, Interface, Weightings]:
    """The reference step without the checks, and with what it was told and what it weighed."""
    dtype = state.memory.dtype
    arithmetic = torch.promote_types(dtype, torch.float32)
    _, _, W, R, Hw = state.sizes
    meta = vector.device.type == "meta"  # it knows no autocast
    with nullcontext() if meta else torch.autocast(vector.device.type, enabled=False):
        interface = parse_interface(vector.to(arithmetic), W, R, Hw)
        read_vectors, new_state, weightings = reference.memory_step(
            interface, state if dtype == arithmetic else state.to(arithmetic), options
        )
    if dtype != arithmetic:
        read_vectors, new_state = read_vectors.to(dtype), new_state.to(dtype)
    return read_vectors, new_state, interface, weightings
