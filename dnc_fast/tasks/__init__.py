"""Tasks by name. A task knows no model; see `base.Task` for what one is."""

import sys

from .answerer import Answerer
from .associative_recall import AssociativeRecallTask
from .autoencoding import AutoencodingTask
from .babi import BabiTask
from .base import Batch, BitTask, ClassTask, Preset, Score, Task
from .characters import CharactersTask
from .copy import CopyTask
from .echo import EchoTask
from .episodes import Episode, read_episode
from .graphs import GraphTask, Names
from .inference import InferenceTask
from .key_value import KeyValueTask
from .mapping import MappingTask
from .priority_sort import PrioritySortTask
from .repeat_copy import RepeatCopyTask
from .shortest_path import ShortestPathTask
from .temporal_order import TemporalOrderTask
from .traversal import TraversalTask
from .triples import TripleTask

TASKS: dict[str, type[Task]] = {
    "copy": CopyTask,
    "repeat-copy": RepeatCopyTask,
    "associative-recall": AssociativeRecallTask,
    "key-value": KeyValueTask,
    "priority-sort": PrioritySortTask,
    "temporal-order": TemporalOrderTask,
    "echo": EchoTask,
    "autoencoding": AutoencodingTask,
    "characters": CharactersTask,
    "mapping": MappingTask,
    "babi": BabiTask,
    "traversal": TraversalTask,
    "shortest-path": ShortestPathTask,
    "inference": InferenceTask,
}


def task_name(task: Task) -> str:
    """The name of a task in `TASKS`.

    Raises:
        ValueError: it is none of them.
    """
    for name, kind in TASKS.items():
        if type(task) is kind:
            return name
    raise ValueError(f"task must be one of {tuple(TASKS)}, got {type(task).__name__}")


def summary(kind: type[Task]) -> str:
    """A task in one line: the first of its module's docstring."""
    return (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()[0].rstrip(".")


__all__ = [
    "TASKS",
    "Answerer",
    "AssociativeRecallTask",
    "AutoencodingTask",
    "BabiTask",
    "Batch",
    "BitTask",
    "CharactersTask",
    "ClassTask",
    "CopyTask",
    "EchoTask",
    "Episode",
    "GraphTask",
    "InferenceTask",
    "KeyValueTask",
    "MappingTask",
    "Names",
    "Preset",
    "PrioritySortTask",
    "RepeatCopyTask",
    "Score",
    "ShortestPathTask",
    "Task",
    "TemporalOrderTask",
    "TraversalTask",
    "TripleTask",
    "read_episode",
    "summary",
    "task_name",
]
