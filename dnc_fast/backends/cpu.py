"""The memory step by the compiled CPU kernels, its work shared out over torch's number of threads.

Sums are made in an order that does not depend on the threads, so neither do the results.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, Step
from ..kernels.cpu import lstm
from ..kernels.cpu import step as kernels
from ..kernels.cpu.compile import CACHE, CACHE_FOLDER
from ..state import MemorySizes

PARALLEL_FROM = 1 << 16
"""Numbers in the link matrices of a step from which threads are worth their hand-over."""


def array(tensor: Tensor) -> np.ndarray:
    """What the primitives take for a tensor: a NumPy array on the same memory."""
    return tensor.detach().numpy()


def compiled_marker(dtype: torch.dtype) -> Path:
    """The file that stands where the kernels of a dtype are compiled and on the disk."""
    return CACHE_FOLDER / str(dtype).removeprefix("torch.")


def is_compiled(dtype: torch.dtype) -> bool:
    """Whether the kernels of a dtype need no compiling in this process."""
    return CACHE and compiled_marker(dtype).exists()


def _compile(dtype: torch.dtype) -> None:
    """Have the kernels of a dtype compiled to the disk, once, see `warm_up`.

    Where that fails, or the disk cannot be written to, this process compiles what it needs.
    """
    with _compile_lock:
        if dtype not in _asked_for and CACHE and not is_compiled(dtype):
            name = compiled_marker(dtype).name
            command = [sys.executable, "-m", f"{__package__}.warm_up", name]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        _asked_for.add(dtype)


_asked_for: set[torch.dtype] = set()
_compile_lock = threading.Lock()


def make_scratch(sizes: MemorySizes, dtype: torch.dtype, device: torch.device) -> Any:
    """Arrays that the parts of a step leave for each other."""
    if dtype not in _asked_for:
        _compile(dtype)
    return kernels.make_scratch(*sizes, array(torch.empty(0, dtype=dtype, device="cpu")).dtype)


@contextmanager
def loop(sizes: MemorySizes) -> Iterator[None]:
    """While steps follow each other, torch's threads rest where ours work.

    OpenMP's threads spin for a while after each operation of torch, on the cores that ours need.
    """
    threads = torch.get_num_threads()
    if sizes.batch_size * sizes.num_write_heads * sizes.num_cells**2 < PARALLEL_FROM:
        threads = 1
    if threads == 1:
        yield
        return
    _local.threads = threads
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        del _local.threads


_local = threading.local()


def forward(step: Step, scratch: Any, usage_order: str) -> None:
    """Fill step.*1 and step.reads."""
    robust = usage_order == "robust"
    B, strips, threads = _shares(step)
    if threads <= B:
        _share_out(threads, B, kernels.forward, step, scratch, robust)
        return
    for b in range(B):
        kernels.forward_before(b, step, scratch, robust)
    _share_out(threads, B * strips, kernels.forward_links, step, scratch)
    for b in range(B):
        kernels.forward_after(b, step, scratch)


def rebuild(step: Step, scratch: Any, with_link: bool) -> None:
    """Fill memory1, and link1 if asked, from memory0, link0 and the vectors."""
    B, strips, threads = _shares(step)
    kernels.rebuild_memory(0, B, step, scratch)
    if with_link:
        _share_out(threads, B * strips, kernels.rebuild_links, step, strips)


def backward(step: Step, adjoint: Adjoint, scratch: Any, usage_order: str) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place.
    """
    robust = usage_order == "robust"
    B, strips, threads = _shares(step)
    if threads <= B:
        _share_out(threads, B, kernels.backward, step, adjoint, scratch, robust)
        return
    for b in range(B):
        kernels.backward_before(b, step, adjoint, scratch)
    _share_out(threads, B * strips, kernels.backward_links, step, adjoint, scratch)
    for b in range(B):
        kernels.backward_after(b, step, adjoint, scratch, robust)


def _shares(step: Step) -> tuple[int, int, int]:
    """Batch elements, strips of each, and how many threads should work on the step."""
    B, _, N, _ = step.link0.shape
    if step.link0.size < PARALLEL_FROM:
        return B, kernels.num_strips(N), 1
    return B, kernels.num_strips(N), getattr(_local, "threads", torch.get_num_threads())


def lstm_backward(
    active: Tensor,
    seen: Tensor,
    cells: Tensor,
    d_hidden: Tensor,
    d_cells: Tensor,
    d_active: Tensor,
) -> None:
    """As `eager.lstm_backward`, in one pass."""
    lstm.lstm_backward(*map(array, (active, seen, cells, d_hidden, d_cells, d_active)))


def _share_out(threads: int, count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call function(first, last, ...) on ranges that cover [0, count), at most one a thread."""
    ends = [count * (thread + 1) // threads for thread in range(threads)]
    ranges = [(a, b) for a, b in zip([0, *ends], ends, strict=False) if a < b]
    others = [_pool(threads).submit(function, a, b, *arguments) for a, b in ranges[1:]]
    function(*ranges[0], *arguments)
    for other in others:
        other.result()


_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """The helpers of this thread; a forked process makes its own."""
    key = (os.getpid(), threads)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="dnc_fast")
        return _pools[key]
