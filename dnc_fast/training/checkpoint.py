"""Checkpoints: written whole or not at all, read with checks."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

import torch

FORMAT = "dnc_fast checkpoint"
VERSION = 2


class CheckpointError(ValueError):
    """A file is not a checkpoint that this version can read."""


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` holds the old or the new one whole, whatever happens.

    Args:
        path: the file; its folder must exist.
        content: tensors and plain Python values, in dicts, lists and tuples.

    Raises:
        OSError: the disk refuses; `path` is then as it was.
    """
    whole = {"format": FORMAT, "version": VERSION, **content}
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(draft, "wb") as file:
            torch.save(whole, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except RuntimeError as error:  # torch's wrapping of a failed write
        raise OSError(f"{path} could not be written, is the disk full? ({error})") from error
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU. Runs no code from the file.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, of another program, or of another version.
    """
    if path.is_dir():
        path = path / "checkpoint.pt"
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}; `dnc-fast train` writes one")

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(
            f"{path} is not a dnc_fast checkpoint: {reason}; expected a file that "
            "`dnc-fast train` wrote"
        )

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError):
        refuse("it is truncated or of another format")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        refuse("it was written by another program")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} is a checkpoint of version {content.get('version')}, this dnc_fast reads "
            f"version {VERSION}; use the dnc_fast that wrote it, or train anew"
        )
    return content
