"""Metrics on disk, as JSON lines or CSV: a row for each training step, evaluation and test."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

COLUMNS = (
    "kind",
    "step",
    "loss",
    "gradient_norm",
    "learning_rate",
    "wrong",
    "right",
    "solved",
    "lesson",
    "share",
)
"""kind: "train", "evaluation" or "lesson", a test of one. loss: nats per answer. gradient_norm:
before clipping, None where float16 overflowed and the step was left out. wrong, right, solved: see
`Evaluation`. lesson: which, from 1. share: right in its test; from `lesson_pass` on it is passed.

No times: the same run gives the same file, bit for bit.
"""

TYPES: dict[str, Any] = {"kind": str, "step": int, "lesson": int}  # the others are float

FORMATS = ("jsonl", "csv")


class MetricsWriter:
    """Collects rows and appends them to a metrics file on each `flush`.

    Args:
        path: the file; its ending, .jsonl or .csv, sets the format.
        size: how many bytes of it count; what an interrupted run wrote beyond is dropped.

    Raises:
        ValueError: the file is shorter than `size`.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        found = path.stat().st_size if path.exists() else 0
        if found < size:
            raise ValueError(
                f"{path} must have at least the {size} bytes that its checkpoint counts, got "
                f"{found}; put the file back, or train anew in another folder"
            )
        self.path = path
        self._size = size
        self._rows = io.StringIO()
        self._csv = csv.writer(self._rows, lineterminator="\n") if path.suffix == ".csv" else None
        if self._csv and size == 0:
            self._csv.writerow(COLUMNS)

    def add(self, kind: str, **values: Any) -> None:
        """Append a row."""
        row = {"kind": kind, **values}
        if self._csv:
            self._csv.writerow([row.get(column) for column in COLUMNS])
        else:
            self._rows.write(json.dumps(row) + "\n")

    def flush(self) -> int:
        """Bring all rows to the disk; returns the file's size in bytes."""
        with open(self.path, "ab") as file:
            file.truncate(self._size)
            file.write(self._rows.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
        self._size = self.path.stat().st_size
        self._rows.seek(0)
        self._rows.truncate()
        return self._size


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file; a last line that was cut off is left out."""
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if path.suffix != ".csv":
        return [json.loads(line) for line in lines]
    return [
        {name: TYPES.get(name, float)(cell) for name, cell in row.items() if cell != ""}
        for row in csv.DictReader(lines)
    ]
