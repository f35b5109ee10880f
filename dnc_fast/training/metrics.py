"""Metrics: a row for each training step, evaluation and test of a lesson, as JSON lines or CSV.

TensorBoard can show the same rows as curves.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

COLUMNS: dict[str, Any] = {
    "kind": str,  # "train", "evaluation", "spike", "lesson" (a test of one), or "milestone"
    "step": int,
    "loss": float,  # nats per answer
    "gradient_norm": float,  # before clipping; None where float16 overflowed: no step was taken
    "learning_rate": float,
    "wrong": float,  # this and the next two: see `Evaluation`
    "right": float,
    "solved": float,
    "lesson": int,  # its number, from 1
    "share": float,  # right in the test of a lesson, or of a milestone
    "factor": float,  # how many times the usual a gradient norm is that is a spike
    "tensor": str,  # the parameter whose gradient is the largest in a spike
    "name": str,  # of a milestone, see `Task.milestones`
}
"""Names and types. There are no times: the same run gives the same file, bit for bit."""

FORMATS = ("jsonl", "csv")


class MetricsWriter:
    """Collects rows and appends them to a metrics file on each `flush`.

    Args:
        path: the file; its ending, .jsonl or .csv, sets the format.
        size: bytes to keep; what an interrupted run wrote after its last checkpoint is dropped.

    Raises:
        ValueError: the file is shorter than `size`.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise ValueError(
                f"{path} must have at least the {size} bytes that its checkpoint counts, got "
                f"{found}; put the file back, or start again in another folder"
            )
        self.path = path
        self._size = size
        self._rows = io.StringIO()
        self._csv = csv.writer(self._rows, lineterminator="\n") if path.suffix == ".csv" else None
        self._columns = list(COLUMNS)
        if self._csv and size == 0:
            self._csv.writerow(COLUMNS)
        elif self._csv:  # a run that began before there were all of today's columns
            with open(path, newline="") as file:
                self._columns = next(csv.reader(file))

    def add(self, kind: str, **values: Any) -> None:
        """Append a row."""
        row = {"kind": kind, **values}
        if self._csv:
            self._csv.writerow([row.get(column) for column in self._columns])
        else:
            self._rows.write(json.dumps(row) + "\n")

    def flush(self) -> int:
        """Write all rows to disk; returns the file's size in bytes."""
        with open(self.path, "ab") as file:
            file.truncate(self._size)
            file.write(self._rows.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
        self._size = self.path.stat().st_size
        self._rows.seek(0)
        self._rows.truncate()
        return self._size


class TensorBoard:
    """Shows each number of a row as a curve `kind/name`, such as train/loss.

    Args:
        folder: for the event files.
        first_step: what an earlier part of the run wrote from this step on is dropped.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                f"tensorboard could not be imported ({error}); `pip install tensorboard` "
                "installs it"
            ) from error
        self._writer: Any = SummaryWriter(folder, purge_step=first_step)

    def add(self, kind: str, step: int, **values: Any) -> None:
        """Append a row; only numbers are shown."""
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write everything to disk."""
        self._writer.close()


def metrics_file(folder: Path) -> Path | None:
    """The metrics of a run, by its folder; the newer of two, None if there are none."""
    found = [path for path in folder.glob("metrics.*") if path.suffix[1:] in FORMATS]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file; a last line that was cut off is left out."""
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if path.suffix != ".csv":
        return [json.loads(line) for line in lines]
    return [
        {name: COLUMNS[name](cell) for name, cell in row.items() if cell != ""}
        for row in csv.DictReader(lines)
    ]
