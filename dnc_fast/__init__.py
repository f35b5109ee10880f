"""dnc_fast: a high-performance Differentiable Neural Computer (Graves et al., Nature 2016).

`DNC` replaces an nn.LSTM and `DNCCell` an nn.LSTMCell; `MemoryLSTM` does so even in code that knows
nothing of a memory; `memory_step` is one step of the external memory alone; `load_run` loads what
`dnc-fast train` has trained.

Names are imported when they are first used, so that commands that need no torch start at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backends import memory_step
    from .config import DNCConfig
    from .dnc import DNC, DNCCell
    from .engine import release_cuda_graphs
    from .memory_lstm import MemoryLSTM
    from .state import DNCState, MemoryState
    from .trace import Trace
    from .training import load_run

__version__ = "0.1.0"

__all__ = [
    "DNC",
    "DNCCell",
    "DNCConfig",
    "DNCState",
    "MemoryLSTM",
    "MemoryState",
    "Trace",
    "__version__",
    "load_run",
    "memory_step",
    "release_cuda_graphs",
]

_HOMES = {
    "DNC": "dnc",
    "DNCCell": "dnc",
    "DNCConfig": "config",
    "DNCState": "state",
    "MemoryLSTM": "memory_lstm",
    "MemoryState": "state",
    "Trace": "trace",
    "load_run": "training",
    "memory_step": "backends",
    "release_cuda_graphs": "engine",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):  # a module that nobody imported yet, such as dnc_fast.functional
        try:
            return import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "torch" in sys.modules:  # its `torch.load` is to know our states, see `state`
    import_module(".state", __name__)
