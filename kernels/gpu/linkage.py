"""Temporal memory linkage: the link matrix, precedence and both weightings, in one pass.

A program of `link_pass` goes through a part of the link matrix. Its sums along rows and along
columns are stored as partial sums, in a place of its own; the next kernel adds them up.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, link_pass, ops
from .link_pass import row_total

STRIPS = 16
"""Strips of rows that a link matrix is divided into: few, as each stores sums of its columns ..."""

FEWEST_ROWS, MOST_ROWS = 32, 512
"""... unless they would have fewer rows, or more, which would be too few programs."""

LARGEST_PAIRED = 4096
"""The most cells with which the backward pass sums rows in pairs: fewer instructions, but beyond
that memory is what it waits for, and 16,384 cells took 967 us with pairs, 929 without (H200)."""

KEPT_HEADS = 4
"""With more read heads than this, what they have in a program's columns is loaded at every step.

In registers it would leave room for few programs, with 16 heads not even for one. The link matrix
is read once for any number of heads.
"""


@triton.jit
def partial_sum(
    partials, n, COUNT: tl.constexpr, STRIDE: tl.constexpr, N: tl.constexpr, DTYPE: tl.constexpr
):
    """Adds up COUNT partial sums of cells n, which lie STRIDE apart."""
    found = tl.zeros([n.shape[0]], DTYPE)
    for index in range(COUNT):
        found += tl.load(partials + index * STRIDE + n, mask=n < N, other=0.0)
    return found


@triton.jit
def vectors_backward(
    change, written, product, rows, columns, n,
    N: tl.constexpr, R: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """What link matrix and precedence add to the gradients of cells n, from the partial sums.

    Args:
        change: (n), gradient of the new precedence.
        written: the sum of the write weighting over all cells.
        product: the sum over all cells of change times the precedence of step t - 1.
        rows, columns: the partial sums of one batch element and head.

    Returns:
        gradients of the write weighting, and of the precedence of step t - 1.
    """
    row_sums = partial_sum(rows + R * N, n, CHUNKS, (R + 1) * N, N, DTYPE)
    column_sums = partial_sum(columns + R * N, n, STRIPS, (R + 2) * N, N, DTYPE)
    d_precedence = partial_sum(columns + (R + 1) * N, n, STRIPS, (R + 2) * N, N, DTYPE)
    return change - product + row_sums - column_sums, d_precedence + (1.0 - written) * change


@triton.jit
def vectors_backward_kernel(
    write1, precedence0, d_precedence1, rows, columns, d_write, d_precedence0,
    N: tl.constexpr, R: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr, BN: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """`vectors_backward` for some cells of a batch element and write head."""
    bh = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    products = tl.zeros([BN], DTYPE)
    for start in range(0, N, BN):
        j = start + tl.arange(0, BN)
        change = tl.load(d_precedence1 + bh * N + j, mask=j < N, other=0.0).to(DTYPE)
        products += change * tl.load(precedence0 + bh * N + j, mask=j < N, other=0.0).to(DTYPE)
    d_written, d_before = vectors_backward(
        tl.load(d_precedence1 + bh * N + n, mask=n < N, other=0.0).to(DTYPE),
        row_total(write1 + bh * N, N, BN, DTYPE), tl.sum(products, 0),
        rows + bh * CHUNKS * (R + 1) * N, columns + bh * STRIPS * (R + 2) * N, n, N, R, STRIPS,
        CHUNKS, DTYPE,
    )  # fmt: skip
    tl.store(d_write + bh * N + n, d_written, mask=n < N)
    tl.store(d_precedence0 + bh * N + n, d_before, mask=n < N)


def tiling(N: int, dtype: torch.dtype) -> dict[str, Any]:
    """How a link matrix of N cells is divided among programs, whatever the batch size.

    Each of STRIPS x CHUNKS programs stores partial sums of its columns and of its rows. The other
    sizes are those of `link_pass`; dtype is that of the weightings.
    """
    BN = 32 * gcd(N, 2 if dtype == torch.float64 else 4)  # a vector load a thread, if aligned
    rows = min(max(launch.block(N) // STRIPS, FEWEST_ROWS), MOST_ROWS, launch.block(N))
    num_warps = 2 if rows <= 64 else 4
    slots = min(max(rows // num_warps, 4), 32)
    blocks = max(1, rows // (num_warps * slots))
    return {
        "STRIPS": launch.cdiv(N, blocks * slots * num_warps),
        "CHUNKS": launch.cdiv(N, BN),
        "BLOCKS": blocks,
        "SLOTS": slots,
        "BM": num_warps,
        "BN": BN,
        "num_warps": num_warps,
    }


def partials(like: Tensor, B: int, N: int, R: int, Hw: int) -> tuple[Tensor, Tensor]:
    """Buffers of partial sums, large enough for the forward and the backward pass."""
    sizes = tiling(N, like.dtype)
    return (
        launch.new_like(like, B * Hw * sizes["CHUNKS"] * (R + 1) * N),
        launch.new_like(like, B * Hw * sizes["STRIPS"] * (R + 2) * N),
    )


def launch_pass(
    write1: Tensor,
    precedence0: Tensor,
    read0: Tensor,
    link0: Tensor,
    link1: Tensor,
    precedence1: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """Fill link1; and precedence1, rows and columns if they are given, all three or none."""
    filled = (write1 if one is None else one for one in (precedence1, rows, columns))
    (B, Hw, N), R = write1.shape, read0.shape[1]
    sizes = tiling(N, write1.dtype)
    pair = sizes["num_warps"] == 2
    launch.run(
        link_pass.pass_kernel, (B * Hw * sizes["STRIPS"] * sizes["CHUNKS"],), write1, precedence0,
        read0, link0, link1, *filled, N=N, R=R, HW=Hw, M=2 if pair else 4, PAIR=pair,
        UNROLL=2 if pair else 1, KEEP=R <= KEPT_HEADS, READ=precedence1 is not None,
        DTYPE=launch.compute_dtype(write1.dtype), **sizes,
    )  # fmt: skip


def launch_pass_backward(
    write1: Tensor,
    precedence0: Tensor,
    read0: Tensor,
    link0: Tensor,
    d_link: Tensor,
    d_ahead: Tensor,
    d_behind: Tensor,
    modes: Tensor | None,
    rows: Tensor,
    columns: Tensor,
) -> None:
    """Change d_link in place, and fill rows and columns.

    Args:
        d_ahead, d_behind: (B, R, N), to be multiplied by read modes (B, R, 1 + 2 Hw); or
            (B, R, Hw, N) without modes.
    """
    (B, Hw, N), R = write1.shape, read0.shape[1]
    sizes = tiling(N, write1.dtype)
    launch.run(
        link_pass.pass_backward_kernel, (B * Hw * sizes["STRIPS"] * sizes["CHUNKS"],), write1,
        precedence0, read0, link0, d_link, d_ahead, d_behind, write1 if modes is None else modes,
        rows, columns, N=N, R=R, HW=Hw, M=2, PAIR=N <= LARGEST_PAIRED, KEEP=R <= KEPT_HEADS,
        R_STRIDE=d_ahead.stride(1), H_STRIDE=N if modes is None else 0, SCALED=modes is not None,
        DTYPE=launch.compute_dtype(write1.dtype), maxnreg=_most_registers(N, R, write1.dtype),
        **sizes,
    )  # fmt: skip


def _most_registers(N: int, R: int, dtype: torch.dtype) -> int | None:
    """A limit for the backward pass where a compiler takes a few registers more than 128.

    Within it, all programs of 8 link matrices of 1,024 cells, or of one of 4,096, run at once on a
    GPU of 132 multiprocessors. Where cells do not fill tiles, masks would be spilled instead.
    """
    full = R == KEPT_HEADS and dtype != torch.float64 and N % 128 == 0
    return 128 if full and N <= LARGEST_PAIRED else None


@torch.library.custom_op("dnc_fast::linkage", mutates_args=())
def linkage(
    link: Tensor, precedence: Tensor, write_weights: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The new link matrix and precedence, and the forward and backward weightings (B, R, Hw, N).

    Args:
        link: (B, Hw, N, N), of the previous step.
        precedence: (B, Hw, N), of the previous step.
        write_weights: (B, Hw, N), of this step.
        read_weights: (B, R, N), of the previous step.
    """
    link, precedence, write_weights, read_weights = launch.contiguous(
        link, precedence, write_weights, read_weights
    )
    B, R, N = read_weights.shape
    Hw, sizes = link.shape[1], tiling(N, link.dtype)
    new_link, new_precedence = torch.empty_like(link), torch.empty_like(precedence)
    rows = launch.new_like(link, B, Hw, sizes["CHUNKS"], R, N)
    columns = launch.new_like(link, B, Hw, sizes["STRIPS"], R, N)
    launch_pass(
        write_weights, precedence, read_weights, link, new_link, new_precedence, rows, columns
    )
    forward, backward = (_heads_inside(part.sum(2), link.dtype) for part in (rows, columns))
    return new_link, new_precedence, forward, backward


