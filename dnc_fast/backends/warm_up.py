"""Compile the CPU kernels for a dtype: `python -m dnc_fast.backends.warm_up float32`.

The process that compiles a kernel can round its sums otherwise than those that load it from the
disk. So it is compiled in a process of its own, and all others load it: the same bits in each.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from ..interface import interface_size
from ..kernels.arrays import Adjoint, Step
from ..kernels.cpu import lstm
from ..kernels.cpu import step as kernels
from . import cpu


def call_all_kernels(dtype: torch.dtype) -> None:
    """Call each kernel that the backend calls, on a tiny step."""
    B, N, W, R, Hw, H = 1, 5, 2, 2, 1, 2
    kind = cpu.array(torch.empty(0, dtype=dtype, device="cpu")).dtype

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
        kernels.forward(0, B, step, scratch, robust)
        kernels.forward_before(0, step, scratch, robust)
        kernels.backward(0, B, step, adjoint, scratch, robust)
    kernels.forward_links(0, 1, step, scratch)
    kernels.forward_after(0, step, scratch)
    kernels.rebuild_memory(0, B, step, scratch)
    kernels.rebuild_links(0, 1, step, 1)
    kernels.backward_before(0, step, adjoint, scratch)
    kernels.backward_links(0, 1, step, adjoint, scratch)
    kernels.backward_after(0, step, adjoint, scratch, False)
    gates, cells = zeros(B, 4 * H), zeros(B, H)
    lstm.lstm_backward(gates, cells, cells, +cells, +cells, +gates)


def main() -> None:
    dtype = getattr(torch, sys.argv[1])
    call_all_kernels(dtype)
    cpu.compiled_marker(dtype).touch()


if __name__ == "__main__":
    main()
