"""When the CPU kernels are compiled: those that are needed, in processes side by side."""

from __future__ import annotations

import pickle
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

from ... import workers
from ...compiling import tell
from ...kernels.cpu import compile as kernels
from ...kernels.cpu import groups, store, worker
from ...workers import worker_command, worker_environment

WHAT = "CPU kernels"
_ready: set[tuple[str, str]] = set()
_lock = threading.RLock()


def ensure(dtype: torch.dtype, *names: str) -> None:
    """Compile groups of kernels, or load them; at once if this process has them.

    Processes compile them side by side if this Python can start some, otherwise this one does; what
    is compiled, and thus all results, are the same. Ctrl-C interrupts it.

    Args:
        dtype: of the state.
        names: of `GROUPS`.
    """
    kind = str(dtype).removeprefix("torch.")
    if all((kind, name) in _ready for name in names):
        return
    with _lock:
        missing = [name for name in names if not is_compiled(kind, name)]
        if missing:
            _compile(kind, missing)
        for name in names:
            for kernel, signature in groups.calls(name, kind):
                kernel.compile(signature)  # loads it
            _ready.add((kind, name))


def is_compiled(kind: str, name: str) -> bool:
    """Whether a group's kernels are in this process or on disk."""
    return all(kernel.is_compiled(signature) for kernel, signature in groups.calls(name, kind))


def _compile(kind: str, names: list[str]) -> None:
    """Compile groups, and tell how far that is."""
    parts = {name: _parts(name) for name in names}
    done, total = 0, sum(parts.values())

    def step() -> None:
        nonlocal done
        done = min(done + 1, total - 1)
        tell(WHAT, done, total)

    tell(WHAT, 0, total)
    with locked():
        parts = {name: count for name, count in parts.items() if not is_compiled(kind, name)}
        if parts and not _in_workers(kind, _shares(parts), step):
            kernels.on_part.append(step)
            try:
                for name in parts:
                    for kernel, signature in groups.calls(name, kind):
                        kernel.compile(signature)
            finally:
                kernels.on_part.remove(step)
    tell(WHAT, total, total)


@contextmanager
def locked(seconds: float = 120.0) -> Iterator[None]:
    """Let one process at a time compile, for so long; also where nothing can be stored."""
    with ExitStack() as stack:
        if store.FOLDER is not None:
            with suppress(OSError):
                stack.enter_context(workers.one_at_a_time(store.FOLDER, seconds))
        yield


def _parts(name: str) -> int:
    """How many parts the kernels of a group have, each counted once."""
    return len(set().union(*(kernel.parts() for kernel, _ in groups.calls(name, "float32"))))


def _shares(parts: dict[str, int]) -> list[list[str]]:
    """Groups for each worker, so that each has about as much to do."""
    count = min(len(parts), workers.cores())
    shares: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(parts, key=parts.__getitem__, reverse=True):
        min(shares, key=lambda share: sum(parts[one] for one in share)).append(name)
    return shares


def _in_workers(kind: str, shares: list[list[str]], step: Callable[[], None]) -> bool:
    """Compile in other processes and store what they send; False if that cannot be done."""
    commands = [worker_command(worker.__name__, kind, *share) for share in shares]
    messages: queue.Queue[Any] = queue.Queue()
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            if command is None:
                return False
            running.append(
                subprocess.Popen(
                    command,
                    env=worker_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C reaches this process only, which ends them
                )
            )
        for process in running:
            threading.Thread(target=_read, args=(process, messages), daemon=True).start()
        reading = len(running)
        while reading:
            try:
                message = messages.get(timeout=0.2)  # so that Ctrl-C interrupts it everywhere
            except queue.Empty:
                continue
            if message is END:
                reading -= 1
            elif message is None:
                step()
            else:
                store.receive(*message)
        return all(process.wait() == 0 for process in running)
    except OSError:  # no more processes, no more memory
        return False
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


END = object()


def _read(process: subprocess.Popen[bytes], messages: queue.Queue[Any]) -> None:
    """Put what a worker sends into the queue, then `END`."""
    assert process.stdout is not None
    try:
        while True:
            messages.put(pickle.load(process.stdout))
    except Exception:  # it has ended, or was ended in the middle of a message
        messages.put(END)
