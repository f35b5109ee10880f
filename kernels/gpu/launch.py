"""How kernels are launched: block sizes and warps, and the one place every launch goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALL_CELLS = 64
"""Up to so many cells, one program does the whole step of a batch element."""

SMALL_NUMBERS = 64 * 64
"""Up to so many numbers of its memory, that is; more do not stay in registers."""

TILE_NUMBERS = 64 * 64
"""Numbers of the memory that a program of a tiled kernel holds, at most."""

LINK_ROWS, LINK_COLUMNS = 64, 64
"""The tile of a link matrix that a program holds at a time."""

LINK_TILES = 8
"""Tiles of a row of tiles that a program goes through, at most."""

RANK_CELLS, RANK_OTHERS = 64, 128
"""Cells whose rank a program finds, and cells that it looks at together."""

LSTM_UNITS = 128
"""Hidden units of an LSTM that a program takes; with one warp, some for each thread of any GPU."""

SORT_CELLS = 4096
"""The longest row that a program sorts by itself."""

SCAN_CELLS = 1024
"""Cells of a row in the order of usage that a program multiplies up, or adds up."""

PICK_CELLS = 2048
"""Cells of which a program picks the largest."""

LINK_CELLS = 64
"""Rows of a sparse link matrix that a program goes through."""

WRITE_CELLS = 512
"""Cells of the writes of a separable link that a program goes through, over its read heads."""

SORT_PAIRS = 1 << 28
"""Comparisons of cells from which sorting is likely to beat them (an estimate, not measured)."""


@triton.jit
def row_and_tile(TILES: tl.constexpr):
    """Which row a program of a grid (rows * TILES) is for, and which tile of it, in 64 bits.

    A grid may be long along its first axis only.
    """
    place = tl.program_id(0).to(tl.int64)
    return place // TILES, place % TILES


class Launch(NamedTuple):
    """A launch as it was asked for; for tables and counts."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    enable_fp_fusion: bool


_recorders: list[Callable[[Launch], None]] = []


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The launches made within, in order. On meta tensors nothing else happens."""
    launches: list[Launch] = []
    _recorders.append(launches.append)
    try:
        yield launches
    finally:
        _recorders.remove(launches.append)


def run(
    kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, **constants: Any
) -> None:
    """Launch a kernel where its first argument is.

    Multiplications and additions may fuse unless a kernel is launched with enable_fp_fusion=False;
    said explicitly because Triton 3.10 changes its default.
    """
    fusion = constants.pop("enable_fp_fusion", True)
    for record in _recorders:
        record(Launch(kernel, grid, arguments, constants, num_warps, fusion))
    device = arguments[0].device
    if device.type == "meta":
        return
    options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": fusion}
    if device.type == "cpu":  # interpreted: there is nothing to compile
        options = {}
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants, **options)


def run_by_name(
    kernel: Any,
    grid: tuple[int, ...],
    arrays: Mapping[str, Tensor],
    sizes: Mapping[str, Any],
    num_warps: int,
) -> None:
    """Launch a kernel on those arrays, and for those sizes, that its parameters name."""
    given = (arrays[name] for name in kernel.arg_names if name in arrays)
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    run(kernel, grid, *given, num_warps=num_warps, **constants)


def total(partials: Tensor, out: Tensor) -> None:
    """out = the sum of partials (B, tiles, ...) over the tiles, always in the same order."""
    if partials.dtype == out.dtype:
        torch.sum(partials, dim=1, out=out)
    else:
        out.copy_(partials.sum(dim=1))


def compute_dtype(dtype: torch.dtype) -> Any:
    """What kernels calculate in for tensors of a dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def new_like(tensor: Tensor, *shape: int) -> Tensor:
    """An empty tensor beside another, in the dtype that kernels calculate in."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=tensor.device)


def contiguous(*tensors: Tensor) -> Any:
    """A tuple of the tensors, copied where they are not contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def contiguous_like(*tensors: Tensor) -> Any:
    """A tuple of empty tensors of the same shapes and dtypes, contiguous."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


def block(size: int) -> int:
    """The least power of two that holds a size."""
    return triton.next_power_of_2(size)


def cell_tile(N: int, W: int) -> int:
    """How many cells of W numbers a program of a tiled kernel holds."""
    return max(1, min(block(N), 64, TILE_NUMBERS // block(W)))


def tile_sizes(memory: Tensor, **heads: int) -> dict[str, Any]:
    """What kernels over tiles of a memory (B, N, W) are compiled for.

    Args:
        heads: how many, under the name that the kernels have for it; `B` before the name is that
            number padded.
    """
    _, N, W = memory.shape
    BM, BW = cell_tile(N, W), block(W)
    return {
        "N": N,
        "W": W,
        **heads,
        "TILES": triton.cdiv(N, BM),
        "BM": BM,
        "BW": BW,
        **{f"B{name}": block(count) for name, count in heads.items()},
        "DTYPE": compute_dtype(memory.dtype),
        "num_warps": warps(BM * BW),
    }


def warps(numbers: int) -> int:
    """Warps for a program whose largest array has so many numbers."""
    if numbers <= 256:
        return 1
    if numbers <= 512:
        return 2
    return 4 if numbers <= 32 * 32 else 8


def fits_one_program(N: int, W: int) -> bool:
    """Whether one program does the whole step of a batch element."""
    return N <= SMALL_CELLS and block(N) * block(W) <= SMALL_NUMBERS


def sorts(B: int, N: int, dtype: torch.dtype) -> bool:
    """Whether allocation alone sorts each row in a program, or ranks the cells of many."""
    return dtype != torch.float64 and N <= SORT_CELLS and B * N * N >= SORT_PAIRS


def rank_ranges(N: int) -> int:
    """How many programs rank the cells of a row."""
    return triton.cdiv(N, RANK_CELLS)


def sort_warps(N: int) -> int:
    """Warps for a program that sorts a row."""
    return max(1, min(8, block(N) // 128))
