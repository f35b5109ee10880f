"""Backend "triton": kernels for CUDA and ROCm devices."""

from __future__ import annotations

import os

from ..base import Backend

OLDEST_TRITON = (3, 6)
"""The kernels use features that Triton has had since this version."""


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on a CPU, for tests (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def load() -> Backend:
    """Load the backend.

    Raises:
        ModuleNotFoundError: Triton cannot be imported.
        RuntimeError: it is too old.
    """
    try:
        import triton
    except ImportError as error:
        raise ModuleNotFoundError(
            f'backend "triton" needs Triton, which cannot be imported ({error}); '
            '`pip install triton` installs it on Linux; "eager" runs everywhere'
        ) from error
    version = str(triton.__version__)
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        raise RuntimeError(
            f'backend "triton" needs Triton {oldest} or newer, got {version}; a newer torch brings '
            'it; "eager" runs with any'
        )
    from .backend import TritonBackend

    if not interpreted():
        from .travelling import arrive

        arrive()
    return TritonBackend()
