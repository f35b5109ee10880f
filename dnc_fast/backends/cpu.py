"""The memory step by the compiled CPU kernels, its work shared out over torch's number of threads.

Sums are made in an order that does not depend on the threads, so neither do the kernels' results.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, AdjointSteps, Step, Steps
from ..kernels.cpu import step as kernels
from ..kernels.cpu import steps as all_kernels
from ..kernels.cpu.compile import CACHE, CACHE_FOLDER
from ..kernels.cpu.step import AFTER, ALL, BEFORE, LINKS
from ..state import MemorySizes
from .eager import lstm_backward, lstm_forward
from .team import Range, ranges_of, ranges_to, run_ranges

__all__ = [
    "array",
    "backward",
    "backward_steps",
    "forward",
    "forward_steps",
    "lstm_backward",
    "lstm_forward",
    "make_scratch",
    "rebuild",
]

PARALLEL_FROM = 1 << 16
"""Numbers in the link matrices of a step from which threads are worth their hand-over."""

PARALLEL_STEPS_FROM = 1 << 20
"""Numbers in link matrices and weights, over all steps, from which they are for whole sequences."""


def array(tensor: Tensor) -> np.ndarray:
    """What the primitives take for a tensor: a NumPy array on the same memory."""
    return tensor.detach().numpy()


def compiled_marker(dtype: torch.dtype, kind: str) -> Path:
    """The file that stands where the kernels of a dtype are compiled and on the disk."""
    return CACHE_FOLDER / f"{str(dtype).removeprefix('torch.')}-{kind}"


def is_compiled(dtype: torch.dtype, kind: str = "step") -> bool:
    """Whether the kernels of a dtype need no compiling in this process."""
    return CACHE and compiled_marker(dtype, kind).exists()


def compile_once(dtype: torch.dtype, kind: str) -> None:
    """Have the kernels of a dtype compiled to the disk, once, see `warm_up`, and load them all.

    Kernels share functions, and a process takes each from the kernel that it loads first, so all
    are loaded in one order: else their sums would depend on what was calculated before. Where
    compiling fails, or the disk cannot be written to, this process compiles what it needs.

    Args:
        dtype: of the state.
        kind: "step", or after it "composed", of composed steps.
    """
    if (dtype, kind) in _asked_for:
        return
    from .warm_up import KINDS  # which imports this module

    with _compile_lock:
        if (dtype, kind) not in _asked_for and CACHE and not is_compiled(dtype, kind):
            name = str(dtype).removeprefix("torch.")
            command = [sys.executable, "-m", f"{__package__}.warm_up", name, kind]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if (dtype, kind) not in _asked_for and is_compiled(dtype, kind):
            KINDS[kind](dtype)
        _asked_for.add((dtype, kind))


_asked_for: set[tuple[torch.dtype, str]] = set()
_compile_lock = threading.Lock()


def make_scratch(sizes: MemorySizes, dtype: torch.dtype, device: torch.device) -> Any:
    """Arrays that the parts of a step leave for each other."""
    compile_once(dtype, "step")
    return kernels.make_scratch(*sizes, array(torch.empty(0, dtype=dtype, device="cpu")).dtype)


def forward(step: Step, scratch: Any, usage_order: str) -> None:
    """Fill step.*1 and step.reads."""
    B, Hw, N, _ = step.link0.shape
    _run_stages(B, Hw, N, kernels.forward, step, scratch, usage_order == "robust")


def rebuild(step: Step, scratch: Any, with_link: bool) -> None:
    """Fill memory1, and link1 if asked, from memory0, link0 and the vectors."""
    B, Hw, N, _ = step.link0.shape
    kernels.rebuild(BEFORE, 0, B, step, scratch)
    if with_link:
        _run_strips(B, Hw, N, kernels.rebuild, step, scratch)


def backward(step: Step, adjoint: Adjoint, scratch: Any, usage_order: str) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place.
    """
    B, Hw, N, _ = step.link0.shape
    _run_stages(B, Hw, N, kernels.backward, step, adjoint, scratch, usage_order == "robust")


