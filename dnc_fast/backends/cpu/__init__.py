"""Backend "cpu": kernels compiled by Numba, shared out over torch's number of threads."""

from __future__ import annotations

from ..base import Backend


def load() -> Backend:
    """The backend.

    Raises:
        ModuleNotFoundError: Numba cannot be imported.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f'backend "cpu" needs Numba, which cannot be imported ({error}); '
            "`pip install numba` brings it"
        ) from error
    from .backend import CpuBackend

    return CpuBackend()
