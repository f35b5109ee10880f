"""The paper's whole step with compiled kernels, and all steps of a batch in one call.

The order of sums does not depend on the threads, so neither do the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ...interface import interface_size
from ...kernels.arrays import LSTM, Adjoint, AdjointSteps, Step, Steps
from ...kernels.cpu import all_steps as all_kernels
from ...kernels.cpu import step as kernels
from ...kernels.cpu.step import AFTER, ALL, BEFORE, LINKS
from ...state import MemorySizes
from ..parts import StepRun
from .arrays import array
from .compiling import compile_once
from .thread_team import Range, ranges_of, ranges_to, run_ranges

PARALLEL_FROM = 1 << 16
"""From this many numbers in a step's link matrices on, using threads pays off."""

PARALLEL_STEPS_FROM = 1 << 20
"""The same for whole sequences: numbers in link matrices and weights, over all steps."""


class CpuFusedRun(StepRun):
    """The steps of a run with the whole-step kernels.

    Args:
        sizes: of the memory.
        dtype: of the state.
        usage_order: one of `USAGE_ORDERS`.
    """

    takes_all_steps = True

    def __init__(self, sizes: MemorySizes, dtype: torch.dtype, usage_order: str) -> None:
        compile_once(dtype, "step", call_step_kernels)
        self._scratch = kernels.make_scratch(*sizes, numpy_dtype(dtype))
        self._robust = usage_order == "robust"

    array = staticmethod(array)

    def forward(self, step: Step) -> None:
        _run_stages(step, kernels.forward, step, self._scratch, self._robust)

    def rebuild(self, step: Step, with_link: bool) -> None:
        B, Hw, N, _ = step.link0.shape
        kernels.rebuild(BEFORE, 0, B, step, self._scratch)
        if with_link:
            _run_strips(B, Hw, N, kernels.rebuild, step, self._scratch)

    def backward(self, step: Step, adjoint: Adjoint) -> None:
        _run_stages(step, kernels.backward, step, adjoint, self._scratch, self._robust)

    def forward_steps(self, steps: Steps) -> None:
        T = len(steps.batch_sizes)
        arguments = steps, self._scratch, self._robust
        ranges = _ranges_of_sequences(steps)
        if ranges:
            run_ranges(ranges, partial(all_kernels.forward, ALL), 0, T, *arguments)
            return
        _, Hw, N = steps.write.shape
        for t, B in enumerate(map(int, steps.batch_sizes)):
            _run_by_strips(B, Hw, N, all_kernels.forward, t, t + 1, *arguments)

    def backward_steps(self, steps: Steps, adjoint: AdjointSteps) -> None:
        T = len(steps.batch_sizes)
        arguments = steps, adjoint, self._scratch, self._robust
        ranges = _ranges_of_sequences(steps)
        if ranges:
            run_ranges(ranges, partial(all_kernels.backward, ALL), 0, T, *arguments)
            return
        _, Hw, N = steps.write.shape
        for t in reversed(range(T)):
            if t + 1 == T or (t + 1) % steps.interval == 0:
                _rebuild_segment(t, steps, self._scratch)
            B = int(steps.batch_sizes[t])
            _run_by_strips(B, Hw, N, all_kernels.backward, t, t + 1, *arguments)


def numpy_dtype(dtype: torch.dtype) -> Any:
    """The NumPy dtype of a torch dtype."""
    return array(torch.empty(0, dtype=dtype, device="cpu")).dtype


def _rebuild_segment(last: int, steps: Steps, scratch: Any) -> None:
    """Rebuild the matrices of the segment that ends with step `last`, by strips."""
    _, Hw, N = steps.write.shape
    for t in range(last - last % steps.interval, last + 1):
        B = int(steps.batch_sizes[t])
        if steps.rebuilt[t] > 0:
            all_kernels.rebuild(BEFORE, 0, B, t, steps, scratch)
        if steps.rebuilt[t] > 1:
            _run_strips(B, Hw, N, all_kernels.rebuild, t, steps, scratch)


def _run_stages(step: Step, function: Callable[..., None], *arguments: Any) -> None:
    """Run all stages of a step: threads share batch elements if there are enough, or strips."""
    B, Hw, N, _ = step.link0.shape
    threads = _threads(B * Hw * N * N)
    if threads <= B:
        run_ranges(ranges_of(B, threads), partial(function, ALL), *arguments)
    else:
        _run_by_strips(B, Hw, N, function, *arguments)


