"""Training a model on a task: the loop, checkpoints, metrics, evaluation."""

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .evaluation import Evaluation, evaluate
from .metrics import read_metrics
from .trainer import Trainer, TrainingError, load_run, restore_model, restore_task

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "evaluate",
    "load_checkpoint",
    "load_run",
    "read_metrics",
    "restore_model",
    "restore_task",
    "save_checkpoint",
]
