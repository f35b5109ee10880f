"""A trained model as a folder to share: with its task and score, and a card for people."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..files import CheckpointError, write_whole
from ..pretrained import CONFIG, read_metadata, read_pretrained
from ..tasks import Task
from .checkpoint import read_run, restore_model, restore_task
from .evaluation import describe, evaluate, held_out_size

CARD = "README.md"
KEPT = ("seed", "batch_size", "evaluation_size")
"""The options of training that a shared model holds."""


def read_trained(path: Path | str) -> dict[str, Any]:
    """The parts "task", "model", "training" and "parameters" of a run, or of a shared model.

    Args:
        path: a run's folder, the checkpoint in it, or a folder that `share` has written.

    Raises:
        FileNotFoundError, CheckpointError: there is none that can be read, or a model was saved
            without the task that it was trained on.
    """
    if not (Path(path) / CONFIG).is_file():
        return read_run(path)
    metadata = read_metadata(path)
    if not {"task", "training"} <= metadata.keys():
        raise CheckpointError(
            f"{path} holds a model without its task; `dnc-fast share` saves a model with it, and "
            "DNC.from_pretrained reads this one"
        )
    config, _, weights = read_pretrained(path, {})
    return {
        "task": metadata["task"],
        "model": dataclasses.asdict(config),
        "training": metadata["training"],
        "parameters": {name: weight.float() for name, weight in weights.items()},
    }


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
    """
    content = read_run(run)
    task, model = restore_task(content), restore_model(content)
    training = {name: content["training"][name] for name in KEPT}
    options = dict(content["task"]["options"])
    if "data" in options:
        options["data"] = ""  # the files are on this machine alone
    metadata = {
        "task": {"name": content["task"]["name"], "options": options},
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
    card = _card(Path(folder).name, task, content, metadata, dtype, notes)
    write_whole({Path(folder) / CARD: partial(_write, card.encode())})
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
        "`dnc-fast show FOLDER` draws what it does; `DNC.from_pretrained(FOLDER)` loads it.",
    ]
    return "\n".join(lines) + "\n"


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
