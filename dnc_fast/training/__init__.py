"""Training a model on a task: the loop, checkpoints, metrics, lessons, evaluation."""

from .answering import answered
from .checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_run,
    read_run,
    restore_model,
    restore_task,
    save_checkpoint,
)
from .config import TrainingConfig
from .distributed import Ranks, joined
from .evaluation import Evaluation, describe, evaluate, held_out_size
from .guessing import guess
from .health import TrainingError
from .metrics import read_metrics
from .probe import Moment, Probe, probe, transcript
from .seeds import Outcome, outcome, summary_table
from .trainer import Trainer

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Moment",
    "Outcome",
    "Probe",
    "Ranks",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "answered",
    "describe",
    "evaluate",
    "guess",
    "held_out_size",
    "joined",
    "load_checkpoint",
    "load_run",
    "outcome",
    "probe",
    "read_metrics",
    "read_run",
    "restore_model",
    "restore_task",
    "save_checkpoint",
    "summary_table",
    "transcript",
]
