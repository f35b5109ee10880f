"""Whole steps with compiled kernels, and all steps of a batch in one call.

The order of sums does not depend on the threads, so neither do the results.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ...interface import STRENGTHS
from ...kernels.arrays import ALLOCATIONS, SIMILARITIES, Adjoint, AdjointSteps, Choices, Step, Steps
from ...kernels.cpu import all_steps as all_kernels
from ...kernels.cpu import step as kernels
from ...kernels.cpu.step import AFTER, ALL, BEFORE, LINKS
from ...kernels.cpu.variant import Variant, make_variant, new_linked
from ...state import MemorySizes
from ...step_options import StepOptions
from ..parts import StepRun
from .arrays import array
from .compiling import ensure
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
        options: of the steps.
        keep: whether there will be a backward pass.
    """

    takes_all_steps = True

    def __init__(
        self, sizes: MemorySizes, dtype: torch.dtype, options: StepOptions, keep: bool
    ) -> None:
        self.options = options
        self._dtype, self._keep, self._sizes = dtype, keep, sizes
        length = options.interface_length(*sizes[2:])
        kind = numpy_dtype(dtype)
        self._scratch = kernels.make_scratch(*sizes, kind, length)
        self._variant = _variant_of(options, sizes, kind) if options.varied else None
        self._choices = Choices(
            options.usage_order == "robust", STRENGTHS[options.strengths], options.usage_gradient
        )
        self._kept: list[np.ndarray] = []

    array = staticmethod(array)

    def _ensure(self, *names: str) -> None:
        """Compile groups of kernels."""
        prefix = "varied " if self.options.varied else ""
        ensure(self._dtype, *(prefix + name for name in names))

    def _with_linked(self, linked: np.ndarray) -> Variant | None:
        """The variant with room for directional weightings, or with those of a step."""
        assert self._variant is not None
        return self._variant._replace(linked=linked)

    def _new_linked(self, rows: int) -> np.ndarray:
        """Room for `rows` sequences and steps, if they are to be sharpened."""
        _, N, _, R, Hw = self._sizes
        kind = self._scratch.active.dtype
        return new_linked(rows if self.options.link_sharpness else 0, N, R, Hw, kind)

    def forward(self, step: Step) -> None:
        self._ensure(*(("step", "step backward") if self._keep else ("step",)))
        variant = self._variant
        if variant is not None:
            linked = self._new_linked(len(step.vector))
            variant = self._with_linked(linked)
            if self._keep:
                self._kept.append(linked)
        _run_stages(step, kernels.forward, step, self._scratch, variant, self._choices)

    def rebuild(self, step: Step, with_link: bool) -> None:
        B, Hw, N, _ = step.link0.shape
        kernels.rebuild(BEFORE, 0, B, step, self._scratch, self._variant)
        if with_link:
            _run_strips(B, Hw, N, kernels.rebuild, step, self._scratch, self._variant)

    def backward(self, step: Step, adjoint: Adjoint) -> None:
        variant = self._variant
        if variant is not None:
            variant = self._with_linked(self._kept.pop())
        arguments = step, adjoint, self._scratch, variant, self._choices
        _run_stages(step, kernels.backward, *arguments)

    def forward_steps(self, steps: Steps) -> None:
        T = len(steps.batch_sizes)
        if self._variant is not None:
            self._variant = self._with_linked(self._new_linked(len(steps.vectors)))
        arguments = steps, self._scratch, self._variant, self._choices
        ranges = _ranges_of_sequences(steps)
        backward = ("all steps backward", *(() if ranges else ("all steps rebuilt",)))
        self._ensure("all steps", *(backward if self._keep else ()))
        if ranges:
            run_ranges(ranges, partial(all_kernels.forward, ALL), 0, T, *arguments)
            return
        _, Hw, N = steps.write.shape
        for t, B in enumerate(map(int, steps.batch_sizes)):
            _run_by_strips(B, Hw, N, all_kernels.forward, t, t + 1, *arguments)

    def backward_steps(self, steps: Steps, adjoint: AdjointSteps) -> None:
        T = len(steps.batch_sizes)
        arguments = steps, adjoint, self._scratch, self._variant, self._choices
        ranges = _ranges_of_sequences(steps)
        if ranges:
            run_ranges(ranges, partial(all_kernels.backward, ALL), 0, T, *arguments)
            return
        _, Hw, N = steps.write.shape
        for t in reversed(range(T)):
            if t + 1 == T or (t + 1) % steps.interval == 0:
                _rebuild_segment(t, steps, self._scratch, self._variant)
            B = int(steps.batch_sizes[t])
            _run_by_strips(B, Hw, N, all_kernels.backward, t, t + 1, *arguments)


def _variant_of(options: StepOptions, sizes: MemorySizes, dtype: Any) -> Variant:
    """What kernels take for options that are not the paper's."""
    steepness = options.allocation_power
    if options.allocation == "softmax":
        steepness = 1 / options.allocation_temperature
    return make_variant(
        *sizes,
        kernels.num_strips(sizes.num_cells),
        dtype,
        similarity=SIMILARITIES.index(options.similarity),
        masked=options.masked_lookup,
        mask_floor=options.mask_floor,
        allocation=ALLOCATIONS.index(options.allocation),
        steepness=steepness,
        deallocate=options.deallocate,
        sharp=options.link_sharpness,
    )


def numpy_dtype(dtype: torch.dtype) -> Any:
    """The NumPy dtype of a torch dtype."""
    return array(torch.empty(0, dtype=dtype, device="cpu")).dtype


def _rebuild_segment(last: int, steps: Steps, *shared: Any) -> None:
    """Rebuild the matrices of the segment that ends with step `last`, by strips."""
    _, Hw, N = steps.write.shape
    for t in range(last - last % steps.interval, last + 1):
        B = int(steps.batch_sizes[t])
        if steps.rebuilt[t] > 0:
            all_kernels.rebuild(BEFORE, 0, B, t, steps, *shared)
        if steps.rebuilt[t] > 1:
            _run_strips(B, Hw, N, all_kernels.rebuild, t, steps, *shared)


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
