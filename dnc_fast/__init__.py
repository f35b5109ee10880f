"""dnc_fast: a high-performance Differentiable Neural Computer (Graves et al., Nature 2016).

`DNC` replaces an nn.LSTM and `DNCCell` an nn.LSTMCell; `memory_step` is one step of the external
memory alone.
"""

from .backends import memory_step
from .config import DNCConfig
from .dnc import DNC, DNCCell
from .engine import release_cuda_graphs
from .state import DNCState, MemoryState
from .trace import Trace

__version__ = "0.1.0"

__all__ = [
    "DNC",
    "DNCCell",
    "DNCConfig",
    "DNCState",
    "MemoryState",
    "Trace",
    "__version__",
    "memory_step",
    "release_cuda_graphs",
]