def forward_steps(steps: Steps, scratch: Any, usage_order: str) -> None:
    """Take a batch of sequences, with a controller of layers, through all steps."""
    robust, T = usage_order == "robust", len(steps.batch_sizes)
    ranges = _ranges_of_sequences(steps)
    if ranges:
        run_ranges(ranges, partial(all_kernels.forward, ALL), 0, T, steps, scratch, robust)
        return
    _, Hw, N = steps.write.shape
    for t, B in enumerate(map(int, steps.batch_sizes)):
        _run_by_strips(B, Hw, N, all_kernels.forward, t, t + 1, steps, scratch, robust)


def backward_steps(steps: Steps, adjoint: AdjointSteps, scratch: Any, usage_order: str) -> None:
    """Take the adjoint back through all steps; segments are made anew on the way."""
    robust, T = usage_order == "robust", len(steps.batch_sizes)
    ranges = _ranges_of_sequences(steps)
    if ranges:
        whole = partial(all_kernels.backward, ALL)
        run_ranges(ranges, whole, 0, T, steps, adjoint, scratch, robust)
        return
    _, Hw, N = steps.write.shape
    for t in reversed(range(T)):
        if t + 1 == T or (t + 1) % steps.interval == 0:
            _rebuild_segment(t, steps, scratch)
        B, kernel = int(steps.batch_sizes[t]), all_kernels.backward
        _run_by_strips(B, Hw, N, kernel, t, t + 1, steps, adjoint, scratch, robust)


def _rebuild_segment(last: int, steps: Steps, scratch: Any) -> None:
    """Make the matrices anew of the segment whose last step is `last`, shared out by strips."""
    _, Hw, N = steps.write.shape
    for t in range(last - last % steps.interval, last + 1):
        B = int(steps.batch_sizes[t])
        if steps.anew[t] > 0:
            all_kernels.rebuild(BEFORE, 0, B, t, steps, scratch)
        if steps.anew[t] > 1:
            _run_strips(B, Hw, N, all_kernels.rebuild, t, steps, scratch)


def _run_stages(B: int, Hw: int, N: int, function: Callable[..., None], *arguments: Any) -> None:
    """All stages of a step, shared out by batch elements where there are enough, or by strips."""
    threads = _threads(B * Hw * N * N)
    if threads <= B:
        run_ranges(ranges_of(B, threads), partial(function, ALL), *arguments)
    else:
        _run_by_strips(B, Hw, N, function, *arguments)


def _run_by_strips(B: int, Hw: int, N: int, function: Callable[..., None], *arguments: Any) -> None:
    """One stage of a step after the other; that of the link matrices shared out."""
    function(BEFORE, 0, B, *arguments)
    _run_strips(B, Hw, N, function, *arguments)
    function(AFTER, 0, B, *arguments)


def _run_strips(B: int, Hw: int, N: int, function: Callable[..., None], *arguments: Any) -> None:
    """The strips of all link matrices of a step, shared out."""
    ranges = ranges_of(B * kernels.num_strips(N), _threads(B * Hw * N * N))
    run_ranges(ranges, partial(function, LINKS), *arguments)


def _threads(numbers: int) -> int:
    """How many threads should work on a step with so many numbers in its link matrices."""
    return torch.get_num_threads() if numbers >= PARALLEL_FROM else 1


def _ranges_of_sequences(steps: Steps) -> list[Range]:
    """Ranges of sequences that threads take through all steps.

    Empty where more threads than there are sequences are worth their hand-over at every step.
    """
    threads, B = torch.get_num_threads(), int(steps.batch_sizes[0])
    _, Hw, N = steps.write.shape
    total = int(steps.batch_sizes.sum())
    if total * (Hw * N * N + steps.weights.size) < PARALLEL_STEPS_FROM:
        threads = 1
    elif threads > B:
        if B * Hw * N * N >= PARALLEL_FROM:
            return []
        threads = B
    return fair_ranges(steps.batch_sizes, threads)


def fair_ranges(batch_sizes: np.ndarray, threads: int) -> list[Range]:
    """Ranges of sequences, longest first, with about as many steps in each, at most one a thread.

    Args:
        batch_sizes: (T), sequences at each step.
        threads: how many.
    """
    B = int(batch_sizes[0])
    if threads == 1:
        return [(0, B)]
    steps_until = np.cumsum((batch_sizes[:, None] > np.arange(B)).sum(0))
    shares = steps_until[-1] * np.arange(1, threads) / threads
    return ranges_to([*map(int, np.searchsorted(steps_until, shares) + 1), B])
