"""Temporal memory linkage: the link matrix, precedence and both weightings, in one pass.

A program goes through some tiles of a strip of rows of the link matrix. Its sums along rows and
along columns are stored as partial sums, in a place of its own; the next kernel adds them up.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, ops


@triton.jit
def load_tile(pointers, mask, EVEN: tl.constexpr, DTYPE: tl.constexpr):
    """A tile of a link matrix, 0 outside; EVEN: no tile reaches outside."""
    if EVEN:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=mask, other=0.0)
    return tile.to(DTYPE)


@triton.jit
def store_tile(pointers, tile, mask, EVEN: tl.constexpr):
    """Store a tile of a link matrix."""
    if EVEN:
        tl.store(pointers, tile)
    else:
        tl.store(pointers, tile, mask=mask)


@triton.jit
def decay(row_weights, column_weights):
    """1 - ww_i - ww_j, (rows, columns)."""
    return (1.0 - row_weights)[:, None] - column_weights[None, :]


@triton.jit
def without_diagonal(tile, i, j):
    """The tile of rows i and columns j with zeros on the diagonal."""
    return tl.where(i[:, None] == j[None, :], 0.0, tile)


@triton.jit
def row_parts(tile, BM: tl.constexpr, BN: tl.constexpr):
    """Sums of each four columns, (BM, BN / 4); a thread holds all four anyway."""
    if BN < 4:
        parts = tile
    else:
        parts = tl.sum(tl.reshape(tile, [BM, BN // 4, 4]), 2)
    return parts


@triton.jit
def row_total(values, N: tl.constexpr, BN: tl.constexpr, DTYPE: tl.constexpr):
    """The sum of (N)."""
    sums = tl.zeros([BN], DTYPE)
    for start in range(0, N, BN):
        j = start + tl.arange(0, BN)
        sums += tl.load(values + j, mask=j < N, other=0.0).to(DTYPE)
    return tl.sum(sums, 0)


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
def pass_kernel(
    write1, precedence0, read0, link0, link1, precedence1, rows, columns,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    STEPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, READ: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The new link matrix; READ: also partial sums of both weightings, and the new precedence.

    rows: (B, HW, CHUNKS, R, N), forward weightings. columns: (B, HW, STRIPS, R, N), backward.
    """
    bh = tl.program_id(0).to(tl.int64)
    strip, chunk = tl.program_id(1), tl.program_id(2)
    EVEN: tl.constexpr = N % BM == 0 and N % BN == 0
    WIDTH: tl.constexpr = BN // 4 if BN >= 4 else BN
    local = tl.arange(0, BM)
    i = strip * BM + local
    start = bh * N * N + strip.to(tl.int64) * BM * N
    write1 += bh * N
    precedence0 += bh * N
    read0 += bh // HW * R * N
    wi = tl.load(write1 + i, mask=i < N, other=0.0).to(DTYPE)
    if READ:
        if chunk == 0:
            rest = 1.0 - row_total(write1, N, 4 * BN, DTYPE)
            pi = tl.load(precedence0 + i, mask=i < N, other=0.0).to(DTYPE)
            tl.store(precedence1 + bh * N + i, rest * pi + wi, mask=i < N)
    ahead = ()
    if READ:
        for _ in tl.static_range(R):
            ahead = ahead + (tl.zeros([BM, WIDTH], DTYPE),)
    for step in range(STEPS):
        j = (chunk * STEPS + step) * BN + tl.arange(0, BN)
        mask = (i < N)[:, None] & (j < N)[None, :]
        offset = local[:, None] * N + j[None, :]
        link = load_tile(link0 + start + offset, mask, EVEN, DTYPE)
        wj = tl.load(write1 + j, mask=j < N, other=0.0).to(DTYPE)
        pj = tl.load(precedence0 + j, mask=j < N, other=0.0).to(DTYPE)
        link = without_diagonal(decay(wi, wj) * link + wi[:, None] * pj[None, :], i, j)
        store_tile(link1 + start + offset, link, mask, EVEN)
        if READ:
            sums = ()
            for r in tl.static_range(R):
                last = tl.load(read0 + r * N + j, mask=j < N, other=0.0).to(DTYPE)
                sums = sums + (ahead[r] + row_parts(link * last[None, :], BM, BN),)
                last = tl.load(read0 + r * N + i, mask=i < N, other=0.0).to(DTYPE)
                behind = columns + ((bh * STRIPS + strip) * R + r) * N + j
                tl.store(behind, tl.sum(link * last[:, None], 0), mask=j < N)
            ahead = sums
    if READ:
        for r in tl.static_range(R):
            place = rows + ((bh * CHUNKS + chunk) * R + r) * N + i
            tl.store(place, tl.sum(ahead[r], 1), mask=i < N)


