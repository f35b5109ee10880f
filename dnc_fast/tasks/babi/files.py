"""The files of bAbI: in a folder, or in an archive as published."""

from __future__ import annotations

import re
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath

from ..stories import Story, StoryError
from .text import parse_stories

FILE_SETS = ("en", "en-10k")
"""1,000 or 10,000 training questions per task; the 1,000 test questions are the same."""

PATTERN = re.compile(r"qa(\d+)_.*_(train|test)\.txt")


@lru_cache(maxsize=4)
def find_files(data: str) -> dict[tuple[str, int, str], str]:
    """The files of a folder or archive: their names by set, task and "train" or "test".

    The set of files outside a folder `en` or `en-10k` is "".

    Raises:
        FileNotFoundError: there is no such folder or archive, or it holds no bAbI file.
        StoryError: the archive is of an unknown format.
    """
    path = Path(data)
    if path.is_dir():
        names = [str(file.relative_to(path)) for file in path.rglob("qa*.txt")]
    elif path.is_file():
        names = archive_names(path)
    else:
        raise FileNotFoundError(f"data must name a folder or archive of bAbI, got {data!r}")
    found = {}
    for name in sorted(names):
        parts = PurePosixPath(Path(name).as_posix()).parts
        match = PATTERN.fullmatch(parts[-1])
        if match and not parts[-1].startswith("."):
            folder = parts[-2] if len(parts) > 1 and parts[-2] in FILE_SETS else ""
            folder = path.name if not folder and path.name in FILE_SETS else folder
            if folder or len(parts) == 1:
                found[folder, int(match[1]), match[2]] = name
    if not found:
        raise FileNotFoundError(
            "data must hold files such as en-10k/qa1_single-supporting-fact_train.txt, got "
            f"{data!r} without any"
        )
    return found


def archive_names(path: Path) -> list[str]:
    """The files in an archive.

    Raises:
        StoryError: it is not a readable tar or zip file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return archive.namelist()
        with tarfile.open(path) as archive:
            return [member.name for member in archive if member.isfile()]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise StoryError(
            f"data must be a folder, a tar file (.tar, .tar.gz, .tar.xz, ...) or a zip file, got "
            f"{str(path)!r}: {error}"
        ) from None


def read_members(data: str, names: list[str]) -> list[bytes]:
    """The contents of files in a folder or archive, which is opened only once."""
    path = Path(data)
    if path.is_dir():
        return [(path / name).read_bytes() for name in names]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return [archive.read(name) for name in names]
    with tarfile.open(path) as archive:
        found = {
            member.name: file.read()
            for member in archive
            if member.name in names and (file := archive.extractfile(member)) is not None
        }
    return [found[name] for name in names]


def choose_files(
    data: str, file_set: str, numbers: tuple[int, ...], kind: str
) -> list[tuple[str, str]]:
    """For each task, the set that it is read from and the file.

    A task that the set lacks is read from the other one.

    Raises:
        FileNotFoundError: neither has the task.
    """
    found = find_files(data)
    others = [name for name in FILE_SETS if name != file_set]
    chosen = []
    for number in numbers:
        sets = [name for name in (file_set, "", *others) if (name, number, kind) in found]
        if not sets:
            raise FileNotFoundError(
                f"data must hold qa{number}_..._{kind}.txt for task {number}, got {data!r} without "
                "it; leave the task out of `tasks`"
            )
        chosen.append((sets[0], found[sets[0], number, kind]))
    return chosen


@lru_cache(maxsize=8)
def read_stories(
    data: str, file_set: str, numbers: tuple[int, ...], kind: str
) -> tuple[tuple[Story, ...], ...]:
    """The stories of each task; read only once.

    Args:
        data: a folder or archive.
        file_set: one of `FILE_SETS`.
        numbers: of the tasks, 1 to 20.
        kind: "train" or "test".

    Raises:
        FileNotFoundError: there is no such folder, archive or file.
        StoryError: a file does not follow the format; names file and line.
    """
    names = [name for _, name in choose_files(data, file_set, numbers, kind)]
    stories = []
    for name, content in zip(names, read_members(data, names), strict=True):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise StoryError(f"{name}, line {line}: expected UTF-8 text: {error}") from None
        stories.append(tuple(parse_stories(text, name)))
    return tuple(stories)
