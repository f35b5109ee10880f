"""What is compiled for a launch, and the call of the compiler, which needs no device.

Triton compiles a kernel again for every kind of argument: its dtype, whether an address or integer
is divisible by 16, whether an integer is 1. A `Build` says that much about a launch and no more. It
is compiled as a launch would compile it, into the same place of Triton's cache.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.cache import triton_key

from .launch import Launch, on_amd, settle

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
"""The targets for which all kernels are checked; `target_named` knows more."""

NEAR = 2**31
"""Bytes of memory up to which AMD's compiler takes 32-bit offsets."""


def target_named(name: str) -> GPUTarget:
    """The target of a name such as "sm_90" or "gfx942".

    Raises:
        ValueError: it is no such name.
    """
    if found := re.fullmatch(r"sm_(\d{2,3})a?", name):
        return GPUTarget("cuda", int(found[1]), 32)
    if re.fullmatch(r"gfx[0-9a-f]{3,4}", name):
        return GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    raise ValueError(f"target must be named like sm_90 or gfx942, got {name!r}")


def name_of(target: GPUTarget) -> str:
    """The name of a target."""
    return f"sm_{target.arch}" if target.backend == "cuda" else str(target.arch)


class Pointer(NamedTuple):
    """A tensor, as far as the compiler looks at it."""

    dtype: torch.dtype
    aligned: bool
    near: bool

    def tensor(self) -> Tensor:
        """Such a tensor, without data."""
        size = 64 if self.near else NEAR
        return torch.empty(size, dtype=self.dtype, device="meta")[0 if self.aligned else 1 :]


def described(value: Any) -> Any:
    """What stands for an argument: all that compile to the same are described by the same."""
    if isinstance(value, Tensor):
        aligned = value.data_ptr() % 16 == 0
        return Pointer(value.dtype, aligned, value.untyped_storage().nbytes() < NEAR)
    if isinstance(value, bool) or value in (None, 1):
        return value
    if isinstance(value, int):
        least = 16 if value % 16 == 0 else 3
        return least if -NEAR <= value < NEAR else least + 2**40
    if isinstance(value, float):
        return 0.5
    raise TypeError(f"a kernel was given {value!r}, of which it is not known what is compiled")


class Build(NamedTuple):
    """What is compiled for a launch; equal ones compile to the same."""

    module: str
    kernel: str
    arguments: tuple[Any, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}.{self.kernel}"

    def function(self) -> Any:
        """The kernel."""
        return settle(getattr(importlib.import_module(self.module), self.kernel))

    def identity(self, target: GPUTarget) -> str:
        """A name that changes with the kernel's source, the compiler and the target."""
        parts = (compiler_identity(), self.function().cache_key, str(target), repr(self))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def compiler_identity() -> str:
    """A name of the compiler, which differs between versions of Triton and of Python."""
    return hashlib.sha256(triton_key().encode()).hexdigest()


def build_of(launch: Launch) -> Build:
    """What is compiled for a launch."""
    kernel = getattr(launch.kernel, "fn", launch.kernel)
    given = launch._asdict()
    for name in ("kernel", "grid", "arguments", "constants"):
        del given[name]
    options = {name: value for name, value in given.items() if value is not None}
    constants: dict[str, Any] = {}
    for name, value in launch.constants.items():
        (constants if name in launch.kernel.arg_names else options)[name] = value
    return Build(
        kernel.__module__,
        kernel.__name__,
        tuple(map(described, launch.arguments)),
        tuple(sorted(constants.items())),
        tuple(options.items()),
    )


def builds_of(launches: Iterable[Launch]) -> list[Build]:
    """What is compiled for launches, each once, in order."""
    return list(dict.fromkeys(map(build_of, launches)))


class _NoDevice:
    """Stands in for Triton's driver: it only says for what to compile."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return name_of(self._target)  # what is compiled is kept by device

    def get_current_stream(self, device: Any = None) -> int:
        return 0


def without_device(target: GPUTarget) -> None:
    """From now on this process compiles for a target, and can launch nothing."""
    driver.set_active(_NoDevice(target))


def compiled(build: Build) -> Any:
    """A kernel compiled for the present device or `without_device`, or from the cache."""
    arguments = [one.tensor() if isinstance(one, Pointer) else one for one in build.arguments]
    options = dict((*build.constants, *build.options))
    if driver.active.get_current_target().backend == "hip":  # the launches there differ in this
        options = on_amd(options)
    return build.function().warmup(*arguments, grid=(1,), **options)


def build_launcher(kernel: Any) -> None:
    """Compile what launches a compiled kernel, where Triton has a C compiler make that (3.6).

    If it cannot be made here, the first launch makes it, or says why not.
    """
    backend = "nvidia" if kernel.metadata.target.backend == "cuda" else "amd"
    module = importlib.import_module(f"triton.backends.{backend}.driver")
    if hasattr(module, "make_launcher"):
        launcher = module.CudaLauncher if backend == "nvidia" else module.HIPLauncher
        with suppress(Exception):
            launcher(kernel.src, kernel.metadata)
