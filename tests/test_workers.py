"""Processes that compile: never one that may not be Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnc_fast import workers


@pytest.fixture(autouse=True)
def _not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(workers.VARIABLE, raising=False)


def test_this_python_is_one() -> None:
    assert workers.python_executable() == sys.executable


def program(folder: Path, name: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


PYTHONS = (
    "python python3 python3.12 python3.13t python3.11d python3.11-dbg pypy3 python.exe pythonw.exe "
    "PYTHON.EXE python3.exe"
)


@pytest.mark.parametrize("name", PYTHONS.split())
def test_names_of_pythons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    path = program(tmp_path, name)
    monkeypatch.setattr(sys, "executable", path)
    assert workers.python_executable() == path


@pytest.mark.parametrize("name", ["app", "app.exe", "uwsgi", "httpd", "python-app", "mypython"])
def test_what_may_be_a_program_is_not_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr(sys, "executable", program(tmp_path, name))
    assert workers.python_executable() is None


@pytest.mark.parametrize("value", [None, "", "/nowhere/python3"])
def test_nothing_to_start(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setattr(sys, "executable", value)
    assert workers.python_executable() is None
    assert workers.worker_command("dnc_fast") is None


def test_a_folder_and_a_file_without_the_right_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path))
    assert workers.python_executable() is None
    (tmp_path / "python").write_text("")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert workers.python_executable() is None


def test_frozen_programs_and_workers_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)  # as PyInstaller sets it
    assert workers.python_executable() is None
    monkeypatch.delattr(sys, "frozen")
    monkeypatch.setenv(workers.VARIABLE, "1")
    assert workers.python_executable() is None


def test_a_worker_imports_from_where_its_parent_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "errand.py").write_text(
        "import os\ndef main(*words): print(*words, os.environ['DNC_FAST_WORKER'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = workers.worker_command("errand", "a", "b c")
    assert command is not None
    done = subprocess.run(
        command, env=workers.worker_environment(), capture_output=True, text=True, cwd=os.sep
    )
    assert done.stdout == "a b c 1\n", done.stderr
