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
from .comparing import Compared, Finished, comparison_table, finished, models_table
from .config import TrainingConfig
from .distributed import Ranks, joined
from .evaluation import Evaluation, describe, evaluate, evaluate_by_part, held_out_size
from .foresight import Foresight, foresight
from .guessing import guess
from .health import TrainingError
from .metrics import read_metrics
from .predictions import predictions
from .probe import Moment, Probe, probe, transcript
from .seeds import Outcome, outcome, summary_table
from .shared import read_trained, share
from .trainer import Trainer
from .writing import write

__all__ = [
    "CheckpointError",
    "Compared",
    "Evaluation",
    "Finished",
    "Foresight",
    "Moment",
    "Outcome",
    "Probe",
    "Ranks",
    "Trainer",
    "TrainingConfig",
    "TrainingError",
    "answered",
    "comparison_table",
    "describe",
    "evaluate",
    "evaluate_by_part",
    "finished",
    "foresight",
    "guess",
    "held_out_size",
    "joined",
    "load_checkpoint",
    "load_run",
    "models_table",
    "outcome",
    "predictions",
    "probe",
    "read_metrics",
    "read_run",
    "read_trained",
    "restore_model",
    "restore_task",
    "save_checkpoint",
    "share",
    "summary_table",
    "transcript",
    "write",
]
