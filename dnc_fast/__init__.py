"""dnc_fast: a high-performance Differentiable Neural Computer (Graves et al., Nature 2016).

`DNC` replaces an nn.LSTM and `DNCCell` an nn.LSTMCell; `memory_step` is one step of the external
memory alone; `load_run` loads what `dnc-fast train` has trained.
"""

from typing import Any

from torch.serialization import add_safe_globals

from .backends import memory_step
from .config import DNCConfig
from .dnc import DNC, DNCCell
from .engine import release_cuda_graphs
from .linkages import SeparableLink, SparseLink
from .state import DNCState, MemoryState
from .trace import Trace

__version__ = "0.1.0"

# So that torch.load reads saved states with weights_only=True, its default.
add_safe_globals([DNCState, MemoryState, SeparableLink, SparseLink])

__all__ = [
    "DNC",
    "DNCCell",
    "DNCConfig",
    "DNCState",
    "MemoryState",
    "Trace",
    "__version__",
    "load_run",
    "memory_step",
    "release_cuda_graphs",
]


def __getattr__(name: str) -> Any:
    """`load_run`, when it is first asked for: models are used without tasks and training, too."""
    if name == "load_run":
        from .training import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
