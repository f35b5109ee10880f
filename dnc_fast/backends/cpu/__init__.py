"""Backend "cpu": kernels compiled by Numba, on as many threads as torch uses."""

from __future__ import annotations

from ..base import Backend


def load() -> Backend:
    """Load the backend.

    Raises:
        ModuleNotFoundError: Numba cannot be imported.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f'backend "cpu" needs Numba, which cannot be imported ({error}); '
            "`pip install numba` installs it"
        ) from error
    from .backend import CpuBackend

    return CpuBackend()
