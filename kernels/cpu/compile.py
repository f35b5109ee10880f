"""How the CPU kernels are compiled: by Numba, without the GIL, cached on disk.

Numba keeps a function's cached code while its own file is unchanged, also when a function that it
calls has changed. So the cache lies in a folder named after the sources of all kernels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numba.core.config

config: Any = numba.core.config

FASTMATH = {"reassoc", "contract", "nsz"}
"""What lets sums be vectorised. NaN and infinity stay what they are."""


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(config.CACHE_DIR or home / "dnc_fast")
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return base / f"kernels-{digest.hexdigest()[:16]}"


CACHE_FOLDER = str(_cache_folder())


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function for each dtype at its first call, or take it from the disk."""
    before = config.CACHE_DIR
    config.CACHE_DIR = CACHE_FOLDER
    try:
        return numba.njit(nogil=True, cache=True, fastmath=FASTMATH, error_model="numpy")(function)
    finally:
        config.CACHE_DIR = before
