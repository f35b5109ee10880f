"""The memory step for small memories: how it is divided among programs, and its launches.

Microseconds on an H200 of kernels of this structure, W = 32, R = 4, Hw = 1, by rows in a strip:

    B x N        forward: 8     16    32    one program    backward: 8     16    32
    16 x 64               5.9   6.4         7.1                      7.9   6.1
    64 x 64              10.0   8.0   7.5   7.5                     16.7         9.2
    32 x 32               5.2               4.5                      6.0

So strips are as low as a wave of programs allows, one to a multiprocessor; backward not lower than
16, as two programs share the work of a strip. With 32 cells or fewer one program does all of the
forward pass, which saves the second launch; with 64 it would not be faster at any batch size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ..arrays import Adjoint, Step
from ..interface import interface_size
from . import launch, small_backward, small_forward, small_gradients, small_layout
from .variant import Variant

PROGRAMS = 132
"""Programs of a wave: the multiprocessors of an H200."""

ROWS, ROWS_BACKWARD, MOST_ROWS = 8, 16, 32
"""Rows of a strip: at least, in each pass, and at most ..."""

ROW_HEADS = 128
"""... if rows times read heads are not more, or half that with three write heads or four: each pair
takes registers for a row of the link matrix."""

ALONE_CELLS = 32
"""With at most this many cells, one program does the forward pass of a batch element."""

ALONE_HEADS = 4
"""It pads read heads to at least these: of tiles with fewer numbers than threads, the compiler
calculates all again in each layout that is needed, which doubled the instructions."""

READ_NUMBERS = 4096
"""Cells times read heads times W that a program reads with; where there are more, each reads a
part of W."""

MANY_HEADS = 16
"""Read heads times write heads from which strips have eight warps: with four, registers run out."""


def kept_size(N: int, W: int, R: int, Hw: int, variant: Variant) -> int:
    """How many numbers a step keeps for its backward pass, for each batch element."""
    return small_layout.kept_size(N, R, Hw, variant)


def most_rows(R: int, Hw: int) -> int:
    """The most rows for which a program has registers."""
    return max(1, ROW_HEADS // (launch.block(R) * launch.block(launch.cdiv(Hw, 2))))


def strip_rows(B: int, N: int, R: int, Hw: int, least: int) -> int:
    """How many rows of link matrix and memory a program takes."""
    rows = least
    while rows < MOST_ROWS and B * launch.cdiv(N, rows) > PROGRAMS:
        rows *= 2
    return min(rows, launch.block(N), most_rows(R, Hw))


def padded_cells(N: int) -> int:
    """The cells of a program's arrays: at least 2, as Triton 3.6 cannot compile all with 1."""
    return max(2, launch.block(N))


def is_alone(N: int, W: int, R: int, Hw: int) -> bool:
    """Whether one program does the whole forward pass of a batch element."""
    BN = padded_cells(N)
    reads = BN * launch.block(R) * launch.block(W)
    return N <= ALONE_CELLS and most_rows(R, Hw) >= BN and reads <= READ_NUMBERS


class Scratch(NamedTuple):
    """What the kernels of a small step store for each other."""

    numbers: Tensor  # (B, most numbers of a pass), see `small_layout`
    unkept: Tensor  # (B, kept_size), in place of `kept` where there is no backward pass
    forward_rows: int  # rows of a strip, for the largest batch
    backward_rows: int
    variant: Variant


def make_scratch(
    B: int, N: int, W: int, R: int, Hw: int, like: Tensor, variant: Variant
) -> Scratch:
    """Scratch as of `like`, for these sizes or smaller batches, which are divided the same way."""
    forward_rows = padded_cells(N) if is_alone(N, W, R, Hw) else strip_rows(B, N, R, Hw, ROWS)
    backward_rows = strip_rows(B, N, R, Hw, ROWS_BACKWARD)
    size = max(
        small_layout.forward_size(N, R, Hw, launch.cdiv(N, forward_rows)),
        small_layout.backward_size(N, W, R, Hw, launch.cdiv(N, backward_rows), variant),
    )
    return Scratch(
        numbers=launch.new_like(like, B, size),
        unkept=launch.new_like(like, B, kept_size(N, W, R, Hw, variant)),
        forward_rows=forward_rows,
        backward_rows=backward_rows,
        variant=variant,
    )


def _sizes(step: Step, scratch: Scratch, rows: int, robust: bool) -> dict[str, Any]:
    """Constants of the kernels; each takes those that it names."""
    (_, N, W), R, Hw = step.memory0.shape, step.read0.shape[1], step.write0.shape[1]
    S, BN, BW, BR = launch.cdiv(N, rows), padded_cells(N), launch.block(W), launch.block(R)
    return {
        "N": N,
        "W": W,
        "R": R,
        "HW": Hw,
        "SIZE": interface_size(W, R, Hw, scratch.variant.masked, scratch.variant.sharp),
        "KEPT": scratch.unkept.shape[1],
        "SCRATCH": scratch.numbers.shape[1],
        "BN": BN,
        "BW": BW,
        "BR": BR,
        "BROWS": launch.block(2 * Hw),
        "BS": rows,
        "S": S,
        "BSTRIPS": launch.block(S),
        "COLUMNS": small_layout.columns(R, Hw, scratch.variant),
        "PARTS": max(1, min(BW, max(2, BN * BW * BR // READ_NUMBERS))),
        "ALONE": is_alone(N, W, R, Hw),
        "ROBUST": robust,
        "DTYPE": launch.compute_dtype(step.memory0.dtype),
        **scratch.variant.constants(),
    }


def _run(
    kernel: Any, programs: int, arrays: Mapping[str, Tensor], sizes: Mapping[str, Any]
) -> None:
    """Launch a kernel with some programs for each batch element."""
    BN, BW, R, Hw = (sizes[name] for name in ("BN", "BW", "R", "HW"))
    warps = 1 if BN * max(BN, BW) * R <= 256 else 4
    if "BS" in kernel.arg_names and R * Hw >= MANY_HEADS:
        warps = 8
    launch.run_by_name(kernel, (len(arrays["vector"]), programs), arrays, sizes, warps)


def forward(step: Step, scratch: Scratch, robust: bool, kept: Tensor | None) -> None:
    """See `step.forward`."""
    sizes = _sizes(step, scratch, scratch.forward_rows, robust)
    arrays = step._asdict() | {
        "scratch": scratch.numbers,
        "kept": scratch.unkept if kept is None else kept,
    }
    if sizes["ALONE"]:
        sizes["BR"] = max(sizes["BR"], ALONE_HEADS)
    _run(small_forward.strip_kernel, sizes["S"], arrays, sizes)
    if not sizes["ALONE"]:
        _run(small_forward.read_kernel, sizes["PARTS"], arrays, sizes)


def backward(step: Step, adjoint: Adjoint, scratch: Scratch, robust: bool, kept: Tensor) -> None:
    """See `step.backward`."""
    sizes = _sizes(step, scratch, scratch.backward_rows, robust)
    arrays = step._asdict() | {"d_reads": step.reads, "scratch": scratch.numbers, "kept": kept}
    arrays |= {f"d_{name}": tensor for name, tensor in adjoint._asdict().items()}
    heads = step.write0.shape[1]
    _run(small_backward.strip_backward_kernel, (heads + 1) * sizes["S"], arrays, sizes)
    _run(small_gradients.gradients_kernel, 4, arrays, sizes)