def _run_by_strips(B: int, Hw: int, N: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run the stages of a step one by one; threads share that of the link matrices."""
    function(BEFORE, 0, B, *arguments)
    _run_strips(B, Hw, N, function, *arguments)
    function(AFTER, 0, B, *arguments)


def _run_strips(B: int, Hw: int, N: int, function: Callable[..., None], *arguments: Any) -> None:
    """Run the link stage of a step; threads share the strips of all link matrices."""
    ranges = ranges_of(B * kernels.num_strips(N), _threads(B * Hw * N * N))
    run_ranges(ranges, partial(function, LINKS), *arguments)


def _threads(numbers: int) -> int:
    """How many threads should work on a step with that many numbers in its link matrices."""
    return torch.get_num_threads() if numbers >= PARALLEL_FROM else 1


def _ranges_of_sequences(steps: Steps) -> list[Range]:
    """Ranges of sequences that threads take through all steps.

    Empty if using more threads than sequences, at every step, pays off.
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
    """Ranges of sequences, longest first, with about as many steps in each; one per thread at most.

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


def call_step_kernels(dtype: torch.dtype) -> None:
    """Call each kernel of this file, on a tiny step."""
    B, N, W, R, Hw = 1, 5, 2, 2, 1
    kind = numpy_dtype(dtype)

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, kind)

    vector = zeros(B, interface_size(W, R, Hw))
    memory, usage, heads = zeros(B, N, W), zeros(B, N), zeros(B, Hw, N)
    link, read, reads = zeros(B, Hw, N, N), zeros(B, R, N), zeros(B, R, W)
    pairs = [
        part for field in (memory, usage, heads, link, heads, read) for part in (field, +field)
    ]
    step = Step(vector, *pairs, reads)
    adjoint = Adjoint(+vector, +memory, +usage, +heads, +link, +heads, +read)
    scratch = kernels.make_scratch(B, N, W, R, Hw, kind)
    for robust in (False, True):
        kernels.forward(kernels.ALL, 0, B, step, scratch, robust)
        kernels.backward(kernels.ALL, 0, B, step, adjoint, scratch, robust)
    kernels.rebuild(kernels.ALL, 0, B, step, scratch)
    _call_kernels_of_all_steps(step, adjoint, scratch)


def _call_kernels_of_all_steps(step: Step, adjoint: Adjoint, scratch: Any) -> None:
    """One step of one batch element with a layer of two units."""
    H, S, size = 2, 6, step.vector.shape[1]

    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, step.vector.dtype)

    nothing = np.zeros(1, np.int64)
    places = [nothing] * 5
    places[0] = nothing + 1  # one sequence
    states = (step.usage0, step.precedence0, step.write0, step.read0)
    matrices = (step.memory0, step.memory1, step.link0, step.link1)
    steps = Steps(
        LSTM, H, 1, *places,
        zeros(1, 1, 4 * H), zeros(1, S, 4 * H), zeros(1, 1, H), zeros(1, 1, S), zeros(1, 1, 4 * H),
        zeros(1, 2, H), zeros(1, 1, H), zeros(1, H + 4), zeros(H, size), zeros(size),
        step.vector, step.reads, +step.reads,
        *(np.concatenate([state, state]) for state in states),
        *(nothing + matrix.ctypes.data for matrix in matrices), nothing,
    )  # fmt: skip
    adjoints = AdjointSteps(
        math.inf, zeros(1, 4 * H, S), zeros(size, H), zeros(1, H), zeros(1, 1, 4 * H),
        zeros(1, 1, H), zeros(1, 1, H), zeros(1, S), adjoint.vector, +step.reads, +step.reads,
        adjoint,
    )  # fmt: skip
    for robust in (False, True):
        all_kernels.forward(kernels.ALL, 0, 1, 0, 1, steps, scratch, robust)
        all_kernels.backward(kernels.ALL, 0, 1, 0, 1, steps, adjoints, scratch, robust)
    all_kernels.rebuild(kernels.ALL, 0, 1, 0, steps, scratch)
