"""How kernels are launched: block sizes, warps, and the function behind every launch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALL_CELLS = 64
"""With at most this many cells, one program does the whole step of a batch element ..."""

SMALL_NUMBERS = 64 * 64
"""... if its padded memory has at most this many numbers: more do not fit in registers."""

TILE_NUMBERS = 64 * 64
"""The most numbers of the memory that a program of a tiled kernel holds."""

LINK_ROWS, LINK_COLUMNS = 64, 64
"""The tile of a link matrix that a program holds at a time."""

LINK_TILES = 8
"""The most tiles of a strip that a program goes through."""

RANK_CELLS, RANK_OTHERS = 64, 128
"""Cells whose rank a program finds, and cells that it compares them with at a time."""

LSTM_UNITS = 128
"""Hidden units of an LSTM per program; with one warp, every thread has some on any GPU."""

SORT_CELLS = 4096
"""The most cells of a batch element that one program sorts."""

SCAN_CELLS = 1024
"""Cells in a block of the order of usage, over which a program forms products or sums."""

PICK_CELLS = 2048
"""Cells from which a program picks the largest."""

LINK_CELLS = 64
"""Rows of a sparse link matrix per program."""

WRITE_CELLS = 512
"""Cells of a separable link per program, times its read heads."""

SORT_PAIRS = 1 << 28
"""Comparisons of cells from which they are sorted instead.

On an H200, 64 batch elements of 1,024 cells (2^26 comparisons) took 9.6 us sorted, 22.9 compared;
16 of 4,096 cells (2^28) took 82 sorted, 49 compared: the number of cells matters more than this.
"""


@triton.jit
def row_and_tile(TILES: tl.constexpr):
    """The row and the tile of a program in a grid of (rows * TILES), as 64-bit integers.

    It is a grid of one axis because only the first axis of a grid may be long.
    """
    place = tl.program_id(0).to(tl.int64)
    return place // TILES, place % TILES


class Launch(NamedTuple):
    """A launch with all its arguments, for tables and counts."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    enable_fp_fusion: bool


_recorders: list[Callable[[Launch], None]] = []


@contextmanager
def recorded(alone: bool = False) -> Iterator[list[Launch]]:
    """The launches made inside the context, in order. On meta tensors nothing is run.

    alone: who records around the context does not hear of them.
    """
    launches: list[Launch] = []
    before = _recorders[:]
    _recorders[:] = [launches.append] if alone else [*before, launches.append]
    try:
        yield launches
    finally:
        _recorders[:] = before


def on_amd(options: Mapping[str, Any]) -> dict[str, Any]:
    """Constants and options of a launch as AMD's compiler takes them.

    It has no tf32x3 and no limit of registers, and 64 KiB of shared memory hold three stages.
    """
    changed: dict[str, Any] = {
        name: "ieee" if value == "tf32x3" else value for name, value in options.items()
    }
    changed.pop("maxnreg", None)
    if changed.get("num_stages", 0) > 3:
        changed["num_stages"] = 3
    return changed


def settle(kernel: Any) -> Any:
    """A kernel, under the name in Triton's cache that it has in every process.

    The name depends on the global constants of the functions that a kernel calls. Triton 3.6 knows
    them only if those functions were named before, so that it would also depend on what a process
    launched before, and kernels that another process compiled would not be found.
    """
    if id(kernel) not in _settled:
        _settled.add(id(kernel))  # before the functions that it calls: it may be one of them
        used = map(kernel.fn.__globals__.get, kernel.fn.__code__.co_names)
        for function in used:
            if isinstance(function, triton.JITFunction):
                settle(function)
        _ = kernel.cache_key
    return kernel


_settled: set[int] = set()


