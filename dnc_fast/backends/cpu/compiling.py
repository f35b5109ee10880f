"""When the CPU kernels are compiled; every process loads the same ones in the same order."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ...kernels.cpu.compile import CACHE, CACHE_FOLDER


def compiled_marker(dtype: torch.dtype, kind: str) -> Path:
    """The file that marks the kernels of a dtype as compiled and on disk."""
    return CACHE_FOLDER / f"{str(dtype).removeprefix('torch.')}-{kind}"


def is_compiled(dtype: torch.dtype, kind: str = "step") -> bool:
    """Whether the kernels of a dtype are on disk already."""
    return CACHE and compiled_marker(dtype, kind).exists()


def compile_once(dtype: torch.dtype, kind: str, call: Callable[[torch.dtype], None]) -> None:
    """Compile the kernels of a dtype to disk once, see `warm_up`, and load them all.

    Kernels share functions, and a process takes each from the kernel that it loads first. So all
    are loaded in one order; otherwise their sums would depend on what ran before. If compiling
    fails, or the disk is not writable, this process compiles what it needs.

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
            with _plain_torch():
                call(dtype)
        _done.add((dtype, kind))


@contextmanager
def _plain_torch() -> Iterator[None]:
    """Calls of kernels do not depend on what the user's code has set around the first forward."""
    with torch.device("cpu"), torch.inference_mode(False), torch.enable_grad():
        yield


def compile_here(dtype: torch.dtype, kind: str, call: Callable[[torch.dtype], None]) -> None:
    """Compile the kernels of a kind in this process, and store them on disk."""
    with _lock:
        _begun.add((dtype, kind))
        call(dtype)
        _done.add((dtype, kind))


_begun: set[tuple[torch.dtype, str]] = set()
_done: set[tuple[torch.dtype, str]] = set()
_lock = threading.RLock()
