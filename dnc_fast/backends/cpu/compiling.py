"""When the CPU kernels are compiled; every process loads the same ones in the same order."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from ...kernels.cpu.compile import CACHE, CACHE_FOLDER


def compiled_marker(dtype: torch.dtype, kind: str) -> Path:
    """The file that stands where the kernels of a dtype are compiled and on the disk."""
    return CACHE_FOLDER / f"{str(dtype).removeprefix('torch.')}-{kind}"


def is_compiled(dtype: torch.dtype, kind: str = "step") -> bool:
    """Whether the kernels of a dtype need no compiling in this process."""
    return CACHE and compiled_marker(dtype, kind).exists()


def compile_once(dtype: torch.dtype, kind: str, call: Callable[[torch.dtype], None]) -> None:
    """Have the kernels of a dtype compiled to the disk, once, see `warm_up`, and load them all.

    Kernels share functions, and a process takes each from the kernel that it loads first, so all
    are loaded in one order: else their sums would depend on what was calculated before. Where
    compiling fails, or the disk cannot be written to, this process compiles what it needs.

    Args:
        dtype: of the state.
        kind: one of `warm_up.KINDS`.
        call: calls all kernels of that kind.
    """
    if (dtype, kind) in _done:
        return
    with _lock:
        if (dtype, kind) in _begun:  # by `call`, or by another thread meanwhile
            return
        _begun.add((dtype, kind))
        if CACHE and not is_compiled(dtype, kind):
            name = str(dtype).removeprefix("torch.")
            command = [sys.executable, "-m", f"{__package__}.warm_up", name, kind]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if is_compiled(dtype, kind):
            call(dtype)
        _done.add((dtype, kind))


def compile_here(dtype: torch.dtype, kind: str, call: Callable[[torch.dtype], None]) -> None:
    """Compile the kernels of a kind in this process, to the disk."""
    with _lock:
        _begun.add((dtype, kind))
        call(dtype)
        _done.add((dtype, kind))


_begun: set[tuple[torch.dtype, str]] = set()
_done: set[tuple[torch.dtype, str]] = set()
_lock = threading.RLock()
