"""Tasks by name. A task knows no model; see `base.Task` for what one is."""

from typing import Any

from .base import Batch, Score, Task, bit_loss, bit_score
from .copy import CopyTask
from .mapping import MappingTask

TASKS: dict[str, Any] = {"copy": CopyTask, "mapping": MappingTask}

__all__ = [
    "TASKS",
    "Batch",
    "CopyTask",
    "MappingTask",
    "Score",
    "Task",
    "bit_loss",
    "bit_score",
]
