"""Kernels to compile: those of all launches, each once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnc_fast.kernels.gpu import compile as compiler
from dnc_fast.kernels.gpu import launch
from dnc_fast.kernels.gpu.compile import Build, build_of

from .calls import SIZES, Call, all_calls


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


def compiled(build: Build, target: str) -> Any:
    """A kernel compiled for a target, for which this process then compiles."""
    compiler.without_device(compiler.target_named(target))
    return compiler.compiled(build)


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
