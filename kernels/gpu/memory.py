"""Writing to the cells and reading from them: tiles of cells, all heads in one pass.

    M_t = M_{t-1} prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T;  r_r = wr_r M_t

Sums over cells, which are the read vectors and the gradients of erase and write vectors, are stored
as one part per tile; the parts are added up after the kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, ops
from .arithmetic import get_row, put_row
from .content import load_cells, store_cells


@triton.jit
def load_weights(
    weights, n, N: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr
):
    """Cells n of weightings (H, N): (BH, n), 0 outside."""
    h = tl.arange(0, BH)
    mask = (h < H)[:, None] & (n < N)[None, :]
    return tl.load(weights + h[:, None] * N + n[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def store_weights(weights, tile, n, N: tl.constexpr, H: tl.constexpr, BH: tl.constexpr):
    """Store (BH, n) as cells n of weightings (H, N)."""
    h = tl.arange(0, BH)
    mask = (h < H)[:, None] & (n < N)[None, :]
    tl.store(weights + h[:, None] * N + n[None, :], tile, mask=mask)


@triton.jit
def kept_part(
    weights, erase, head, w,
    W: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The fraction of each number that a head keeps, 1 - ww e^T: (n, W)."""
    erased = tl.load(erase + head * W + w, mask=w < W, other=0.0).to(DTYPE)
    return 1.0 - get_row(weights, head, BHW)[:, None] * erased[None, :]


