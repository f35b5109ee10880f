"""Everything that launches GPU kernels, at all sizes, on tensors without data."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnc_fast.kernels import gpu
from dnc_fast.kernels.arrays import (
    GATES,
    GRU,
    LSTM,
    PLAIN,
    SIMILARITIES,
    SOFTMAX,
    Adjoint,
    LayerGradient,
    LayerStep,
    Step,
)
from dnc_fast.kernels.gpu.variant import PAPER, Variant
from dnc_fast.kernels.interface import interface_size
from dnc_fast.state import MemorySizes

ORDERS = ("exact", "robust")

SIZES = {
    name: MemorySizes(*map(int, name.split(",")))
    for name in (
        "16,16,16,1,1", "16,32,32,4,1", "16,64,32,4,1", "64,64,32,4,1", "32,64,64,4,1",
        "32,128,64,4,1", "32,256,64,4,1", "8,1024,64,4,1", "1,4096,64,4,1", "1,16384,64,4,1",
        "16,64,32,4,2", "8,256,64,4,2", "1,65536,64,4,1", "1,1048576,32,4,1",
    )
}  # fmt: skip
"""By name: B batch, N cells, W cell size, R read heads, Hw write heads."""

MOST_DENSE, FIRST_COMPOSED = 16384, 1024
"""The most cells with which dense steps are compiled, and the fewest of composed ones."""

FAN_OUT, WRITES = 8, 100
"""Entries of a row of a sparse link, and of a cut weighting; writes of a separable link."""

OF_VARIANT = " of a variant"
"""At the end of the names of calls of a varied step."""

VARIANTS = {
    "": PAPER,
    OF_VARIANT: Variant(
        deallocate=True, masked=True, floor=0.1, sharp=True, smooth=SOFTMAX, steepness=100.0
    ),
}
"""Whole steps, the paper's and one with everything, by the end of the names of their calls."""

HIDDEN = (100, 256)
"""Hidden units of the layers; the first is not a multiple of the block size."""

INTERFACE, CLIP = 471, 20.0
"""Numbers of an interface vector, here those of R = 4, W = 64; a bound of gradients."""


class Call(NamedTuple):
    """Something that launches kernels."""

    name: str
    backward: bool
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def module(name: str) -> Any:
    """A module of the GPU kernels."""
    return importlib.import_module(f"{gpu.__name__}.{name}")


def meta(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, dtype=dtype, device="meta")


def op_calls(size: MemorySizes, dtype: torch.dtype) -> Iterator[Call]:
    """The custom ops."""
    B, N, W, R, Hw = size

    def function(file: str, name: str, *arguments: Any) -> Call:
        called = getattr(module(file), name)
        # On meta tensors an op only makes empty results; the function that it wraps does launch.
        called = getattr(called, "_init_fn", called)
        given = [meta(dtype, *one) if isinstance(one, tuple) else one for one in arguments]
        return Call(name, name.endswith("_backward"), called, tuple(given))

    read, written, reads = (B, R, N), (B, Hw, N), (B, R, W)
    look_up = (reads, (B, R), (B, N, W))
    writing = ((B, N, W), written, (B, Hw, W), (B, Hw, W))
    linked = ((B, Hw, N, N), written, written, read)
    ways = ((B, R, Hw, N), (B, R, Hw, N))
    yield function("content", "content_weighting", *look_up)
    yield function("content", "content_weighting_backward", read, read, *look_up)
    yield function("memory", "write_memory", *writing)
    yield function("memory", "write_memory_backward", (B, N, W), *writing)
    yield function("memory", "read_memory", (B, N, W), read)
    yield function("memory", "read_memory_backward", reads, (B, N, W), read)
    yield function("linkage", "linkage", *linked)
    yield function("linkage", "linkage_backward", (B, Hw, N, N), written, *ways, *linked)
    allocation, order = module("allocation"), meta(torch.int32, B, N)
    row = meta(dtype, B, N)
    yield Call("allocation", False, allocation.allocate, (row, False))
    yield Call("allocation", True, allocation.allocate_backward, (row, row, row, order))


def step_calls(size: MemorySizes, dtype: torch.dtype, orders: Iterable[str]) -> Iterator[Call]:
    """The whole step and its variants, with some orders of usage."""
    B, N, W, R, Hw = size
    kernels = module("step")
    state = ((B, N, W), (B, N), (B, Hw, N), (B, Hw, N, N), (B, Hw, N), (B, R, N))
    reads, memory = meta(dtype, B, R, W), meta(dtype, B, N, W)
    for name, variant in VARIANTS.items():
        vector = meta(dtype, B, interface_size(W, R, Hw, variant.masked, variant.sharp))
        step = Step(vector, *(meta(dtype, *shape) for shape in state for _ in range(2)), reads)
        adjoint = Adjoint(vector, *(meta(dtype, *shape) for shape in state))
        scratch = kernels.make_scratch(*size, dtype, torch.device("meta"), variant)
        kept = kernels.make_kept(step, variant)
        for order in orders:
            given = scratch, order == "robust", kept
            yield Call(f"{order} step{name}", False, kernels.forward, (step, *given))
            yield Call(f"{order} step{name}", True, kernels.backward, (step, adjoint, *given))
        given = memory, memory, scratch
        yield Call(f"end of all steps{name}", True, kernels.finish_backward, given)
        yield Call(f"rebuild{name}", True, kernels.rebuild, (step, True, variant))


