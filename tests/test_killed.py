"""Training that is killed at random moments, also while kernels are compiled and stored.

Three times here; 200 times by `pytest -m full`.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import TINY_OPTIONS
from states import HAS_NUMBA

from dnc_fast.training import load_checkpoint, read_metrics

TINY = TINY_OPTIONS | {"--max-steps": 150, "--solved-at": 2}


def start(folder: Path, cache: Path, *more: str) -> subprocess.Popen:
    """Training in a process group of its own, so that its workers are killed with it."""
    options = [str(word) for option in TINY.items() for word in option]
    command = [sys.executable, "-m", "dnc_fast", "train", "copy", "--out", str(folder)]
    return subprocess.Popen(
        [*command, *options, "--no-pictures", *more],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
@pytest.mark.skipif(not HAS_NUMBA, reason="compiling is half of what is killed")
@pytest.mark.parametrize("times", [3, pytest.param(200, marks=pytest.mark.full)])
def test_training_survives_being_killed(tmp_path: Path, times: int) -> None:
    """A readable checkpoint every time, metrics that begin as those of an unbroken run, and the
    same in the end; a cache that was killed while it was written is no obstacle.
    """
    started = time.monotonic()
    finish(start(tmp_path / "whole", tmp_path / "cache"))
    took = time.monotonic() - started
    whole = read_metrics(tmp_path / "whole/metrics.jsonl")
    chance, folder, cache = random.Random(0), tmp_path / "killed", tmp_path / "cache"
    for number in range(times):
        if number % 2 == 0:  # compile anew
            shutil.rmtree(cache)
        begun = (folder / "checkpoint.pt").exists()
        process = start(folder, cache, *(["--resume"] if begun else []))
        try:
            process.wait(timeout=chance.uniform(0.0, took))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (folder / "checkpoint.pt").exists():
            step = load_checkpoint(folder)["progress"]["step"]
            known = [row for row in whole if row["step"] <= step]
            assert read_metrics(folder / "metrics.jsonl")[: len(known)] == known
    resumed = ["--resume"] if (folder / "checkpoint.pt").exists() else []
    finish(start(folder, cache, *resumed))
    assert (folder / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole/metrics.jsonl"
    ).read_bytes()