@triton.jit
def written_cells(
    cells, weights, erase, vectors, w,
    W: tl.constexpr, HW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Some cells after all write heads have erased and then added.

    Args:
        cells: (n, W).
        weights: (BHW, n), 0 outside.
        erase, vectors: (HW, W) each.
    """
    added = tl.zeros([cells.shape[0], cells.shape[1]], DTYPE)
    for head in tl.static_range(HW):
        vector = tl.load(vectors + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        added += get_row(weights, head, BHW)[:, None] * vector[None, :]
        cells *= kept_part(weights, erase, head, w, W, BHW, DTYPE)
    return cells + added


@triton.jit
def write_backward(
    d_cells, cells, weights, erase, vectors, d_erase, d_vectors, w,
    W: tl.constexpr, HW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through `written_cells`.

    With F_h = 1 - ww_h e_h^T and Q_h = dM_t M_{t-1} prod over the other heads of F:

        dM_{t-1} = dM_t prod_h F_h;  dv_h = dM_t^T ww_h;  de_h = -Q_h^T ww_h
        dww_h = dM_t v_h - Q_h e_h

    Args:
        d_cells: (n, W), gradient of the new cells, 0 outside.
        cells: (n, W), before the write.
        weights: (BHW, n), 0 outside.
        erase, vectors: (HW, W) each.
        d_erase, d_vectors: filled with what these cells add to the gradients.

    Returns:
        gradients of the cells before the write (n, W) and of weights (BHW, n).
    """
    d_cells_before = d_cells
    d_weights = tl.zeros([BHW, cells.shape[0]], DTYPE)
    for head in tl.static_range(HW):
        weight = get_row(weights, head, BHW)[:, None]
        erased = tl.load(erase + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        vector = tl.load(vectors + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        # Not by dividing the product of all heads by this head's factor, which may be 0.
        changed = d_cells * cells
        for other in tl.static_range(HW):
            if other != head:
                changed *= kept_part(weights, erase, other, w, W, BHW, DTYPE)
        d_vector = tl.sum(weight * d_cells, 0)
        d_erased = -tl.sum(weight * changed, 0)
        tl.store(d_vectors + head * W + w, d_vector, mask=w < W)
        tl.store(d_erase + head * W + w, d_erased, mask=w < W)
        d_weight = tl.sum(d_cells * vector[None, :] - changed * erased[None, :], 1)
        d_weights = put_row(d_weights, head, d_weight, BHW)
        d_cells_before *= 1.0 - weight * erased[None, :]
    return d_cells_before, d_weights


@triton.jit
def read_part(cells, weights, reads, w, W: tl.constexpr, R: tl.constexpr, BR: tl.constexpr):
    """What all heads read from some cells, stored as a part of the read vectors.

    Args:
        cells: (n, W).
        weights: (BR, n), 0 outside.
        reads: (R, W), filled with the part.
    """
    for head in tl.static_range(R):
        read = tl.sum(get_row(weights, head, BR)[:, None] * cells, 0)
        tl.store(reads + head * W + w, read, mask=w < W)


@triton.jit
def read_backward(
    d_reads, cells, weights, d_cells, w,
    W: tl.constexpr, R: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through `read_part`: dM = sum_r wr_r dr_r^T; dwr_r = M dr_r.

    Args:
        d_reads: (R, W), gradient of the read vectors.
        cells: (n, W).
        weights: (BR, n), 0 outside.
        d_cells: (n, W), gradient so far.

    Returns:
        d_cells with these gradients added, and the gradient of weights (BR, n).
    """
    d_weights = tl.zeros([BR, cells.shape[0]], DTYPE)
    for head in tl.static_range(R):
        d_read = tl.load(d_reads + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        d_weights = put_row(d_weights, head, tl.sum(cells * d_read[None, :], 1), BR)
        d_cells += get_row(weights, head, BR)[:, None] * d_read[None, :]
    return d_cells, d_weights


@triton.jit
def write_kernel(
    memory, weights, erase, vectors, new_memory,
    N: tl.constexpr, W: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of cells after the write."""
    b, tile = launch.row_and_tile(TILES)
    n, w = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW)
    cells = written_cells(
        load_cells(memory + b * N * W, n, w, N, W, DTYPE),
        load_weights(weights + b * HW * N, n, N, HW, BHW, DTYPE), erase + b * HW * W,
        vectors + b * HW * W, w, W, HW, BHW, DTYPE,
    )  # fmt: skip
    store_cells(new_memory + b * N * W, cells, n, w, N, W)


@triton.jit
def write_backward_kernel(
    d_new_memory, memory, weights, erase, vectors, d_memory, d_weights, d_erase, d_vectors,
    N: tl.constexpr, W: tl.constexpr, HW: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BHW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of cells, and what the tile adds to those of the vectors."""
    b, tile = launch.row_and_tile(TILES)
    n, w = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW)
    d_cells, d_found = write_backward(
        load_cells(d_new_memory + b * N * W, n, w, N, W, DTYPE),
        load_cells(memory + b * N * W, n, w, N, W, DTYPE),
        load_weights(weights + b * HW * N, n, N, HW, BHW, DTYPE), erase + b * HW * W,
        vectors + b * HW * W, d_erase + (b * TILES + tile) * HW * W,
        d_vectors + (b * TILES + tile) * HW * W, w, W, HW, BHW, DTYPE,
    )  # fmt: skip
    tl.debug_barrier()  # d_memory may be d_new_memory: all threads must have read it before
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)
    store_weights(d_weights + b * HW * N, d_found, n, N, HW, BHW)


@triton.jit
def read_kernel(
    memory, weights, reads,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What all heads read from a tile of cells."""
    b, tile = launch.row_and_tile(TILES)
    n, w = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW)
    cells = load_cells(memory + b * N * W, n, w, N, W, DTYPE)
    found = load_weights(weights + b * R * N, n, N, R, BR, DTYPE)
    read_part(cells, found, reads + (b * TILES + tile) * R * W, w, W, R, BR)


@triton.jit
def read_backward_kernel(
    d_reads, memory, weights, d_memory, d_weights,
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of cells, and of their weights."""
    b, tile = launch.row_and_tile(TILES)
    n, w = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW)
    d_cells, d_found = read_backward(
        d_reads + b * R * W, load_cells(memory + b * N * W, n, w, N, W, DTYPE),
        load_weights(weights + b * R * N, n, N, R, BR, DTYPE), tl.zeros([BM, BW], DTYPE), w, W, R,
        BR, DTYPE,
    )  # fmt: skip
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)
    store_weights(d_weights + b * R * N, d_found, n, N, R, BR)


def launch_write(
    memory: Tensor,
    write_weights: Tensor,
    erase_vectors: Tensor,
    write_vectors: Tensor,
    new_memory: Tensor,
) -> None:
    """Fill new_memory. All tensors are contiguous."""
    sizes = launch.tile_sizes(memory, HW=write_weights.shape[1])
    grid = (len(memory) * sizes["TILES"],)
    given = (memory, write_weights, erase_vectors, write_vectors)
    launch.run(write_kernel, grid, *given, new_memory, **sizes)


def launch_write_backward(
    d_new_memory: Tensor,
    memory: Tensor,
    write_weights: Tensor,
    erase_vectors: Tensor,
    write_vectors: Tensor,
    d_memory: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of write_weights, erase_vectors and write_vectors. All tensors are contiguous.

    Fills d_memory, which may be the same tensor as d_new_memory.
    """
    B, HW, W = erase_vectors.shape
    sizes = launch.tile_sizes(memory, HW=HW)
    TILES = sizes["TILES"]
    d_write_weights = torch.empty_like(write_weights)
    d_erase_parts = launch.new_like(memory, B, TILES, HW, W)
    d_vector_parts = launch.new_like(memory, B, TILES, HW, W)
    launch.run(
        write_backward_kernel, (B * TILES,), d_new_memory, memory, write_weights, erase_vectors,
        write_vectors, d_memory, d_write_weights, d_erase_parts, d_vector_parts, **sizes,
    )  # fmt: skip
    d_erase_vectors = torch.empty_like(erase_vectors)
    d_write_vectors = torch.empty_like(write_vectors)
    launch.total(d_erase_parts, d_erase_vectors)
    launch.total(d_vector_parts, d_write_vectors)
    return d_write_weights, d_erase_vectors, d_write_vectors


@torch.library.custom_op("dnc_fast::write_memory", mutates_args=())
def write_memory(
    memory: Tensor, write_weights: Tensor, erase_vectors: Tensor, write_vectors: Tensor
) -> Tensor:
    """(B, N, W): the memory after all write heads have erased and then added.

    Args:
        memory: (B, N, W), of the previous step.
        write_weights: (B, Hw, N).
        erase_vectors: (B, Hw, W), in [0, 1].
        write_vectors: (B, Hw, W).
    """
    memory, write_weights = launch.contiguous(memory, write_weights)
    erase_vectors, write_vectors = launch.contiguous(erase_vectors, write_vectors)
    new_memory = torch.empty_like(memory)
    launch_write(memory, write_weights, erase_vectors, write_vectors, new_memory)
    return new_memory


@write_memory.register_fake
def _(memory: Tensor, *others: Tensor) -> Tensor:
    return torch.empty_like(memory, memory_format=torch.contiguous_format)


@torch.library.custom_op("dnc_fast::write_memory_backward", mutates_args=())
def write_memory_backward(
    d_new_memory: Tensor,
    memory: Tensor,
    write_weights: Tensor,
    erase_vectors: Tensor,
    write_vectors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of memory, write_weights, erase_vectors and write_vectors."""
    d_new_memory, memory, write_weights = launch.contiguous(d_new_memory, memory, write_weights)
    erase_vectors, write_vectors = launch.contiguous(erase_vectors, write_vectors)
    d_memory = torch.empty_like(memory)
    gradients = launch_write_backward(
        d_new_memory, memory, write_weights, erase_vectors, write_vectors, d_memory
    )
    return d_memory, *gradients


@write_memory_backward.register_fake
def _(d_new_memory: Tensor, *inputs: Tensor) -> Any:
    return launch.contiguous_like(*inputs)


@torch.library.custom_op("dnc_fast::read_memory", mutates_args=())
def read_memory(memory: Tensor, read_weights: Tensor) -> Tensor:
    """(B, R, W): what the read heads read.

    Args:
        memory: (B, N, W), of this step.
        read_weights: (B, R, N).
    """
    memory, read_weights = launch.contiguous(memory, read_weights)
    (B, _, W), R = memory.shape, read_weights.shape[1]
    sizes = launch.tile_sizes(memory, R=R)
    read_parts = launch.new_like(memory, B, sizes["TILES"], R, W)
    grid = (B * sizes["TILES"],)
    launch.run(read_kernel, grid, memory, read_weights, read_parts, **sizes)
    reads = memory.new_empty(B, R, W)
    launch.total(read_parts, reads)
    return reads


@read_memory.register_fake
def _(memory: Tensor, read_weights: Tensor) -> Tensor:
    return memory.new_empty(memory.shape[0], read_weights.shape[1], memory.shape[2])


@torch.library.custom_op("dnc_fast::read_memory_backward", mutates_args=())
def read_memory_backward(
    d_reads: Tensor, memory: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of memory and read_weights."""
    given = launch.contiguous(d_reads, memory, read_weights)
    gradients = torch.empty_like(given[1]), torch.empty_like(given[2])
    sizes = launch.tile_sizes(memory, R=read_weights.shape[1])
    grid = (len(memory) * sizes["TILES"],)
    launch.run(read_backward_kernel, grid, *given, *gradients, **sizes)
    return gradients


@read_memory_backward.register_fake
def _(d_reads: Tensor, memory: Tensor, read_weights: Tensor) -> tuple[Tensor, Tensor]:
    return launch.contiguous_like(memory, read_weights)


ops.differentiate(write_memory, write_memory_backward)
ops.differentiate(read_memory, read_memory_backward)
