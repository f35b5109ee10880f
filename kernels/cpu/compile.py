"""How the CPU kernels are compiled: by Numba, without the GIL, cached on disk.

Numba keeps a function's cached code while its own file is unchanged, also when a function that it
calls has changed. So the cache lies in a folder named after the sources of all kernels.
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
"""What lets sums be vectorised. NaN and infinity stay what they are."""


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(config.CACHE_DIR or home / "dnc_fast")
    # Numba keeps apart what lies at different places, and what different Pythons run.
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


class _Apart(Compiler):
    """Tells the compiler that no array given to a function shares memory with another."""

    def define_pipelines(self) -> Any:
        self.state.flags.noalias = True
        return super().define_pipelines()


def kernel(
    function: Callable[..., Any],
    pipeline: type[Compiler] = Compiler,
    fastmath: set[str] = FASTMATH,
) -> Callable[..., Any]:
    """Compile a function for each dtype at its first call, or take it from the disk.

    Where the folder cannot be written to, it is compiled anew in each process. Kernels allocate
    nothing (`_nrt`): so Numba need not count references to the views that they work on, which is
    atomic arithmetic and took a fourth of the time of small steps.
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

    Only so can a loop that writes to several arrays be vectorised; elsewhere loops write to one.
    """
    return kernel(function, _Apart)


def in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """Likewise, and sums are made in the order in which they are written."""
    return kernel(function, _Apart, FASTMATH - {"reassoc"})
