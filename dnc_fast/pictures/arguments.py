"""Checks of what the pictures of a sequence are given: tensors of shapes that fit together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..checks import check_shapes
from ..trace import Trace

SHAPES = {
    "inputs": "T X",
    "outputs": "T Y",
    "targets": "T Y",
    "mask": "T",
    "hidden": "T H",
    "cells": "T H",
    "gates": "T G H",
}
TRACE_SHAPES = {
    "write_weights": "T Hw N",
    "read_weights": "T R N",
    "usage": "T N",
    "allocation_weights": "T Hw N",
    "erase_vectors": "T Hw W",
    "write_vectors": "T Hw W",
    "allocation_gates": "T Hw",
    "write_gates": "T Hw",
    "free_gates": "T R",
    "read_modes": "T R 1+2Hw",
    "write_strengths": "T Hw",
    "read_strengths": "T R",
}


def checked(
    trace: Any, fields: Iterable[str] = TRACE_SHAPES, **tensors: Any
) -> tuple[Any, list[Tensor]]:
    """The trace of one sequence and the tensors beside it, as float32 on the CPU.

    Args:
        trace: what the user passed; None if no field of it is shown.
        fields: of the trace, those that are shown.
        tensors: by their names in `SHAPES`.

    Raises:
        TypeError: something is not of the type it should be.
        ValueError: a shape does not fit.
    """
    fields = tuple(fields)
    if fields and not isinstance(trace, Trace):
        hint = "; of a bidirectional pair show one direction" if isinstance(trace, tuple) else ""
        raise TypeError(f"trace must be a dnc_fast.Trace, got {type(trace).__name__}{hint}")
    named = {**tensors, **{f"trace.{field}": getattr(trace, field) for field in fields}}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if fields and trace.write_weights.dim() == 4:
        raise ValueError(
            f"trace must be of one sequence, got a batch of {trace.write_weights.shape[1]}; "
            "choose sequence b with Trace(*(part[:, b] for part in trace))"
        )
    shapes = SHAPES | {f"trace.{field}": shape for field, shape in TRACE_SHAPES.items()}
    sizes = check_shapes(shapes, **named)
    modes = sizes.get("1+2Hw")
    if modes is not None and modes != 1 + 2 * sizes["Hw"]:
        raise ValueError(
            f"trace.read_modes must have 1 + 2 Hw = {1 + 2 * sizes['Hw']} modes, got {modes}"
        )
    shown = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in named.items()}
    if fields:
        trace = trace._replace(**{field: shown[f"trace.{field}"] for field in fields})
    return trace, [shown[name] for name in tensors]
