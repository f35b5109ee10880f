"""Files that are written whole or not at all, and what is raised for one that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

CHECKPOINT = "checkpoint.pt"
"""The file in a run's folder that holds the run."""


class CheckpointError(ValueError):
    """A file is not a checkpoint that this version can read."""


def write_whole(files: Mapping[Path, Callable[[BinaryIO], object]]) -> None:
    """Write files of a folder, each so that its path holds the old or the new one in full.

    None is replaced before all are written.

    Args:
        files: what writes each file; their folder must exist.

    Raises:
        OSError: a file could not be written; the old ones are still there.
    """
    # A killed process leaves its drafts behind, and the next writes over them.
    drafts = {path: path.with_name(f"{path.name}.part") for path in files}
    try:
        for path, write in files.items():
            with open(drafts[path], "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            os.replace(draft, path)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)
    if os.name == "posix":  # make the renames survive a power cut
        for folder in {path.parent for path in files}:
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 by `write_whole`."""
    write_whole({path: lambda file: file.write(text.encode())})
