"""Threads for the compiled kernels: torch's own, if possible.

torch's operations run in a team of OpenMP threads, which spin for some milliseconds after each
operation. Threads of our own would compete with them for the cores, so the kernels run in the same
team. Without GNU OpenMP, and in a process forked after this import, which has none of the team's
threads, they run in a pool. (torch's own operations hang in such a process, unless it sets their
number of threads to 1, as a DataLoader's workers do.)
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

Range = tuple[int, int]


def run_ranges(ranges: list[Range], function: Callable[..., None], *arguments: Any) -> None:
    """Call function(first, last, ...) on all ranges in parallel; errors reach the caller."""
    if len(ranges) == 1:
        function(*ranges[0], *arguments)
    elif _team is None or os.getpid() != _process:
        _run_in_pool(ranges, function, arguments)
    else:
        _run_in_team(_team, ranges, function, arguments)


def ranges_of(count: int, threads: int) -> list[Range]:
    """Ranges that cover [0, count), at most one per thread."""
    return ranges_to([count * (thread + 1) // threads for thread in range(threads)])


def ranges_to(ends: list[int]) -> list[Range]:
    """The ranges from 0 to the first end and from each end to the next, without the empty ones."""
    return [(a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]


def _find_team() -> Any:
    """torch's OpenMP library, or None if it is not GNU's."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            library.GOMP_parallel.argtypes = (_Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            library.omp_get_thread_num.restype = ctypes.c_int
        except (OSError, AttributeError):
            continue
        return library
    return None


_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_team = _find_team()
_process = os.getpid()


def _run_in_team(
    team: Any, ranges: list[Range], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    errors: list[BaseException] = []
    taken = [False] * len(ranges)

    def body(_: Any) -> None:
        try:
            place = team.omp_get_thread_num()
            function(*ranges[place], *arguments)
            taken[place] = True
        except BaseException as error:  # an exception must not pass through OpenMP
            errors.append(error)

    team.GOMP_parallel(_Body(body), None, len(ranges), 0)
    if errors:
        raise errors[0]
    # OpenMP may give fewer threads than requested: OMP_THREAD_LIMIT, or inside another team.
    for one, done in zip(ranges, taken, strict=True):
        if not done:
            function(*one, *arguments)


def _run_in_pool(
    ranges: list[Range], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    others = [_pool(len(ranges)).submit(function, *one, *arguments) for one in ranges[1:]]
    try:
        function(*ranges[0], *arguments)
    finally:  # no thread may outlive the arrays
        wait(others)
    for other in others:
        other.result()


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """A process's helpers, for that many threads; a forked process creates its own."""
    key = (os.getpid(), threads)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="dnc_fast")
        return _pools[key]
