"""The one format of results: JSON lines, a header with the provenance and then the records.

After every job the whole file is replaced in one step, so stopping at any moment loses one job at
most, and a later run continues from there.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
from pathlib import Path
from typing import Any

from .provenance import command, told

FORMAT = 1
NAME = "results.jsonl"
Record = dict[str, Any]


class ResultsError(ValueError):
    """A result file cannot be read, or cannot be continued."""


def write_whole(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.write_text(text)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> Results:
    """The results in a file, or in the file of that name in a folder.

    Raises:
        ResultsError: there is no such file, it is no result file, or it is cut off.
    """
    path = Path(path)
    if path.is_dir():
        path = path / NAME
    if not path.is_file():
        raise ResultsError(f"there are no results at {path}; `python -m bench run` makes them")
    lines = path.read_text().splitlines()
    found: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError
        except ValueError:
            raise ResultsError(
                f"{path} is damaged: line {number} of {len(lines)} is not JSON (cut off?). The "
                f"file was left as it is; the {max(0, len(found) - 1)} records before it are "
                "whole, and without that line the run continues from there"
            ) from None
        found.append(value)
    if not found or found[0].get("format") != FORMAT:
        raise ResultsError(
            f"{path} must begin with a header of format {FORMAT}, got "
            f"{lines[0][:60] if lines else 'an empty file'!r}; another version wrote it"
        )
    return Results(path, found[0], found[1:])


class Results:
    """Records with their header and their file.

    header: `format`, `dry`, `date` and `command` of the beginning, and `provenance`
        (`provenance.facts`). Results of before lack the date and the command.
    records: each with `job`, the name of the job that made it, and `kind`.
    """

    def __init__(self, path: Path, header: Record, records: list[Record]) -> None:
        self.path, self.header, self.records = path, header, records

    @property
    def dry(self) -> bool:
        return bool(self.header["dry"])

    @property
    def provenance(self) -> Record:
        return dict(self.header["provenance"])

    @property
    def told(self) -> str:
        """Where, with what and when it was measured, in one line."""
        date = self.header.get("date")
        return told(self.provenance) + (f"; {date}" if date else "")

    def has(self, job: str) -> bool:
        return any(record["job"] == job for record in self.records)

    def add(self, job: str, records: list[Record]) -> None:
        """Replace the records of a job, and write the file."""
        kept = [record for record in self.records if record["job"] != job]
        dry = {"dry": True} if self.dry else {}
        self.records = kept + [{"job": job, **record, **dry} for record in records]
        lines = (self.header, *self.records)
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def of_kind(self, kind: str, **fields: Any) -> list[Record]:
        """The records of a kind whose fields have the given values."""
        return [
            record
            for record in self.records
            if record["kind"] == kind and all(record.get(k) == v for k, v in fields.items())
        ]


def open_results(folder: Path, provenance: Record, dry: bool, fresh: bool = False) -> Results:
    """The results in a folder, to be continued, or new ones.

    Raises:
        ResultsError: the results there were made by another commit, device or version, and must not
            be mixed with new ones.
    """
    path = folder / NAME
    today = datetime.date.today().isoformat()
    header = {"format": FORMAT, "dry": dry, "date": today, "command": command()}
    header["provenance"] = provenance
    if fresh or not path.exists():
        return Results(path, header, [])
    found = read(path)
    old, new = {**found.provenance, "dry": found.dry}, {**provenance, "dry": dry}
    other = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if other:
        told = ", ".join(f"{name} {old.get(name)} there, {new.get(name)} here" for name in other)
        raise ResultsError(
            f"the results at {path} are of another run ({told}) and must not be mixed with new "
            "ones; continue as before, give another --out, or start over with --fresh"
        )
    return found