def composed_calls(size: MemorySizes, dtype: torch.dtype) -> Iterator[Call]:
    """The parts of a composed step."""
    B, N, W, R, Hw = size
    content, cells = module("content"), module("memory")
    sparse, separable = module("sparse_linkage"), module("separable_linkage")
    rows, read, vectors = meta(dtype, B, N), meta(dtype, B, R, N), meta(dtype, B, R, W)
    memory, strengths = meta(dtype, B, N, W), meta(dtype, B, R)
    found = (read, read, vectors, strengths, memory, memory, True)
    given = (vectors, strengths, memory, read)
    yield Call("look up", False, content.launch_look_up, given)
    yield Call("look up", True, content.launch_look_up_backward, found)
    for kind, name in enumerate(SIMILARITIES):
        varied = (vectors, kind)
        yield Call(f"masked {name} look up", False, content.launch_look_up, (*given, *varied))
        backward = content.launch_look_up_backward
        yield Call(f"masked {name} look up", True, backward, (*found, *varied))
    words = meta(dtype, B, Hw, W)
    writing = (memory, meta(dtype, B, Hw, N), words, words, memory)
    yield Call("write", False, cells.launch_write, writing)
    yield Call("write", True, cells.launch_write_backward, (memory, *writing))
    order, allocation = meta(torch.int32, B, N), module("allocation_in_order")
    given = (rows, rows, rows, order)
    yield Call("allocation in order", False, allocation.allocate, (rows, False))
    yield Call("allocation in order", True, allocation.allocate_backward, given)
    if dtype != torch.float64:
        yield Call("keep largest", False, module("selection").largest_cells, (rows, FAN_OUT))
    link = meta(dtype, B, Hw, N, FAN_OUT), meta(torch.int32, B, Hw, N, FAN_OUT)
    written, marked = meta(dtype, B, Hw, N), meta(torch.int8, B, Hw, N)
    kept = meta(torch.int64, B, Hw, FAN_OUT), meta(dtype, B, Hw, FAN_OUT)
    entry, modes = sparse.Entry(written, marked, *kept, meta(dtype, 1)), meta(dtype, B, R, Hw)
    yield Call("sparse update", False, sparse.touched, (*link, entry))
    yield Call("sparse update", False, sparse.merge, (meta(torch.int64, 100, 3), *link, entry))
    yield Call("sparse products", False, sparse.products, (*link, read))
    yield Call("sparse products", True, sparse.add_backward, (*link, read, read, modes, modes))
    writes, ways = meta(dtype, B, Hw, WRITES, N), meta(dtype, B, Hw, R, N)
    yield Call("separable products", False, separable.products, (writes, writes, read))
    given = (ways, ways, writes, writes, read)
    yield Call("separable products", True, separable.products_backward, given)


def lstm_calls(B: int, dtype: torch.dtype) -> Iterator[Call]:
    """A step of LSTM layers, also with products in half precision."""
    kernels = module("lstm")
    for H in HIDDEN:
        state = meta(dtype, B, H)
        for products in (dtype, torch.bfloat16):
            gates = meta(products, B, 4 * H)
            given, kept = (gates, gates, state), (gates, state, state)
            hidden = meta(products, B, H)
            yield Call("lstm", False, kernels.forward, (*given, *kept, hidden))
            yield Call("lstm", True, kernels.backward, (*kept, hidden, state, CLIP, state, gates))


def layer_calls(
    kind: int, layers: int, H: int, B: int, dtype: torch.dtype, half: torch.dtype
) -> Iterator[Call]:
    """A step of the uppermost of some layers and of the interface layer; R W is H."""
    kernels, columns, gates = module("controller"), layers * H, GATES[kind] * H
    outputs, interface = meta(half, B, columns), meta(half, INTERFACE, columns)
    state, vectors = meta(dtype, B, H), meta(dtype, B, INTERFACE)
    weight, hidden = meta(half, gates, H + columns), outputs[:, -H:]
    below, d_below = (outputs[:, :H], meta(dtype, B, columns)[:, :H]) if layers > 1 else (None,) * 2
    c = state if kind == LSTM else None
    layer = LayerStep(meta(half, B, gates), state, meta(dtype, B, gates), c, c, hidden)
    gradient = LayerGradient(meta(dtype, B, columns)[:, -H:], state, c, meta(half, B, gates))
    given = (kind, vectors, interface[:, -H:], layer, gradient, CLIP)
    yield Call("gates", False, kernels.gates, (kind, state, below, hidden, weight, layer))
    yield Call("units", True, kernels.units_backward, given)
    given = (kind, gradient.active, weight, state, d_below, below, state)
    yield Call("gates", True, kernels.gates_backward, given)
    given = (outputs, interface, meta(half, INTERFACE), vectors)
    yield Call("interface", False, kernels.interface, given)


def controller_calls(B: int, dtype: torch.dtype) -> Iterator[Call]:
    """Controllers of every kind, an LSTM also with products in half precision."""
    few, many = HIDDEN
    yield from layer_calls(LSTM, 1, many, B, dtype, dtype)
    yield from layer_calls(LSTM, 1, few, B, dtype, torch.bfloat16)
    for kind in (GRU, PLAIN):
        yield from layer_calls(kind, 2, few, B, dtype, dtype)


def all_calls(size: MemorySizes, dtype: torch.dtype, orders: Iterable[str]) -> Iterator[Call]:
    """Everything that is called at a size."""
    yield from lstm_calls(size.batch_size, dtype)
    yield from controller_calls(size.batch_size, dtype)
    if size.num_cells >= FIRST_COMPOSED:
        yield from composed_calls(size, dtype)
    if size.num_cells <= MOST_DENSE:
        yield from step_calls(size, dtype, orders)
        yield from op_calls(size, dtype)
