"""Which backend runs: what "auto" chooses, and why a backend cannot run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from ..checks import check_choice
from ..opaque import is_exported
from ..untraced import constant
from . import cpu, triton
from .base import FULL_DTYPES, Backend

VARIABLE = "DNC_FAST_BACKEND"
"""The environment variable that sets what `auto` means."""


class Registered(NamedTuple):
    """How a backend is loaded, and where "auto" may choose it.

    | field   | what                                                                    |
    |---------|-------------------------------------------------------------------------|
    | load    | creates it, or raises an error that says what is missing                |
    | auto_on | device types on which "auto" may choose it; None: all but "meta"        |
    """

    load: Callable[[], Backend]
    auto_on: tuple[str, ...] | None = ()


REGISTRY: dict[str, Registered] = {
    "triton": Registered(triton.load, auto_on=("cuda",)),
    "cpu": Registered(cpu.load, auto_on=("cpu",)),
    "eager": Registered(Backend, auto_on=None),
}
"""All backends except the reference; "auto" chooses the first that can run."""


def backend_names() -> tuple[str, ...]:
    """The names that `backend=` accepts."""
    return ("auto", "reference", *reversed(REGISTRY))


_found: dict[Callable[[], Backend], Backend | Exception] = {}
"""What `load` functions returned or raised, so a failed import is not retried at every step."""


def _loaded(name: str) -> Backend | Exception:
    """A backend, or the error that says why it is not available."""
    load = REGISTRY[name].load
    if load not in _found:
        try:
            _found[load] = load()
        except (ImportError, RuntimeError) as error:
            _found[load] = error
    return _found[load]


def load_backend(name: str) -> Backend:
    """Load a backend of `REGISTRY` by name.

    Raises:
        ImportError, RuntimeError: a package that it needs is missing or too old.
    """
    found = _loaded(name)
    if isinstance(found, Exception):
        raise found
    return found


def backend_problem(name: str, device: torch.device, dtype: torch.dtype) -> Exception | None:
    """The error to raise if a backend cannot run such a state; None if it can."""
    found = _loaded(name)
    return found if isinstance(found, Exception) else found.problem(device, dtype)


def transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is active; they need plain torch."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@constant
def resolve_backend(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """The name of the backend that will run.

    Args:
        backend: one of `backend_names()`.
        device: where the state is.
        dtype: of the state.

    Raises:
        ValueError: there is no such backend, or it cannot run such a state.
        RuntimeError: Triton or the GPU is too old for that backend, or torch.func or forward-mode
            differentiation is active, which only the reference supports.
        ModuleNotFoundError: it needs a package that cannot be imported.
    """
    check_choice("backend", backend, backend_names())
    if backend == "auto" and is_exported():
        return "reference"  # plain torch, which runs where dnc_fast does not
    if backend == "auto" and os.environ.get(VARIABLE):
        backend = os.environ[VARIABLE]
        check_choice(VARIABLE, backend, backend_names())
    if backend == "auto":
        return "reference" if transformed() else _auto(device, dtype)
    if backend == "reference":
        return backend
    if transformed():
        raise RuntimeError(
            f"backend {backend!r} has hand-derived gradients, which torch.func and forward-mode "
            'differentiation cannot trace; backend="reference" can do that'
        )
    if (problem := backend_problem(backend, device, dtype)) is not None:
        raise problem
    return backend


def _auto(device: torch.device, dtype: torch.dtype) -> str:
    """The first backend that can run such a state.

    Warns once why not a faster one: on a GPU, and where a package is installed but does not work.
    """
    for name, (_, auto_on) in REGISTRY.items():
        if device.type == "meta" or (auto_on is not None and device.type not in auto_on):
            continue
        problem = backend_problem(name, device, dtype)
        if problem is None:
            return name
        broken = isinstance(problem, RuntimeError)
        if (device.type == "cuda" or broken) and dtype in FULL_DTYPES:
            _warn_once(f'backend "auto" does not use {name!r} on {device}: {problem}')
    return "reference"


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=5)
