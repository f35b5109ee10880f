"""What a checkpoint holds of a run, and the task and model in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..config import DNCConfig
from ..dnc import DNC
from ..tasks import TASKS, Task
from .checkpoint import CheckpointError, load_checkpoint

CHECKPOINT = "checkpoint.pt"

RUN_PARTS = (
    "task",
    "model",
    "training",
    "parameters",
    "optimizer",
    "schedule",
    "scaler",
    "carried",
    "random",
    "progress",
)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Tell of a checkpoint that lacks a part or does not fit itself."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a run that this dnc_fast can read ({error}); use the dnc_fast "
            "that wrote it"
        ) from error


def load_run(path: Path) -> dict[str, Any]:
    """The checkpoint of a run, with all its parts.

    Raises:
        FileNotFoundError, CheckpointError: there is none that can be read.
    """
    content = load_checkpoint(path)
    missing = [part for part in RUN_PARTS if part not in content]
    if missing:
        raise CheckpointError(
            f"{path} does not hold a run that this dnc_fast can read (it lacks {missing}); use the "
            "dnc_fast that wrote it"
        )
    return content


def restore_task(content: dict[str, Any], **changes: Any) -> Task:
    """The task of a checkpoint, with some options changed.

    Raises:
        CheckpointError: this version has no such task.
    """
    with reading("the checkpoint"):
        name = content["task"]["name"]
        options = content["task"]["options"]
    if name not in TASKS:
        raise CheckpointError(f"the checkpoint's task {name!r} is not one of {tuple(TASKS)}")
    return TASKS[name](**{**options, **changes})


def restore_model(content: dict[str, Any], **changes: Any) -> DNC:
    """The model of a checkpoint with its parameters, with some options changed.

    What no parameter depends on may change: num_cells, the linkage and its options, read_topk,
    write_topk, backend, usage_order.

    Raises:
        CheckpointError: the checkpoint holds no model that this version knows, or one of another
            size.
        TypeError, ValueError: a change does not fit.
    """
    with reading("the checkpoint"):
        config = DNCConfig(**content["model"])
    config = dataclasses.replace(config, **changes)
    with reading("the checkpoint"):
        model = DNC.from_config(config, dtype=torch.float32)
        model.load_state_dict(content["parameters"])
    return model
