"""Checkpoints: written whole or not at all, read with checks, and the task and model in them."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..files import CHECKPOINT, CheckpointError, write_whole
from ..models import MODELS, build_model, config_type
from ..pretrained import is_pretrained
from ..tasks import TASKS, Task, task_name

FORMAT = "dnc_fast checkpoint"
VERSION = 2

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


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` holds the old or the new one in full, whatever happens.

    Args:
        path: the file; its folder must exist.
        content: tensors and plain Python values, in dicts, lists and tuples.

    Raises:
        OSError: the file could not be written; the old one is still there.
    """
    whole = {"format": FORMAT, "version": VERSION, **content}
    try:
        write_whole({path: partial(torch.save, whole)})
    except RuntimeError as error:  # torch's wrapping of a failed write
        raise OSError(f"{path} could not be written, is the disk full? ({error})") from error


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. No code from the file is run.

    Args:
        path: the file, or the folder of a run.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, of another program, or of another version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CHECKPOINT
    if not path.exists():
        if is_pretrained(path.parent):
            raise FileNotFoundError(
                f"{path.parent} holds a model and no run: DNC.from_pretrained loads it, and "
                "`dnc-fast eval`, `show` and `ask` take it"
            )
        raise FileNotFoundError(f"there is no checkpoint {path}; `dnc-fast train` writes one")
    if path.is_dir():
        raise CheckpointError(f"{path} must be a checkpoint, a file, but is a folder")

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(
            f"{path} is not a dnc_fast checkpoint: {reason}; expected a file that "
            "`dnc-fast train` wrote"
        )

    path.open("rb").close()  # raises if it cannot be read
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the bytes of another file make of an unpickler
        refuse("it is truncated or of another format")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        refuse("it was written by another program")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {content.get('version')}, this dnc_fast reads "
            f"version {VERSION}; use the dnc_fast that wrote it, or train again"
        )
    return content


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn the errors of a checkpoint that lacks a part or contradicts itself into a clear one."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a run that this dnc_fast can read ({error}); use the dnc_fast "
            "that wrote it"
        ) from error


def read_run(path: Path | str) -> dict[str, Any]:
    """The checkpoint of a run, with all its parts.

    Raises:
        FileNotFoundError, CheckpointError: there is none that can be read.
    """
    content = load_checkpoint(path)
    with reading(path):
        missing = [part for part in RUN_PARTS if part not in content]
        if missing:
            raise ValueError(f"it lacks {missing}")
    return content


def task_part(task: Task) -> dict[str, Any]:
    """What a checkpoint holds of a task; its alphabet only if it comes from a file."""
    digest = task.alphabet_digest
    return {
        "name": task_name(task),
        "options": dataclasses.asdict(task),
        **({"alphabet": digest} if digest else {}),
    }


def task_kind(content: dict[str, Any]) -> type[Task]:
    """The class of the task of a checkpoint.

    Raises:
        CheckpointError: this version has no such task.
    """
    with reading("the checkpoint"):
        name = content["task"]["name"]
    if name not in TASKS:
        raise CheckpointError(f"the checkpoint's task {name!r} is not one of {tuple(TASKS)}")
    return TASKS[name]


def restore_task(content: dict[str, Any], **changes: Any) -> Task:
    """The task of a checkpoint, with some options changed.

    If it was written before the task had some option, a warning says which value is taken.

    Raises:
        CheckpointError: this version has no such task, or the task does not fit the model, because
            of the changes or because a text file is another one now.
    """
    kind = task_kind(content)
    with reading("the checkpoint"):
        name, options = content["task"]["name"], content["task"]["options"]
        sizes = content["model"]["input_size"], content["model"]["output_size"]
    defaults = {one.name: one.default for one in dataclasses.fields(kind)}
    if unknown := sorted(set(options) - set(defaults)):
        raise CheckpointError(f"the checkpoint's task {name!r} has no options {unknown}")
    new = [f"{one}={defaults[one]!r}" for one in defaults if one not in {**options, **changes}]
    if new:
        warnings.warn(
            f"the checkpoint's task {name!r} was saved before it had all of today's options; "
            f"taken are the defaults {', '.join(new)}, which may differ from how it was trained",
            stacklevel=2,
        )
    task = kind(**{**options, **changes})
    found = task.input_size, task.output_size
    digest = content["task"].get("alphabet", task.alphabet_digest)  # the first versions have none
    if (found, task.alphabet_digest) != (sizes, digest):
        what = f"input and output sizes {sizes}, got {found}"
        if found == sizes:
            what = "symbols, got as many others"
        raise CheckpointError(
            f"the task must have the model's {what} in {task}; leave its options, and a text file, "
            "as they were in training"
        )
    return task


def model_kind(content: dict[str, Any]) -> str:
    """The name of the model of a checkpoint; those of the first versions hold a DNC.

    Raises:
        CheckpointError: this version has no such model.
    """
    name = content.get("kind", "dnc")
    if name not in MODELS:
        raise CheckpointError(f"the checkpoint's model {name!r} is not one of {tuple(MODELS)}")
    return name


def restore_config(content: dict[str, Any]) -> Any:
    """The options of the model of a checkpoint.

    Raises:
        CheckpointError: this version has no such model, or it has other options.
    """
    kind = config_type(model_kind(content))
    with reading("the checkpoint"):
        return kind(**content["model"])


def restore_model(content: dict[str, Any], **changes: Any) -> Any:
    """The model of a checkpoint with its parameters, with some options changed.

    Options that no parameter depends on may change: num_cells, and of a DNC the linkage and its
    options, read_topk, write_topk, backend, usage_order.

    Raises:
        CheckpointError: the checkpoint holds no model that this version knows, or its parameters
            do not fit the model.
        TypeError, ValueError: a change does not fit.
    """
    config = dataclasses.replace(restore_config(content), **changes)
    with reading("the checkpoint"):
        model = build_model(config, dtype=torch.float32)
        own, found = model.state_dict(), content["parameters"]
        for name in own.keys() & found.keys():
            if own[name].shape != found[name].shape:
                shapes = tuple(own[name].shape), tuple(found[name].shape)
                raise CheckpointError(
                    "the checkpoint's parameters must have the model's sizes: {} must have shape "
                    "{}, got {}; leave out the options that change it".format(name, *shapes)
                )
        model.load_state_dict(found)
    return model


def load_run(path: Path | str, device: torch.device | str = "cpu") -> tuple[Any, Task]:
    """A trained model, ready to run, and the task that it was trained on.

    Args:
        path: the folder of a run, or the checkpoint in it.
        device: where the model will be.

    Returns:
        model: in evaluation mode; `model.train()` changes that.
        task: `task.batch(count, generator)` makes batches, `task.probabilities(outputs)` decodes
            the model's outputs, and `task.score(outputs, batch)` scores them.

    Raises:
        FileNotFoundError, CheckpointError: there is no run that can be read.
    """
    content = read_run(path)
    return restore_model(content).to(device).eval(), restore_task(content)
