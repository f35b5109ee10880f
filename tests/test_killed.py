"""Training that is killed at random moments, also while kernels are compiled and stored.

Three times here; 200 times by `pytest -m full`, half of them with the default linkage, whose two
kernels take the longest to compile, the others with eight small ones.
"""

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from runs import TINY_OPTIONS, assert_same_checkpoint
from states import HAS_NUMBA

from dnc_fast.training import load_checkpoint

TINY = TINY_OPTIONS | {"--max-steps": 150, "--solved-at": 2}

STARTER = """
    import os, sys
    import numba, torch
    from dnc_fast.cli import main
    for line in sys.stdin:  # once torch is imported here, training begins in milliseconds
        child = os.fork()
        if child == 0:
            os.dup2(2, 1)
            sys.exit(main(line.split()))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Starter:
    """Starts `dnc-fast train copy` again and again, each time in a process of its own."""

    def __init__(self, process: subprocess.Popen, linkage: str, errors: Path) -> None:
        self._process, self._linkage, self._errors = process, linkage, errors

    def train(self, folder: Path, seconds: float = 600.0) -> bool:
        """Begin or continue a run, kill it after so long; whether it had to be killed."""
        options = [str(word) for option in TINY.items() for word in option]
        resume = ["--resume"] if (folder / "checkpoint.pt").exists() else []
        options += ["--no-pictures", "--linkage", self._linkage]
        words = ["train", "copy", "--out", str(folder), *options, *resume]
        print(*words, file=self._process.stdin, flush=True)
        child = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(child, signal.SIGKILL)
        status = int(self._process.stdout.readline())
        assert status in (0, -signal.SIGKILL), self._errors.read_text()
        return status != 0


@contextmanager
def starter(linkage: str, cache: Path, errors: Path) -> Iterator[Starter]:
    with open(errors, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(STARTER)],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            bufsize=1,
        )
        with process:
            yield Starter(process, linkage, errors)


def stored(cache: Path) -> int:
    """How many kernels are in a cache."""
    kernels = [path for path in cache.glob("*/*") if path.suffix != ".part"]
    return len(kernels) - any(path.name == "lock" for path in kernels)


def timed(train: Callable[[Path], bool], folder: Path) -> float:
    begun = time.monotonic()
    assert not train(folder)
    return time.monotonic() - begun


def reached(folder: Path) -> int:
    """The step of a run's checkpoint; 0 if there is none."""
    if not (folder / "checkpoint.pt").exists():
        return 0
    return load_checkpoint(folder)["progress"]["step"]


def check(folder: Path, whole: Path, ended: bool) -> None:
    """Compare what is on the disk with an unbroken run: all of it if the run has ended."""
    expected = (whole / "metrics.jsonl").read_bytes()
    metrics = folder / "metrics.jsonl"
    found = metrics.read_bytes() if metrics.exists() else b""
    assert expected.startswith(found)
    if reached(folder):
        assert load_checkpoint(folder)["progress"]["metrics_size"] <= len(found)
    if ended:
        assert found == expected
        assert_same_checkpoint(folder, whole)
        assert sorted(os.listdir(folder)) == sorted(os.listdir(whole))


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
@pytest.mark.skipif(not HAS_NUMBA, reason="compiling is half of what is killed")
@pytest.mark.parametrize(
    ("linkage", "times"),
    [
        ("none", 3),
        pytest.param("none", 100, marks=pytest.mark.full),
        pytest.param("dense", 100, marks=pytest.mark.full),
    ],
)
def test_training_survives_being_killed(tmp_path: Path, linkage: str, times: int) -> None:
    """Each time: a checkpoint that can be read, and metrics that begin as those of an unbroken run.

    A run that comes to its end is the same as that one and leaves nothing else behind; then another
    begins. After every tenth kill the kernels are removed; the processes that follow find what was
    stored of those that were being compiled.
    """
    chance, killed = random.Random(0), Counter[str]()
    whole, again, folder, cache = (
        tmp_path / name for name in ("whole", "again", "killed", "cache")
    )
    with starter(linkage, cache, tmp_path / "errors") as start:
        compiling, training = timed(start.train, whole), timed(start.train, again)
        check(again, whole, ended=True)
        kernels, ended = stored(cache), False
        shutil.rmtree(cache)
        while killed.total() < times or not ended:
            longest = training if stored(cache) == kernels else compiling
            wait = chance.uniform(0.0, longest) if killed.total() < times else 600.0
            before = reached(folder)
            ended = not start.train(folder, wait)
            check(folder, whole, ended)
            if ended:
                shutil.rmtree(folder)
                continue
            progress = reached(folder) > before
            compiled = stored(cache) == kernels
            killed["training" if progress else "starting" if compiled else "compiling"] += 1
            if compiled and killed.total() % 10 == 0:
                shutil.rmtree(cache)
    print(f"killed {times} times: {dict(killed)}")
    assert times < 100 or min(killed["compiling"], killed["training"]) >= 10
