"""Backend "cpu": kernels compiled by Numba, on as many threads as torch uses."""

from __future__ import annotations

from ..base import Backend
from ..packages import Needed

NUMBA = Needed(
    backend="cpu",
    title="Numba",
    oldest=(0, 59),
    install="`pip install numba` installs it",
    update="`pip install --upgrade numba` gets one that fits",
)


def load() -> Backend:
    """Load the backend.

    Raises:
        ModuleNotFoundError: Numba cannot be imported.
        RuntimeError: it is too old, fails, or is told not to compile.
    """
    numba = NUMBA.load()
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            'backend "cpu" needs Numba to compile, which NUMBA_DISABLE_JIT forbids; unset it'
        )
    try:
        from .backend import CpuBackend

        return CpuBackend()
    except Exception as error:
        raise NUMBA.fails_with(numba, error) from error
