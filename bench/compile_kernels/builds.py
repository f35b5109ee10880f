"""Kernels to compile: those of all launches, each once, and the compiler's call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from dnc_fast.kernels.gpu import launch

from .calls import SIZES, Call, all_calls, module

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
"""Triton's names for pointers."""


class TorchKernels(TorchDispatchMode):
    """Counts torch's operations that launch a kernel: all but views and empty tensors."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aliases = [result.alias_info for result in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        self.count += not (view or "empty" in func._schema.name)
        return func(*args, **(kwargs or {}))


def recorded(call: Call) -> tuple[list[launch.Launch], int]:
    """The launches of a call, and how many kernels of torch it also runs."""
    with torch.no_grad(), TorchKernels() as torch_kernels, launch.recorded() as launches:
        call.function(*call.arguments)
    return launches, torch_kernels.count


class Build(NamedTuple):
    """What is compiled for a launch; equal ones compile to the same."""

    file: str
    kernel: str
    types: tuple[str, ...]
    known: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return f"{self.file}.{self.kernel}"


def argument_type(value: Any) -> tuple[str, str]:
    """An argument's type, and what the compiler may assume about it, in Triton's letters.

    D: divisible by 16. S: at most 2 GiB, which matters on AMD.
    """
    if isinstance(value, Tensor):
        known = "D" if value.storage_offset() * value.element_size() % 16 == 0 else ""
        within = value.untyped_storage().nbytes() < 2**31
        return POINTERS[value.dtype], known + ("S" if within else "")
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64", "D" if value % 16 == 0 else ""
    raise TypeError(f"a kernel was given {value!r}, which argument_type does not know")


def build_of(found: launch.Launch) -> Build:
    """What is compiled for a launch."""
    kernel = found.kernel
    types, known = zip(*map(argument_type, found.arguments), strict=True)
    options = {"num_warps": found.num_warps, "enable_fp_fusion": found.enable_fp_fusion}
    constants = {}
    for name, value in found.constants.items():
        (constants if name in kernel.arg_names else options)[name] = value
    file = kernel.__module__.rpartition(".")[2]
    return Build(
        file, kernel.__name__, types, known, tuple(constants.items()), tuple(options.items())
    )


def compiled(build: Build, target: str) -> Any:
    """A kernel compiled for a target; from Triton's cache if it is there."""
    kernel, machine = getattr(module(build.file), build.kernel), TARGETS[target]
    constants = dict(build.constants)
    signature = dict(zip(kernel.arg_names, build.types, strict=False)) | dict.fromkeys(
        constants, "constexpr"
    )
    parse = make_backend(machine).parse_attr
    attributes = {(place,): parse(known) for place, known in enumerate(build.known)}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=machine, options=dict(build.options))


def collect(
    sizes: Iterable[str], dtype: torch.dtype, orders: Iterable[str]
) -> tuple[dict[Build, dict[str, Any]], list[dict[str, Any]]]:
    """Every build of some `SIZES` with its calls and sizes, and the launches of each call."""
    uses: dict[Build, dict[str, Any]] = {}
    counts = []
    for size in sizes:
        for call in all_calls(SIZES[size], dtype, orders):
            launches, torch_kernels = recorded(call)
            for build in map(build_of, launches):
                use = uses.setdefault(build, {"backward": call.backward, "calls": [], "sizes": []})
                use["backward"] &= call.backward  # if both use it, the stricter limit applies
                for field, value in (("calls", call.name), ("sizes", size)):
                    if value not in use[field]:
                        use[field].append(value)
            counts.append(
                {"call": call.name, "backward": call.backward, "size": size,
                 "launches": len(launches), "torch_kernels": torch_kernels}
            )  # fmt: skip
    return uses, counts
