"""Which kernels are compiled together, for which types of arguments.

A letter and a number stand for a contiguous array with so many axes, a letter alone for a number:
f of the state's dtype, d float64, l int64, n int32, u uint8; "strided" for an int64 array that need
not be contiguous, and a name for a tuple of arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import from_dtype, types

from ..arrays import Adjoint, AdjointSteps, Choices, Step, Steps
from . import (
    all_steps,
    allocation,
    selection,
    separable_linkage,
    sparse_linkage,
    step,
    strips,
    variant,
)
from .compile import Kernel

TUPLES: dict[str, tuple[type, str]] = {
    "Step": (Step, "f2 f3 f3 f2 f2 f3 f3 f4 f4 f3 f3 f3 f3 f3"),
    "Adjoint": (Adjoint, "f2 f3 f2 f3 f4 f3 f3"),
    "Choices": (Choices, "b d b"),
    "Scratch": (
        step.Scratch,
        "f2 f4 f5 f3 f4 f4 f4 f4 f3 f3 f2 f2 f3 f3 f3 f3 l3 f2 d2 l2 l2 f3 f2 f2 f2 f2",
    ),
    "Steps": (
        Steps,
        "l l l d l1 l1 l1 l1 l1 f3 f3 f3 f3 f3 f3 f3 f2 f2 f1 f2 f3 f3 f2 f3 f3 f3 l1 l1 l1 l1 l1",
    ),
    "Variant": (
        variant.Variant,
        "l b f l f b b f2 f3 f3 f2 f2 f5 f2 f3 f4 f2 f4 f5",
    ),
    "AdjointSteps": (AdjointSteps, "d f3 f2 f2 f3 f3 f3 f2 f2 f3 f3 Adjoint"),
}

STEPS: dict[str, tuple[tuple[Kernel, str], ...]] = {
    "all steps": ((all_steps.forward, "l l l l l Steps Scratch ? Choices"),),
    "all steps backward": ((all_steps.backward, "l l l l l Steps AdjointSteps Scratch ? Choices"),),
    "all steps rebuilt": ((all_steps.rebuild, "l l l l Steps Scratch ?"),),
    "step": ((step.forward, "l l l Step Scratch ? Choices"),),
    "step backward": (
        (step.backward, "l l l Step Adjoint Scratch ? Choices"),
        (step.rebuild, "l l l Step Scratch ?"),
    ),
}
"""The groups of whole steps; in place of the question mark, the variant's type or none."""

GROUPS: dict[str, tuple[tuple[Kernel, str], ...]] = {
    **{
        f"{prefix}{name}": tuple((kernel, words.replace("?", kind)) for kernel, words in kernels)
        for prefix, kind in (("", "none"), ("varied ", "Variant"))
        for name, kernels in STEPS.items()
    },
    "parts": (
        (strips.look_up, "l l f3 f2 f3 f2 f2 f3 f3 f4"),
        (strips.scale, "l l f3 f3"),
        (strips.usage, "l l f2 f2 f3 f3 f2"),
        (strips.write_memory, "l l f3 f3 f3 f3 f3"),
    ),
    "parts backward": (
        (strips.means, "l l f3 f3 f3"),
        (strips.look_up_backward, "l l f2 f3 f3 f3 f3 f2 f3 f2 f2 f4 f4 f3"),
        (strips.usage_backward, "l l f2 f2 f3 f3 f2 f3 f3 f3"),
        (strips.write_memory_backward, "l l f3 f3 f3 f3 f3 f3 f4 f4 f3"),
    ),
    "varied parts": ((strips.varied_look_up, "l l l f3 f2 f3 f3 f3 f3 f4"),),
    "varied parts backward": (
        (strips.varied_look_up_backward, "l l l f2 f3 f3 f3 f3 f2 f3 f3 f4 f3 f4 f3"),
    ),
    "sparse": (
        (sparse_linkage.touch, "l l f3 n3 u2 f"),
        (sparse_linkage.update, "l l strided strided f3 n3 u2 f2 l2 f2 f f2 n2"),
        (sparse_linkage.products, "l l f3 n3 f3 f3 f3"),
    ),
    "sparse backward": ((sparse_linkage.gradient, "l l n3 f3 f3 f3 f3"),),
    "separable": (
        (separable_linkage.dots, "l l f4 f4 f3 f2 f4"),
        (separable_linkage.combine, "l l f4 f4 f3 f4 f2 f2 f4 f4"),
    ),
    "separable backward": (
        (separable_linkage.gradients, "l l l1 f4 f4 f3 f3 f4 f4 f4 f3 f3 f4 f4"),
    ),
    "allocation": (
        (allocation.lifted_usage, "f1 f1"),
        (allocation.free_list, "f1 b l1 f1 d1 l1 l1"),
        (allocation.allocation_weighting, "f1 l1 f1"),
        (allocation.allocation_weighting_backward, "f1 f1 l1 f1 f1"),
    ),
    "largest": ((selection.largest, "f1 f l f1 l1 l1 l1"),),
}
"""Kernels by what needs them; a step is that of a dense linkage, parts are those of all others.

A varied step is one that is not the paper's, see `variant`.
"""


def calls(group: str, dtype: str) -> list[tuple[Kernel, tuple[Any, ...]]]:
    """The kernels of a group, each with the types of its arguments for a dtype."""
    return [
        (kernel, tuple(_type(word, dtype) for word in words.split()))
        for kernel, words in GROUPS[group]
    ]


def _type(word: str, dtype: str) -> Any:
    if word in TUPLES:
        kind, fields = TUPLES[word]
        return types.NamedTuple([_type(field, dtype) for field in fields.split()], kind)
    if word == "none":
        return types.none
    if word == "strided":
        return types.Array(types.int64, 1, "A")
    letter, axes = word[0], word[1:]
    of = {
        "f": from_dtype(np.dtype(dtype)),
        "d": types.float64,
        "l": types.int64,
        "n": types.int32,
        "u": types.uint8,
        "b": types.boolean,
    }[letter]
    return types.Array(of, int(axes), "C") if axes else of
