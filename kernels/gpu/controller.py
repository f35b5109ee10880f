"""A step of a controller's layers and of the interface layer: four launches, see `controller_step`.

All tensors are matrices whose columns are contiguous, with any row strides. The weights' dtype is
that of the products' operands; what kernels are given in another is rounded to it. Everything else
is calculated in float64 if the memory is, otherwise in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import arrays
from ..arrays import LayerGradient, LayerStep
from . import controller_step as kernels
from . import launch

ROWS, NUMBERS = 16, 8
"""Rows (batch elements) of a program, and numbers that it finds for each."""

ROW_WEIGHTS = 4096
"""The most weights that a program holds at a time where it multiplies a single row."""

SMALL_HIDDEN = 128
"""Up to this many hidden units, the backward kernels are faster with fewer warps."""

PROGRAMS = 132
"""The most programs of 8 numbers; more would read the rows too often, and find 16 instead."""

MOST_MULTIPLICATIONS = 2**26
"""Multiplications of the largest product of a step up to which these kernels are the faster ones.

Reckoned, not measured. A tile of 16 rows by 16 numbers reads two numbers for 16 multiplications,
half a byte for each in float32. At B = 32, H = R W = 256 all tiles together read 8.4 MB in 3.5 of
4.5 us (an H200), 2.4 TB/s; 2^26 multiplications would take 14 us. The concatenation, the product by
cuBLAS and the elementwise kernel took 2.0, 8.9 and 1.8 us there, and a product of so few rows takes
little longer up to B = 128, which is 2^26.
"""


def takes(multiplications: int) -> bool:
    """Whether these kernels are the faster ones; see `MOST_MULTIPLICATIONS`."""
    return multiplications <= MOST_MULTIPLICATIONS


def multiplies_as(weight: Tensor, rows: int, full: torch.dtype) -> str:
    """HOW rows are multiplied by a weight matrix, see `product`; `full` is the memory's dtype."""
    if rows == 1 or full == torch.float64:
        return "row"
    if weight.device.type == "cpu":  # the interpreter cannot multiply bfloat16
        return "ieee"
    return "tf32x3" if weight.dtype == torch.float32 else "half"


def gates(
    kind: int,
    reads: Tensor,
    below: Tensor | None,
    hidden0: Tensor | None,
    weight: Tensor,
    layer: LayerStep,
    c_clip: float | None = None,
) -> None:
    """Run a layer's step: fill layer.active, c, tanh_c and hidden.

    Args:
        kind: LSTM, GRU or PLAIN, see `cells`.
        reads: (b, R W), r_{t-1}.
        below: (b, H), h_t of the layer below, in the weights' dtype; None for the lowest layer.
        hidden0: (b, H), h_{t-1}, likewise; None if it is not seen.
        weight: (gates H, seen).
        layer: its arrays.
        c_clip: bound for each element of an LSTM's c; h_t is that of the c before; None: no bound.
    """
    (rows, RW), H = reads.shape, layer.hidden.shape[1]
    tile = _tile(weight, rows, reads.dtype, max(RW, H), 4, 32, 4, 4)
    few = launch.cdiv(rows, tile["MB"]) * launch.cdiv(len(weight), NUMBERS) <= PROGRAMS
    N = NUMBERS if few or tile["HOW"] == "row" else 2 * NUMBERS
    U = N // arrays.GATES[kind]
    tensors = (reads, below, hidden0, weight, layer.x_part, layer.before, *layer[2:])
    _launch(
        kernels.gates_kernel, rows, launch.cdiv(H, U), _all(tensors, layer.hidden),
        RW=RW, BELOW=0 if below is None else H, OWN=0 if hidden0 is None else H, H=H, KIND=kind,
        MIXED=reads.dtype != weight.dtype, U=U, C_CLIP=c_clip, **tile,
    )  # fmt: skip


def interface(hidden: Tensor, weight: Tensor, bias: Tensor | None, vectors: Tensor) -> None:
    """Fill the interface vectors (b, S), from h_t of all layers (b, L H) and weight (S, L H)."""
    (rows, K), S = hidden.shape, len(weight)
    tile = _tile(weight, rows, vectors.dtype, K, 4, 32, 4, 3)
    _launch(
        kernels.interface_kernel, rows, launch.cdiv(S, NUMBERS),
        _all((hidden, weight, bias, vectors), weight[0]),
        K=K, S=S, BIAS=bias is not None, N=NUMBERS, **tile,
    )  # fmt: skip


