"""Compile the CPU kernels for a dtype: `python -m dnc_fast.backends.warm_up float32 step`.

The process that compiles a kernel can round its sums otherwise than those that load it from the
disk. So it is compiled in a process of its own, and all others load it: the same bits in each.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch

from ..interface import interface_size, parse_interface
from ..kernels.arrays import LSTM, Adjoint, AdjointSteps, Step, Steps
from ..kernels.cpu import step as kernels
from ..kernels.cpu import steps as all_kernels
from ..links import SeparableLink, SparseLink, empty_link
from ..reference import USAGE_ORDERS
from ..reference.sparse_linkage import link_entry
from . import cpu


def call_all_kernels(dtype: torch.dtype) -> None:
    """Call each kernel that the backend calls, on a tiny step."""
    B, N, W, R, Hw = 1, 5, 2, 2, 1
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


def call_kernels_of_composed_steps(dtype: torch.dtype) -> None:
    """Call each kernel of composed steps, by way of the parts that call it."""
    from . import cpu_parts as parts  # which imports `cpu`

    B, N, W, R = 1, parts.FEW + 1, 2, 1
    new = torch.zeros(1, dtype=dtype).new_zeros
    vector, memory = new(B, interface_size(W, R, 1)), new(B, N, W)
    interface = parse_interface(vector, W, R, 1)
    weights = new(B, 1, N)
    pairs = [
        part
        for field in (memory, new(B, N), weights, new(0), weights, weights)
        for part in (field, field.clone())
    ]
    step = Step(vector, *pairs, new(B, R, W))
    keys, strengths = interface.read_keys, interface.read_strengths
    found = parts.look_up(keys, strengths, memory)
    parts.look_up_backward(weights.clone(), found, keys, strengths, memory, memory.clone())
    parts.write_memory(step, interface)
    parts.write_memory_backward(step, interface, memory.clone())
    parts.update_usage(step, interface.free_gates)
    parts.update_usage_backward(
        step, interface.free_gates, new(B, N), weights.clone(), weights.clone()
    )
    for order in USAGE_ORDERS:
        parts.write_weighting(interface, new(B, N), weights.clone(), order)
        parts.write_weighting_backward(weights, interface, new(B, N), weights, order)
    modes = interface.read_modes
    sparse = empty_link("sparse", (B, 1, N), 2, dtype, "cpu")
    assert isinstance(sparse, SparseLink)
    parts.update_sparse_link_(
        sparse, link_entry(weights, weights, 2, False, parts.keep_largest), None
    )
    parts.sparse_products(sparse, weights)
    parts.sparse_backward(sparse.values, sparse, weights, weights, modes[..., 2:], modes[..., :1])
    writes = SeparableLink(new(B, 1, 1, N), new(B, 1, 1, N))
    parts.separable_products(writes, weights)
    parts.separable_backward(writes, writes, weights, weights, modes[..., 2:], modes[..., :1])


KINDS = {"step": call_all_kernels, "composed": call_kernels_of_composed_steps}
"""What calls the kernels, by kind."""


def main() -> None:
    dtype, kind = getattr(torch, sys.argv[1]), sys.argv[2]
    for earlier in KINDS:
        KINDS[earlier](dtype)
        if earlier == kind:
            break
    cpu.compiled_marker(dtype, kind).touch()


if __name__ == "__main__":
    main()