def _heads_inside(weightings: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, Hw, R, N) as (B, R, Hw, N)."""
    return weightings.transpose(1, 2).to(dtype).contiguous()


@linkage.register_fake
def _(
    link: Tensor, precedence: Tensor, write_weights: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, R, N = read_weights.shape
    shape = (B, R, link.shape[1], N)
    new = link.new_empty
    return new(link.shape), new(precedence.shape), new(shape), new(shape)


@torch.library.custom_op("dnc_fast::linkage_backward", mutates_args=())
def linkage_backward(
    d_link: Tensor,
    d_precedence: Tensor,
    d_forward: Tensor,
    d_backward: Tensor,
    link: Tensor,
    precedence: Tensor,
    write_weights: Tensor,
    read_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the inputs of `linkage`, given those of its outputs."""
    d_precedence, d_forward, d_backward = launch.contiguous(d_precedence, d_forward, d_backward)
    link, precedence, write_weights, read_weights = launch.contiguous(
        link, precedence, write_weights, read_weights
    )
    B, R, N = read_weights.shape
    Hw, sizes = link.shape[1], tiling(N, link.dtype)
    d_link_before = d_link.clone(memory_format=torch.contiguous_format)
    rows = launch.new_like(link, B, Hw, sizes["CHUNKS"], R + 1, N)
    columns = launch.new_like(link, B, Hw, sizes["STRIPS"], R + 2, N)
    launch_pass_backward(
        write_weights,
        precedence,
        read_weights,
        link,
        d_link_before,
        d_forward,
        d_backward,
        None,
        rows,
        columns,
    )
    d_read_weights = rows[:, :, :, :R].sum((1, 2)) + columns[:, :, :, :R].sum((1, 2))
    d_write_weights = torch.empty_like(write_weights)
    d_precedence_before = torch.empty_like(precedence)
    BN = min(256, launch.block(N))
    launch.run(
        vectors_backward_kernel, (B * Hw, launch.cdiv(N, BN)), write_weights, precedence,
        d_precedence, rows, columns, d_write_weights, d_precedence_before, N=N, R=R,
        STRIPS=sizes["STRIPS"], CHUNKS=sizes["CHUNKS"], BN=BN,
        DTYPE=launch.compute_dtype(link.dtype),
    )  # fmt: skip
    return d_link_before, d_precedence_before, d_write_weights, d_read_weights.to(link.dtype)


@linkage_backward.register_fake
def _(*inputs: Tensor) -> Any:
    return launch.contiguous_like(*inputs[4:])


ops.differentiate(linkage, linkage_backward)
