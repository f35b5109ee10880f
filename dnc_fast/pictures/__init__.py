"""Pictures of how a model learned and of what its memory did. They know no training.

matplotlib is optional, and not imported before the first picture is drawn:
`pip install matplotlib` brings it. Nothing here uses pyplot, and the user's own matplotlib
settings are neither followed nor changed.
"""

from .curve import learning_curve
from .graph import graph_view, read_view
from .hidden import hidden_view
from .memory import memory_view
from .style import save_picture

__all__ = [
    "graph_view",
    "hidden_view",
    "learning_curve",
    "memory_view",
    "read_view",
    "save_picture",
]