def run(
    kernel: Any,
    grid: tuple[int, ...],
    *arguments: Any,
    num_warps: int = 4,
    enable_fp_fusion: bool = True,
    **constants: Any,
) -> None:
    """Launch a kernel on the device of its first argument.

    Multiplications and additions may be fused unless enable_fp_fusion=False is passed. The option
    is always passed on because its default changes in Triton 3.10.
    """
    for record in _recorders:
        record(Launch(kernel, grid, arguments, constants, num_warps, enable_fp_fusion))
    device = arguments[0].device
    if device.type == "meta":
        return
    options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
    if device.type == "cpu":  # the interpreter compiles nothing
        options = {}
    elif isinstance(kernel, triton.JITFunction):
        settle(kernel)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*arguments, **constants, **options)


def run_by_name(
    kernel: Any,
    grid: tuple[int, ...],
    arrays: Mapping[str, Tensor],
    sizes: Mapping[str, Any],
    num_warps: int,
) -> None:
    """Launch a kernel with those of the arrays and sizes that its parameters name."""
    given = (arrays[name] for name in kernel.arg_names if name in arrays)
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    run(kernel, grid, *given, num_warps=num_warps, **constants)


def total(partials: Tensor, out: Tensor) -> None:
    """out = the sum of partials (B, tiles, ...) over the tiles, in a fixed order."""
    if partials.dtype == out.dtype:
        torch.sum(partials, dim=1, out=out)
    else:
        out.copy_(partials.sum(dim=1))


def compute_dtype(dtype: torch.dtype) -> Any:
    """The dtype that kernels compute in for tensors of a dtype."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def new_like(tensor: Tensor, *shape: int) -> Tensor:
    """An empty tensor on the device of another, in the dtype that kernels compute in."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=tensor.device)


def contiguous(*tensors: Tensor) -> Any:
    """A tuple of the tensors, copied where they are not contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def contiguous_like(*tensors: Tensor) -> Any:
    """A tuple of contiguous empty tensors of the same shapes and dtypes."""
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)


# Triton has functions for these two as well, but each call takes 4 us, dozens of times per step.


def block(size: int) -> int:
    """The smallest power of two that is not below a size, which is at least 1."""
    return 1 << (size - 1).bit_length()


def cdiv(size: int, part: int) -> int:
    """How many parts a size is divided into, the last one perhaps not full."""
    return -(-size // part)


def cell_tile(N: int, W: int) -> int:
    """How many cells of W numbers each program of a tiled kernel holds."""
    return max(1, min(block(N), 64, TILE_NUMBERS // block(W)))


def tile_sizes(memory: Tensor, **heads: int) -> dict[str, Any]:
    """Constants of the kernels that work on tiles of a memory (B, N, W).

    Args:
        heads: numbers of heads under the kernels' names for them. Each is added as it is, and
            padded to a power of two under the name with a B in front.
    """
    _, N, W = memory.shape
    BM, BW = cell_tile(N, W), block(W)
    return {
        "N": N,
        "W": W,
        **heads,
        "TILES": cdiv(N, BM),
        "BM": BM,
        "BW": BW,
        **{f"B{name}": block(count) for name, count in heads.items()},
        "DTYPE": compute_dtype(memory.dtype),
        "num_warps": warps(BM * BW),
    }


def warps(numbers: int) -> int:
    """Warps for a program whose largest array has this many numbers."""
    if numbers <= 256:
        return 1
    if numbers <= 512:
        return 2
    return 4 if numbers <= 32 * 32 else 8


def fits_one_program(N: int, W: int) -> bool:
    """Whether one program does the whole step of a batch element."""
    return N <= SMALL_CELLS and block(N) * block(W) <= SMALL_NUMBERS


def sorts(B: int, N: int, dtype: torch.dtype) -> bool:
    """Whether `allocation_weighting` by itself sorts each row in one program, or compares cells."""
    return dtype != torch.float64 and N <= SORT_CELLS and B * N * N >= SORT_PAIRS


def rank_ranges(N: int) -> int:
    """How many programs share the cells of a row when cells are compared."""
    return cdiv(N, RANK_CELLS)


def sort_warps(N: int) -> int:
    """Warps for a program that sorts a row."""
    return max(1, min(8, block(N) // 128))