def units_backward(
    kind: int,
    d_vectors: Tensor,
    weight: Tensor,
    layer: LayerStep,
    gradient: LayerGradient,
    clip: float | None,
    c_clip: float | None = None,
) -> None:
    """Fill gradient.active, and take gradient.c, or for a GRU gradient.last, to step t - 1.

    Args:
        kind: LSTM, GRU or PLAIN, see `cells`.
        d_vectors: (b, S), gradients of the interface vectors.
        weight: (S, H), of the interface layer, for this layer's h_t.
        layer: as `gates` filled it.
        gradient: that of h_t is its hidden + last + what comes through the interface layer.
        clip: bound for each element of that sum and of gradient.c on entry; None: no bound.
        c_clip: as `gates` was given it.
    """
    (rows, S), H = d_vectors.shape, layer.hidden.shape[1]
    small = H <= SMALL_HIDDEN
    inner = (8, 32, 8, 3) if rows <= ROWS and not small else (4, 32, 4, 3 if small else 4)
    tile = _tile(weight, rows, d_vectors.dtype, S, *inner)
    kept = layer.before, layer.active, layer.tanh_c, layer.hidden
    tensors = (d_vectors, weight, *gradient, *kept)
    _launch(
        kernels.units_backward_kernel, rows, launch.cdiv(H, NUMBERS), _all(tensors, layer.hidden),
        S=S, OWN=0 if gradient.last is None else H, H=H, KIND=kind, CLIP=clip, C_CLIP=c_clip,
        U=NUMBERS, **tile,
    )  # fmt: skip


def gates_backward(
    kind: int,
    d_active: Tensor,
    weight: Tensor,
    d_reads: Tensor,
    d_below: Tensor | None,
    kept_below: Tensor | None,
    d_last: Tensor | None,
) -> None:
    """Add to d_reads and d_below, and fill d_last, or for a GRU add to it.

    Args:
        kind: LSTM, GRU or PLAIN, see `cells`.
        d_active: (b, gates H), from `units_backward`.
        weight: (gates H, seen).
        d_reads: (b, R W), gradient of r_{t-1}.
        d_below: (b, H), gradient of h_t of the layer below; None for the lowest layer.
        kept_below: (b, H), what that was multiplied by for dropout; None without.
        d_last: (b, H), gradient of h_{t-1}; None if it was not seen.
    """
    (rows, K), RW, H = d_active.shape, d_reads.shape[1], len(weight) // arrays.GATES[kind]
    inner = (4, 32, 4, 4) if H <= SMALL_HIDDEN else (8, 32, 8, 4)
    tile = _tile(weight, rows, d_reads.dtype, K, *inner)
    tensors = (d_active, weight, d_reads, d_below, kept_below, d_last)
    _launch(
        kernels.gates_backward_kernel, rows, launch.cdiv(weight.shape[1], NUMBERS),
        _all(tensors, d_active),
        RW=RW, BELOW=0 if d_below is None else H, OWN=0 if d_last is None else H, H=H, KIND=kind,
        DROPS=kept_below is not None, N=NUMBERS, **tile,
    )  # fmt: skip


def _tile(
    weight: Tensor, rows: int, full: torch.dtype, K: int, KS: int, BK: int, warps: int, stages: int
) -> dict[str, Any]:
    """A program's rows and what it takes of the inner dimension at a time, its warps and stages.

    KS, BK, warps and stages are those that were fastest in training steps on an H200, at B, H = 16,
    128; 32, 256 and 8, 256. A program that multiplies a single row takes as much as it can at once,
    as measured at B = 1.
    """
    how, compute = multiplies_as(weight, rows, full), launch.compute_dtype(full)
    if how == "row":
        sizes = {"MB": 1, "KS": 1, "BK": min(launch.block(K), ROW_WEIGHTS // NUMBERS)}
    else:
        sizes = {"MB": ROWS, "KS": KS, "BK": BK, "num_stages": stages}
    return {**sizes, "HOW": how, "DTYPE": compute, "num_warps": warps}


def _all(tensors: tuple[Tensor | None, ...], other: Tensor) -> list[Tensor]:
    """The tensors, with another in place of each that there is none of; it is not used."""
    return [other if tensor is None else tensor for tensor in tensors]


def _launch(kernel: Any, rows: int, tiles: int, tensors: list[Tensor], **constants: Any) -> None:
    """Launch a kernel on tensors, the row strides of matrices, and their number of rows."""
    if torch.version.hip is not None:
        constants = launch.on_amd(constants)
    strides = [tensor.stride(0) for tensor in tensors if tensor.dim() > 1]
    grid = (launch.cdiv(rows, constants["MB"]) * tiles,)
    launch.run(kernel, grid, *tensors, *strides, rows, **constants)
