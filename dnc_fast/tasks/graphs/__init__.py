"""Questions on graphs, after Graves et al. 2016.

task.py            what the tasks share: graphs, lessons, names
traversal.py shortest_path.py inference.py   the tasks
triples.py         triples of labels as digits; the phases of an episode
graph.py           graphs by the batch, random or known, with random labels
known.py           graphs with names: underground.py, family.py
episodes.py        an episode in words
"""

from .episodes import Episode, read_episode
from .inference import InferenceTask
from .shortest_path import ShortestPathTask
from .task import GraphTask, Names
from .traversal import TraversalTask
from .triples import TripleTask

__all__ = [
    "Episode",
    "GraphTask",
    "InferenceTask",
    "Names",
    "ShortestPathTask",
    "TraversalTask",
    "TripleTask",
    "read_episode",
]
