"""How the CPU kernels are compiled: by Numba, without the GIL, cached on disk.

Numba reuses a function's cached code while its own file is unchanged, even if a function that it
calls has changed. So the cache folder is named after a hash of all kernels' sources.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.core.config
from numba.core.compiler import Compiler

config: Any = numba.core.config

FASTMATH = {"reassoc", "contract", "nsz"}
"""Flags that let sums be vectorised. NaN and infinity keep their meaning."""


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(config.CACHE_DIR or home / "dnc_fast")
    # Numba separates sources at different paths, and different Pythons.
    folder = Path(__file__).resolve().parent
    digest = hashlib.sha256(f"{numba.__version__} {sys.version} {folder}".encode())
    for source in sorted(folder.glob("*.py")):
        digest.update(source.read_bytes())
    return base / f"kernels-{digest.hexdigest()[:16]}"


CACHE_FOLDER = _cache_folder()


def _cache_is_writable() -> bool:
    try:
        CACHE_FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(CACHE_FOLDER, os.W_OK)


CACHE = _cache_is_writable()


class _NoAlias(Compiler):
    """Tells the compiler that no two arguments of a function share memory."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


def kernel(
    function: Callable[..., Any],
    pipeline: type[Compiler] = Compiler,
    fastmath: set[str] = FASTMATH,
) -> Callable[..., Any]:
    """Compile a function for each dtype at its first call, or load it from disk.

    If the folder is not writable, every process compiles it again. Kernels allocate nothing
    (`_nrt`), so Numba need not count references to the views that they work on: that is atomic
    arithmetic, and took a quarter of the time of small steps.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        return numba.njit(
            nogil=True,
            cache=CACHE,
            fastmath=fastmath,
            error_model="numpy",
            pipeline_class=pipeline,
            _nrt=False,
        )(function)
    finally:
        config.CACHE_DIR = before


def apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel whose arguments must not share memory.

    Otherwise a loop that writes to several arrays cannot be vectorised; others write to one.
    """
    return kernel(function, _NoAlias)


def in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `apart`, and sums keep the order in which they are written."""
    return kernel(function, _NoAlias, FASTMATH - {"reassoc"})
