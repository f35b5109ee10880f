"""A training run as a process: its signals, and the lock on its folder."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Note the first Ctrl-C or SIGTERM in a list, and do nothing else; a second one acts as usual.

    Outside the main thread, where Python delivers no signals, the list stays empty.
    """
    received: list[int] = []
    handlers: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while handlers:
            signal.signal(*handlers.popitem())

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        handlers.update({name: signal.signal(name, note) for name in SIGNALS})
    try:
        yield received
    finally:
        restore()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder; the lock also ends when this one is killed.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process trains in {folder}; train in another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)
