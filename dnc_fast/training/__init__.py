"""Training a model on a task: the loop, checkpoints, metrics, lessons, evaluation."""

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .evaluation import Evaluation, describe, evaluate
from .metrics import read_metrics
from .runs import load_run, restore_model, restore_task
from .trainer import Trainer, TrainingError

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "describe",
    "evaluate",
    "load_checkpoint",
    "load_run",
    "read_metrics",
    "restore_model",
    "restore_task",
    "save_checkpoint",
]
