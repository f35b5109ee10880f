"""Which backend runs: what is installed, what each can take, and why another is taken."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from functools import cache

import torch
from torch.autograd import forward_ad

from ..checks import check_choice

BACKENDS = ("auto", "reference", "eager", "cpu", "triton")
"""What `backend=` may be; `auto` takes the fastest that can run where the tensors are."""

VARIABLE = "DNC_FAST_BACKEND"
"""The environment variable that says what `auto` is."""

OLDEST_TRITON = (3, 6)
"""Kernels use what Triton has had since this version."""

OLDEST_CAPABILITY = (8, 0)
"""The CUDA compute capability from which the kernels are compiled and checked."""

FULL_DTYPES = (torch.float32, torch.float64)


@cache
def numba_installed() -> bool:
    """Whether the CPU kernels can be compiled."""
    return importlib.util.find_spec("numba") is not None


@cache
def triton_version() -> str | None:
    """The version of Triton; None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return str(importlib.import_module("triton").__version__)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on a CPU, for tests (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_problem(device: torch.device) -> Exception | None:
    """What to raise where the Triton kernels cannot run on a device; None where they can."""
    version = triton_version()
    if version is None:
        return ModuleNotFoundError(
            'backend "triton" needs Triton, which is not installed; `pip install triton` brings it '
            'on Linux; "eager" runs everywhere'
        )
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return RuntimeError(
            f'backend "triton" needs Triton {oldest} or newer, got {version}; a newer torch brings '
            'one; "eager" runs with any'
        )
    if device.type == "cuda":
        if (
            torch.version.hip is None
            and torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY
        ):
            oldest = ".".join(map(str, OLDEST_CAPABILITY))
            return RuntimeError(
                f'backend "triton" needs a GPU of compute capability {oldest} or newer, got '
                f'{torch.cuda.get_device_name(device)}; use "eager"'
            )
        return None
    if device.type == "cpu" and interpreted():
        return None
    return ValueError(
        f'backend "triton" takes tensors on a CUDA or ROCm device, got {device}; use "auto", or '
        "set TRITON_INTERPRET=1 before the start to test the kernels on a CPU, very slowly"
    )


@cache
def _auto_on_gpu(device: torch.device) -> str:
    """What `auto` is on a CUDA or ROCm device; says once why that is not "triton"."""
    problem = triton_problem(device)
    if problem is None:
        return "triton"
    warnings.warn(f'backend "auto" takes "eager" on {device}: {problem}', stacklevel=4)
    return "eager"


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which needs plain torch."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@torch.compiler.assume_constant_result
def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that runs for a name.

    Args:
        backend: one of `BACKENDS`.
        device: where the state is.
        dtype: of the state.

    Raises:
        ValueError: the name is not one of `BACKENDS`, or that backend cannot take the state.
        RuntimeError: Triton or the GPU is too old for that backend, or torch.func or forward-mode
            differentiation asks for what no backend but the reference can do.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    check_choice("backend", backend, BACKENDS)
    if backend == "auto" and os.environ.get(VARIABLE):
        backend = os.environ[VARIABLE]
        check_choice(VARIABLE, backend, BACKENDS)
    if backend == "auto":
        return "reference" if transformed() else _auto(device, dtype)
    if backend != "reference" and transformed():
        raise RuntimeError(
            f"backend {backend!r} has gradients derived by hand, which torch.func and forward-mode "
            'differentiation cannot go through; backend="reference" can do that'
        )
    if backend in ("eager", "cpu") and dtype not in FULL_DTYPES:
        raise ValueError(
            f'backend {backend!r} takes a state in float32 or float64, got {dtype}; "reference" '
            "takes every float dtype"
        )
    if backend == "cpu" and device.type != "cpu":
        raise ValueError(f'backend "cpu" takes tensors on the cpu, got {device}; use "auto"')
    if backend == "cpu" and not numba_installed():
        raise ModuleNotFoundError('backend "cpu" needs Numba; `pip install numba` brings it')
    if backend == "triton" and (problem := triton_problem(device)) is not None:
        raise problem
    return backend


def _auto(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest backend that takes such a state."""
    full = dtype in FULL_DTYPES
    if device.type == "cuda":
        chosen = _auto_on_gpu(device)
        return chosen if full or chosen == "triton" else "reference"
    if not full or device.type == "meta":
        return "reference"
    return "cpu" if device.type == "cpu" and numba_installed() else "eager"
