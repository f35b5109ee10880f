"""Batches drawn ahead by others: a background thread, or processes.

Batches are numbered, and depend on their number alone, so it is the same whoever draws them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import torch
import torch.multiprocessing  # lets processes hand over tensors in shared memory

from ..tasks import Batch
from ..workers import cores, python_executable

AHEAD = 2
"""Draws that are ready or under way beyond the one taken; with processes, for each of them."""

COSTLY = 2e-3
"""Seconds: a draw that takes longer is worth a process, see `suitable_workers`."""

CAPTURED_STEPS = 8
"""On a GPU, T is a multiple of this: each T that occurs takes the time of a capture."""

Draw = list[list[Batch]]
"""The batches of one draw, each as its chunks."""


class _Pending(NamedTuple):
    """A draw under way. drawn: by a process, None where the thread draws. ready: in the end."""

    key: tuple[int, int]
    drawn: Future[Draw] | None
    ready: Future[Draw]

    def cancel(self) -> None:
        self.ready.cancel()
        if self.drawn is not None:
            self.drawn.cancel()


class Prefetcher:
    """Calls `draw(number, lesson)` for the next numbers while the caller works.

    What is drawn depends on number and lesson alone, so it is the same without a prefetcher, and
    with any number of processes. If one of them is killed, a warning says so, and the thread draws
    from then on. Use it in a `with` statement, which ends the thread and the processes.

    Args:
        draw: from number and lesson to what `take` returns; called in another thread. For processes
            it must be possible to pickle it.
        workers: processes that draw, with one thread each; 0: a thread of this process draws. They
            import the program's main module, which must not begin anything when it is imported.
        pin_memory: whether the thread copies batches to pinned memory, from which a GPU copies
            without the caller waiting for it.
    """

    def __init__(
        self, draw: Callable[[int, int], Draw], workers: int = 0, pin_memory: bool = False
    ) -> None:
        self._draw = draw
        self._pin_memory = pin_memory
        self._pending: deque[_Pending] = deque()
        self._ahead = AHEAD * max(workers, 1)
        self._thread = ThreadPoolExecutor(
            1, "dnc_fast batches", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self._processes: ProcessPoolExecutor | None = None
        if workers:
            spawn = multiprocessing.get_context("spawn")  # a fork would inherit locks, and CUDA
            self._processes = ProcessPoolExecutor(workers, spawn, begin_worker)
        self.waited = 0.0
        """Seconds that `take` waited in all."""

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
        self._thread.shutdown(cancel_futures=True)

    def take(self, number: int, lesson: int) -> Draw:
        """`draw(number, lesson)`, once or again; the draws after it are started.

        Raises:
            Exception: whatever `draw` raised; from a process, its cause holds the traceback there.
        """
        started = time.perf_counter()
        while self._pending and self._pending[0].key != (number, lesson):
            self._pending.popleft().cancel()
        for ahead in range(number + len(self._pending), number + self._ahead + 1):
            self._pending.append(self._start(ahead, lesson))
        result = self._pending[0].ready.result()
        self.waited += time.perf_counter() - started
        return result

    def _start(self, number: int, lesson: int) -> _Pending:
        drawn = None
        if self._processes is not None:
            try:
                drawn = self._processes.submit(self._draw, number, lesson)
            except BrokenProcessPool:
                self._go_on_without_processes()
        ready = self._thread.submit(self._ready, number, lesson, drawn)
        return _Pending((number, lesson), drawn, ready)

    def _ready(self, number: int, lesson: int, drawn: Future[Draw] | None) -> Draw:
        """In the thread: what a process drew, or draw it."""
        try:
            draw = self._draw(number, lesson) if drawn is None else drawn.result()
        except BrokenProcessPool:
            draw = self._draw(number, lesson)
        if self._pin_memory:
            draw = [[chunk.pin_memory() for chunk in chunks] for chunks in draw]
        return draw

    def _go_on_without_processes(self) -> None:
        warnings.warn(
            "a process that draws batches was killed, perhaps for lack of memory (shared memory "
            "is in /dev/shm); training continues, with the same batches drawn by a thread",
            RuntimeWarning,
            stacklevel=4,
        )
        assert self._processes is not None
        self._processes.shutdown()
        self._processes = None


def rounded(batch: Batch) -> Batch:
    """The batch as a GPU runs it, see `CAPTURED_STEPS`; the same batch for a CPU."""
    return batch.padded(CAPTURED_STEPS) if batch.inputs.device.type == "cuda" else batch


def begin_worker() -> None:
    """Prepare a process for drawing: one thread; it ends when its parent does, not by Ctrl-C.

    Ctrl-C reaches all processes of a terminal, and the parent then finishes its step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed ends no workers, and they would wait for it forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def suitable_workers(draw: Callable[[int, int], Draw], lesson: int, device: torch.device) -> int:
    """How many processes should draw: up to 2 where a GPU trains and draws take long, otherwise 0.

    A thread draws while CPU kernels run as well. Beside a GPU it takes Python's lock from the
    thread that launches.

    Args:
        draw: see `Prefetcher`.
        lesson: the one whose batches take the longest.
        device: where the model trains.
    """
    if device.type == "cpu" or python_executable() is None:
        return 0
    draw(0, lesson)  # the first time, tables may be made
    started = time.perf_counter()
    draw(0, lesson)
    costly = time.perf_counter() - started > COSTLY
    return min(2, cores() - 1) if costly else 0
