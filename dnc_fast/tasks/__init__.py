"""Tasks by name. A task knows no model; see `base.Task` for what one is.

To add a task, write it in a file of its own and add a line to `TASKS`.
"""

import sys

from .answerer import Answerer
from .associative_recall import AssociativeRecallTask
from .autoencoding import AutoencodingTask
from .babi import BabiTask
from .base import BitTask, ClassTask, Task
from .batch import Batch, Score
from .characters import CharactersTask
from .copy import CopyTask
from .echo import EchoTask
from .graphs import (
    Episode,
    GraphTask,
    InferenceTask,
    Names,
    ShortestPathTask,
    TraversalTask,
    TripleTask,
    read_episode,
)
from .graphs_in_words import GraphsInWordsTask
from .key_value import KeyValueTask
from .mapping import MappingTask
from .priority_sort import PrioritySortTask
from .repeat_copy import RepeatCopyTask
from .shrdlu import ShrdluEnv, ShrdluTask
from .sort import SortTask
from .stories import StoryTask
from .temporal_order import TemporalOrderTask

TASKS: dict[str, type[Task]] = {
    "copy": CopyTask,
    "repeat-copy": RepeatCopyTask,
    "associative-recall": AssociativeRecallTask,
    "key-value": KeyValueTask,
    "priority-sort": PrioritySortTask,
    "sort": SortTask,
    "temporal-order": TemporalOrderTask,
    "echo": EchoTask,
    "autoencoding": AutoencodingTask,
    "characters": CharactersTask,
    "mapping": MappingTask,
    "babi": BabiTask,
    "traversal": TraversalTask,
    "shortest-path": ShortestPathTask,
    "inference": InferenceTask,
    "graphs-in-words": GraphsInWordsTask,
    "shrdlu": ShrdluTask,
}
"""Each task by the name that it has on the command line."""


def task_name(task: Task) -> str:
    """The name of a task in `TASKS`.

    Raises:
        ValueError: the task is not registered.
    """
    for name, kind in TASKS.items():
        if type(task) is kind:
            return name
    raise ValueError(f"task must be one of {tuple(TASKS)}, got {type(task).__name__}")


def names_of(kind: type) -> tuple[str, ...]:
    """The names of the tasks of a kind."""
    return tuple(name for name, one in TASKS.items() if issubclass(one, kind))


def summary(kind: type[Task]) -> str:
    """A task in one line: the first line of its module's docstring, or of its own."""
    text = sys.modules[kind.__module__].__doc__ or kind.__doc__ or kind.__name__
    return text.strip().splitlines()[0].rstrip(".")


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
    "GraphsInWordsTask",
    "InferenceTask",
    "KeyValueTask",
    "MappingTask",
    "Names",
    "PrioritySortTask",
    "RepeatCopyTask",
    "Score",
    "ShortestPathTask",
    "ShrdluEnv",
    "ShrdluTask",
    "SortTask",
    "StoryTask",
    "Task",
    "TemporalOrderTask",
    "TraversalTask",
    "TripleTask",
    "names_of",
    "read_episode",
    "summary",
    "task_name",
]
