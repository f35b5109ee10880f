"""Nothing is timed before its outputs and every gradient agree with the float64 reference.

A model runs a few steps from a random state: starting from zeros, usages would differ in their last
bits only, and two precisions could order them differently, both correctly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .cases import Case, Work, truth, work

OUTPUTS, GRADIENTS, HALF = 1e-5, 1e-3, 0.1
"""Relative errors that pass. Gradients accumulate rounding over the steps, while a wrong term would
be of the order of 1; bfloat16 has 8 bits."""

STEPS = 8
MOST_CELLS = 4097
"""Cells of a linkage other than the dense one; not a multiple of anything, and few enough for the
reference."""

ROOM = {"cpu": 3 << 30, "cuda": 48 << 30}
"""Bytes that autograd through the float64 reference may take: for each step about ten link
matrices."""


class Refused(AssertionError):
    """Results are wrong, so nothing is timed."""


def relative_error(found: Tensor, true: Tensor) -> float:
    """Root mean square of the difference over that of the true values."""
    difference = (found.detach().double() - true.detach().double()).norm().item()
    if difference == 0:
        return 0.0
    return difference / max(true.detach().double().norm().item(), 1e-30)


def shortened(case: Case) -> Case:
    """A model over fewer steps, and with fewer cells if the reference of two would not fit."""
    size, room = case.size, ROOM[case.device]
    if case.provider.options.get("linkage", "dense") != "dense":
        return case._replace(size=size._replace(T=min(size.T, STEPS), N=min(size.N, MOST_CELLS)))
    N = min(size.N, math.isqrt(room // (2 * 80 * size.B)))
    steps = min(size.T, STEPS, room // (80 * size.B * N * N))
    return case._replace(size=size._replace(T=steps, N=N))


def check(case: Case) -> float | None:
    """The worst relative error of a case's results; None if they cannot be compared.

    Raises:
        Refused: an error is too large, or a result is not finite; names it.
    """
    case = shortened(case) if case.op == "model" else case
    if not case.provider.checked:
        for index, output in enumerate(work(case).run(case.passes)):
            if not torch.isfinite(output).all():
                raise Refused(f"{case.provider.name}: output {index} is not finite")
        return None
    middle = case.op == "model"
    found = work(case, torch.float32, middle)
    for _ in range(3 if case.device == "cuda" else 1):  # CUDA graphs are recorded at the second
        outputs = found.run(case.passes)
    return compare(case, found, outputs, *exact(case, middle))


_last: dict[str, tuple[Work, Sequence[Tensor]]] = {}


def exact(case: Case, middle: bool) -> tuple[Work, Sequence[Tensor]]:
    """The float64 reference of a case and its outputs, cached for the next provider."""
    true_case = truth(case)
    key = repr((true_case, middle))
    if key not in _last:
        _last.clear()
        true = work(true_case, torch.float64, middle)
        _last[key] = (true, [output.detach() for output in true.run(case.passes)])
    return _last[key]


def release() -> None:
    """Drop the cached reference."""
    _last.clear()


def compare(
    case: Case, found: Work, outputs: Sequence[Tensor], true: Work, true_outputs: Sequence[Tensor]
) -> float:
    """The worst relative error of outputs and, after a backward pass, gradients.

    Raises:
        Refused: as `check`.
    """
    pairs = [
        (f"output {index}", a, b, OUTPUTS)
        for index, (a, b) in enumerate(zip(outputs, true_outputs, strict=True))
    ]
    if case.passes == "forward+backward":
        for (name, leaf), exact in zip(found.leaves.items(), true.leaves.values(), strict=True):
            if (leaf.grad is None) != (exact.grad is None):
                raise Refused(f"{case.provider.name}: there is no gradient of {name}")
            if leaf.grad is not None and exact.grad is not None:
                pairs.append((f"the gradient of {name}", leaf.grad, exact.grad, GRADIENTS))
    worst = 0.0
    for name, value, exact_value, allowed in pairs:
        error = relative_error(value, exact_value)
        allowed = HALF if case.provider.half else allowed
        if not error <= allowed:  # also if it is NaN
            raise Refused(
                f"{case.provider.name}: {name} is {error:.1e} away from the float64 reference, "
                f"{allowed:.0e} is allowed; nothing was timed"
            )
        worst = max(worst, error)
    return worst
