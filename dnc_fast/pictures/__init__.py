"""Pictures of how a model learned and of what its memory did. They know nothing of training.

Each view returns a figure, which `save_picture` writes. matplotlib is optional: it is imported when
the first picture is drawn, and where it is missing an ImportError names the command that installs
it. Nothing here uses pyplot, and the user's matplotlib settings are neither used nor changed.
`viewer_page` makes an interactive page instead, without matplotlib.
"""

from .attention import attention_view
from .comparison import comparison_curves, comparison_of_gradients, comparison_of_lengths
from .contents import contents_view
from .curve import learning_curve
from .gates import gates_view
from .graph import graph_view
from .hidden import hidden_view
from .memory import memory_view
from .reads import read_view
from .style import save_picture
from .viewer import Graph, Transcript, viewer_page

__all__ = [
    "Graph",
    "Transcript",
    "attention_view",
    "comparison_curves",
    "comparison_of_gradients",
    "comparison_of_lengths",
    "contents_view",
    "gates_view",
    "graph_view",
    "hidden_view",
    "learning_curve",
    "memory_view",
    "read_view",
    "save_picture",
    "viewer_page",
]
