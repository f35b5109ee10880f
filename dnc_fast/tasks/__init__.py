"""Tasks by name. A task knows no model; see `base.Task` for what one is."""

import sys

from .associative_recall import AssociativeRecallTask
from .autoencoding import AutoencodingTask
from .base import Batch, BitTask, ClassTask, Score, Task
from .characters import CharactersTask
from .copy import CopyTask
from .echo import EchoTask
from .key_value import KeyValueTask
from .mapping import MappingTask
from .priority_sort import PrioritySortTask
from .repeat_copy import RepeatCopyTask
from .temporal_order import TemporalOrderTask

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
    "AssociativeRecallTask",
    "AutoencodingTask",
    "Batch",
    "BitTask",
    "CharactersTask",
    "ClassTask",
    "CopyTask",
    "EchoTask",
    "KeyValueTask",
    "MappingTask",
    "PrioritySortTask",
    "RepeatCopyTask",
    "Score",
    "Task",
    "TemporalOrderTask",
    "summary",
    "task_name",
]
