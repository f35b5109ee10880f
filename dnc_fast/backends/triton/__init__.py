"""Backend "triton": kernels for CUDA and ROCm devices."""

from __future__ import annotations

import os

from ..base import Backend
from ..packages import Needed

TRITON = Needed(
    backend="triton",
    title="Triton",
    oldest=(3, 6),
    install='`pip install triton` installs it on Linux; "eager" runs everywhere',
    update='a newer torch brings it; "eager" runs with any',
)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on a CPU, for tests (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def load() -> Backend:
    """Load the backend.

    Raises:
        ModuleNotFoundError: Triton cannot be imported.
        RuntimeError: it is too old, or fails.
    """
    triton = TRITON.load()
    try:
        from .backend import TritonBackend

        if not interpreted():
            from .travelling import arrive

            arrive()
        return TritonBackend()
    except Exception as error:
        raise TRITON.fails_with(triton, error) from error
