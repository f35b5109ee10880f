"""A trained model as a folder to share: with its task and score, and a card for people."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..files import CheckpointError, write_text
from ..pretrained import is_pretrained, located, read_metadata, read_pretrained
from ..tasks import Task
from .checkpoint import CHECKPOINT, model_kind, read_run, restore_model, restore_task
from .evaluation import describe, evaluate, held_out_size

CARD = "README.md"
KEPT = ("seed", "batch_size", "evaluation_size")
"""The options of training that a shared model holds."""


def read_trained(path: Path | str) -> dict[str, Any]:
    """The parts "task", "model", "training" and "parameters" of a run, or of a shared model.

    Args:
        path: a run's folder, the checkpoint in it, a folder that `share` has written, or the name
            of a model that comes with dnc_fast.

    Raises:
        FileNotFoundError, CheckpointError: there is none that can be read, or a model was saved
            without the task that it was trained on.
    """
    path = Path(path) if Path(path).exists() else located(path)
    if not is_pretrained(path):
        return read_run(path)
    metadata = read_metadata(path)
    if not _is_whole(metadata):
        raise CheckpointError(
            f"{path} holds a model without its task and training; `dnc-fast share` saves a model "
            "with them, and DNC.from_pretrained reads this one"
        )
    config, _, weights = read_pretrained(path, {})
    return {
        "task": metadata["task"],
        "model": dataclasses.asdict(config),
        "training": metadata["training"],
        "parameters": {name: weight.float() for name, weight in weights.items()},
    }


def _is_whole(metadata: Any) -> bool:
    """Whether metadata has what a run has, apart from the model."""
    if not isinstance(metadata, dict):
        return False
    task, training = metadata.get("task"), metadata.get("training")
    if not isinstance(task, dict) or not isinstance(training, dict):
        return False
    return {"name", "options"} <= task.keys() and {*KEPT} <= training.keys()


def share(
    run: Path | str,
    folder: Path | str,
    dtype: torch.dtype | None = None,
    sequences: int | None = None,
    notes: str = "",
) -> str:
    """Save the model of a run in a folder that others can use.

    Args:
        run: its folder, or the checkpoint in it.
        folder: for the model, see `DNC.save_pretrained`, and its card, README.md.
        dtype: of the weights in the file; None for float32. The score is of those weights.
        sequences: held-out sequences to score; None for the run's evaluation size.
        notes: what the card is to say besides, in Markdown.

    Returns:
        the card.

    Raises:
        FileNotFoundError, CheckpointError: there is no run that can be read.
        FileExistsError: the folder holds something else.
        ValueError: the run is not of a DNC.
    """
    content, folder = read_run(run), Path(folder)
    if model_kind(content) != "dnc":
        raise ValueError(
            f"only a DNC can be shared, {run} holds a run of the model {model_kind(content)!r}"
        )
    for name in (CHECKPOINT, CARD):
        if (folder / name).exists() and not is_pretrained(folder):
            raise FileExistsError(
                f"{folder} must be a new folder, or one that holds a shared model, but holds "
                f"{name}; share the model in another folder"
            )
    task, model = restore_task(content), restore_model(content)
    training = {name: content["training"][name] for name in KEPT}
    options = dict(content["task"]["options"])
    if "data" in options:
        options["data"] = ""  # the files are on this machine alone
    metadata = {
        "task": {**content["task"], "options": options},
        "training": training,
        "steps": content["progress"]["step"],
        "licence": "MIT",
    }
    if dtype is not None:
        model.load_state_dict({name: one.to(dtype) for name, one in model.state_dict().items()})
    count = sequences or held_out_size(task, training["evaluation_size"])
    score = describe(task, evaluate(model, task, count, training["seed"]))
    metadata["score"] = f"{count:,} held-out sequences: {score}"
    model.save_pretrained(folder, dtype=dtype, metadata=metadata)
    card = _card(folder.resolve().name, task, content, metadata, dtype, notes)
    write_text(folder / CARD, card)
    return card


def _card(
    name: str,
    task: Task,
    content: dict[str, Any],
    metadata: dict[str, Any],
    dtype: torch.dtype | None,
    notes: str,
) -> str:
    """What people should know of a model, in Markdown."""
    training, steps = content["training"], metadata["steps"]
    examples = steps * training["batch_size"] * training["accumulate"]
    numbers = sum(one.numel() for one in content["parameters"].values())
    kind = str(dtype or torch.float32).removeprefix("torch.")
    lines = [
        f"# {name}",
        "",
        f"A DNC trained on {task}.",
        "",
        f"- Score: {metadata['score']}.",
        f"- Training: {steps:,} steps, {examples:,} sequences, seed {training['seed']}.",
        f"- Size: {numbers:,} parameters, saved in {kind}.",
        f"- Licence: {metadata['licence']}.",
        *([f"- {notes}"] if notes else []),
        "",
        "`dnc-fast show FOLDER` draws what the model does; `DNC.from_pretrained(FOLDER)` loads it.",
    ]
    return "\n".join(lines) + "\n"