@triton.jit
def pass_backward_kernel(
    write1, precedence0, read0, link0, d_link, d_ahead, d_behind, modes, rows, columns,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, STRIPS: tl.constexpr, CHUNKS: tl.constexpr,
    STEPS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, R_STRIDE: tl.constexpr,
    H_STRIDE: tl.constexpr, SCALED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Takes d_link from L_t to L_{t-1}, in place; stores partial sums of all other gradients.

    With a_r and c_r the gradients of the forward and the backward weighting of read head r, s_r and
    t_r their read modes if SCALED (otherwise 1), and
    G = d_link + sum_r s_r a_r wr_r^T + t_r wr_r c_r^T, without its diagonal:

        d_link = (1 - ww_i - ww_j) G
        rows: (B, HW, CHUNKS, R + 1, N): L_t c_r; sum_j G_ij (p_j - L_ij)
        columns: (B, HW, STRIPS, R + 2, N): L_t^T a_r; sum_i G_ij L_ij; sum_i ww_i G_ij

    where L and p are those of t - 1. For batch element b and write head h, a_r and c_r begin at
    b R R_STRIDE + r R_STRIDE + h H_STRIDE of d_ahead and d_behind.
    """
    bh = tl.program_id(0).to(tl.int64)
    strip, chunk = tl.program_id(1), tl.program_id(2)
    EVEN: tl.constexpr = N % BM == 0 and N % BN == 0
    WIDTH: tl.constexpr = BN // 4 if BN >= 4 else BN
    local = tl.arange(0, BM)
    i = strip * BM + local
    start = bh * N * N + strip.to(tl.int64) * BM * N
    b, head = bh // HW, bh % HW
    write1 += bh * N
    precedence0 += bh * N
    read0 += b * R * N
    d_ahead += b * R * R_STRIDE + head * H_STRIDE
    d_behind += b * R * R_STRIDE + head * H_STRIDE
    rows += (bh * CHUNKS + chunk) * (R + 1) * N
    columns += (bh * STRIPS + strip) * (R + 2) * N
    modes += b * R * (1 + 2 * HW) + head
    wi = tl.load(write1 + i, mask=i < N, other=0.0).to(DTYPE)
    x = ()
    for _ in tl.static_range(R):
        x = x + (tl.zeros([BM, WIDTH], DTYPE),)
    row_sums = tl.zeros([BM, WIDTH], DTYPE)
    for step in range(STEPS):
        j = (chunk * STEPS + step) * BN + tl.arange(0, BN)
        mask = (i < N)[:, None] & (j < N)[None, :]
        offset = local[:, None] * N + j[None, :]
        link = load_tile(link0 + start + offset, mask, EVEN, DTYPE)
        gradient = load_tile(d_link + start + offset, mask, EVEN, DTYPE)
        wj = tl.load(write1 + j, mask=j < N, other=0.0).to(DTYPE)
        pj = tl.load(precedence0 + j, mask=j < N, other=0.0).to(DTYPE)
        kept = decay(wi, wj)
        new_link = without_diagonal(kept * link + wi[:, None] * pj[None, :], i, j)
        sums = ()
        for r in tl.static_range(R):
            last = tl.load(read0 + r * N + j, mask=j < N, other=0.0).to(DTYPE)
            change = tl.load(d_behind + r * R_STRIDE + j, mask=j < N, other=0.0).to(DTYPE)
            sums = sums + (x[r] + row_parts(new_link * change[None, :], BM, BN),)
            if SCALED:
                last *= tl.load(modes + r * (1 + 2 * HW) + 1 + HW)
                change *= tl.load(modes + r * (1 + 2 * HW))
            ai = tl.load(d_ahead + r * R_STRIDE + i, mask=i < N, other=0.0).to(DTYPE)
            last_i = tl.load(read0 + r * N + i, mask=i < N, other=0.0).to(DTYPE)
            gradient += ai[:, None] * last[None, :]
            gradient += last_i[:, None] * change[None, :]
            tl.store(columns + r * N + j, tl.sum(new_link * ai[:, None], 0), mask=j < N)
        x = sums
        gradient = without_diagonal(gradient, i, j)
        product = gradient * link
        row_sums += row_parts(gradient * pj[None, :] - product, BM, BN)
        tl.store(columns + R * N + j, tl.sum(product, 0), mask=j < N)
        tl.store(columns + (R + 1) * N + j, tl.sum(gradient * wi[:, None], 0), mask=j < N)
        if BM * BN < 1024:  # several threads may hold the same number: all must have read it
            tl.debug_barrier()
        store_tile(d_link + start + offset, kept * gradient, mask, EVEN)
    for r in tl.static_range(R):
        tl.store(rows + r * N + i, tl.sum(x[r], 1), mask=i < N)
    tl.store(rows + R * N + i, tl.sum(row_sums, 1), mask=i < N)


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


def tiling(N: int) -> dict[str, Any]:
    """How a link matrix of N cells is divided among programs, independently of the batch size."""
    BM, BN = min(launch.LINK_ROWS, launch.block(N)), min(launch.LINK_COLUMNS, launch.block(N))
    strips, tiles = launch.cdiv(N, BM), launch.cdiv(N, BN)
    steps = max(1, min(launch.LINK_TILES, launch.block(strips * tiles) // 128))
    return {
        "STRIPS": strips,
        "CHUNKS": launch.cdiv(tiles, steps),
        "STEPS": steps,
        "BM": BM,
        "BN": BN,
    }


def partials(like: Tensor, B: int, N: int, R: int, Hw: int) -> tuple[Tensor, Tensor]:
    """Buffers of partial sums, large enough for the forward and the backward pass."""
    sizes = tiling(N)
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
    B, Hw, N = write1.shape
    sizes = tiling(N)
    launch.run(
        pass_kernel, (B * Hw, sizes["STRIPS"], sizes["CHUNKS"]), write1, precedence0, read0, link0,
        link1, *filled, N=N, R=read0.shape[1], HW=Hw,
        READ=precedence1 is not None, DTYPE=launch.compute_dtype(link0.dtype), **sizes,
        num_warps=launch.warps(sizes["BM"] * sizes["BN"] // 4),
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
    B, Hw, N = write1.shape
    sizes = tiling(N)
    launch.run(
        pass_backward_kernel, (B * Hw, sizes["STRIPS"], sizes["CHUNKS"]), write1, precedence0,
        read0, link0, d_link, d_ahead, d_behind, write1 if modes is None else modes, rows, columns,
        N=N, R=read0.shape[1], HW=Hw, R_STRIDE=d_ahead.stride(1),
        H_STRIDE=N if modes is None else 0, SCALED=modes is not None,
        DTYPE=launch.compute_dtype(link0.dtype), **sizes,
        num_warps=launch.warps(sizes["BM"] * sizes["BN"]),
    )  # fmt: skip


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
    Hw, sizes = link.shape[1], tiling(N)
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
    Hw, sizes = link.shape[1], tiling(N)
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
