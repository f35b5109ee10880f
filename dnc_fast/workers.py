"""Other Python processes, which compile kernels: whether they can be started, how, how many.

And how those that compile into one folder wait for each other.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

VARIABLE = "DNC_FAST_WORKER"
"""Set in the environment of a worker, which starts no workers itself."""

_PYTHON = re.compile(r"(python|pypy)w?[\d.]*[a-z]?(-dbg|-intel64)?(\.exe)?", re.IGNORECASE)


def python_executable() -> str | None:
    """The file of the Python that runs this process; None where that is not certain.

    In a frozen program, and in one that embeds Python, `sys.executable` may be the program itself:
    starting it would start the program again, and that one the next. So where there is any
    doubt, no process is started, and the caller does the work itself.
    """
    if getattr(sys, "frozen", False) or "__compiled__" in globals():  # the latter by Nuitka
        return None
    if os.environ.get(VARIABLE):
        return None
    path = sys.executable
    if not path or not _PYTHON.fullmatch(os.path.basename(path)):
        return None
    return path if os.path.isfile(path) and os.access(path, os.X_OK) else None


def worker_command(module: str, *arguments: str) -> list[str] | None:
    """The command that runs `module.main(*arguments)` in another process; None: start none.

    The worker imports from where this process does, also if it changed `sys.path` itself.
    """
    python = python_executable()
    if python is None:
        return None
    paths = [path for path in sys.path if isinstance(path, str)]
    code = f"import sys; sys.path[:] = {paths!r}; from {module} import main; main(*sys.argv[1:])"
    return [python, "-c", code, *arguments]


def worker_environment() -> dict[str, str]:
    """The environment for a worker."""
    return {**os.environ, VARIABLE: "1"}


@contextmanager
def one_at_a_time(folder: Path, seconds: float = float("inf")) -> Iterator[None]:
    """Let one process at a time compile into a folder, so that others find what it compiled.

    Goes on without the lock after so many seconds, and where the system has none.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as file:
        until = time.monotonic() + seconds
        while fcntl is not None and time.monotonic() < until:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # the lock ends with the process that holds it
                time.sleep(0.1)
        yield


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
