"""How kernels are launched: block sizes, warps, and the function behind every launch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALL_CELLS = 64
"""With at most this many cells, a step takes the kernels for small memories ..."""

SMALL_NUMBERS = 64 * 64
"""... if its padded memory has at most this many numbers: more do not fit in registers."""

TILE_NUMBERS = 64 * 64
"""The most numbers of the memory that a program of a tiled kernel holds."""

STEP_NUMBERS = 512
"""Numbers of the memory for each warp of a program of a tiled step."""

STEP_TILES = 128
"""The most tiles of a step whose programs have one warp. One warp waits for no other; but every
program adds up what all tiles found out."""

READ_NUMBERS = 2048
"""Numbers of the memory, times read heads, for each warp of the program that reads."""

READ_GROUP = 16
"""Tiles whose parts of the read vectors one program adds up, where there are more than twice so
many."""

SMOOTH_CELLS = 1024
"""How many cells the program of a smooth allocation takes at a time."""

SHARP_CELLS = 128
"""How many cells of forward and backward weightings a program sharpens."""

ROW_CELLS = 256
"""The most cells of a batch element that one program sorts; of more, tiles are sorted.

Allocation on an H200, us, forward and backward; of those that only compare, nothing is kept for the
gradient, which compares again. The choice is by N alone, so that a sequence gets the same bits in
any batch: never more than 1.2 times the fastest for both passes, 1.4 for the forward pass alone.

| B x N     | a sorted row | sorted tiles | all compared | compared and counted |
|-----------|--------------|--------------|--------------|----------------------|
| 32 x 256  | 3.0 + 2.0    |              | 3.3 + 3.4    | 4.2 + 2.0            |
| 8 x 1024  | 9.2 + 2.7    | 5.3 + 2.7    | 4.3 + 4.6    | 5.1 + 2.7            |
| 64 x 1024 | 9.1 + 2.9    | 6.7 + 2.9    | 18.7 + 20.9  | 26.0 + 2.9           |
| 1 x 4096  | 67 + 4.7     | 6.3 + 4.7    | 4.5 + 5.0    | 6.3 + 4.7            |
| 16 x 4096 | 68 + 6.3     | 10.1 + 6.3   | 34.3 + 42.1  | 64.3 + 6.3           |
| 1 x 16384 |              | 8.0 + 5.4    | 27.0 + 33.7  |                      |
"""

ORDER_TILES = {4096: 256, 1 << 62: 512}
"""Cells of a sorted tile, by the most cells for which tiles are so large: small tiles are sorted
faster, few tiles make fewer searches. At 1 x 4096 tiles of 512 took 6.9 us, at 16 x 4096 9.5 and
tiles of 256 10.1."""

SEARCH_CELLS, SEARCH_TILES = 16, 32
"""Cells whose places a program searches (1 x 4096: 3.1 us, 4.7 with 32), and tiles at a time."""

MERGED_CELLS = 1 << 15
"""The most cells that the op `allocation_weighting` orders by sorted tiles: the search takes N^2
steps. torch sorts more, in several passes over a row; at 16,384 cells it took 48 us for that."""

ORDERED_CELLS = 1024
"""The most cells through whose order one program goes backward; of more, blocks of the order. At
1 x 4096 one program took 8 us, blocks 4.7."""

ORDER_BLOCK = 512
"""Cells of such a block."""

LSTM_UNITS = 128
"""Hidden units of an LSTM per program; with one warp, every thread has some on any GPU."""

SCAN_CELLS = 1024
"""Cells in a block of the order of usage, over which a program forms products or sums."""

PICK_CELLS = 2048
"""Cells from which a program picks the largest."""

LINK_CELLS = 64
"""Rows of a sparse link matrix per program."""

WRITE_CELLS = 512
"""Cells of a separable link per program, times its read heads."""


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
    maxnreg: int | None = None


_recorders: list[Callable[[Launch], None]] = []


class _Alone(threading.local):
    """Who alone hears of the launches of a thread."""

    recorder: Callable[[Launch], None] | None = None


_alone = _Alone()


@contextmanager
def recorded(alone: bool = False) -> Iterator[list[Launch]]:
    """The launches made inside the context, in order. On meta tensors nothing is run.

    alone: of this thread only, and nobody else hears of them. Contexts of several threads may end
    in any order.
    """
    launches: list[Launch] = []
    recorder, before = launches.append, _alone.recorder
    if alone:
        _alone.recorder = recorder
    else:
        _recorders.append(recorder)
    try:
        yield launches
    finally:
        if alone:
            _alone.recorder = before
        else:
            _recorders.remove(recorder)


AMD_STAGES = 3 if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7) else 1
"""The most stages of a loop on AMD: 64 KiB of shared memory hold three.

With more than one, Triton 3.6 schedules a loop for gfx942 as if its products ran on matrix cores,
and fails to compile those that do not: tiles of fewer than 16 numbers a row.
"""


def on_amd(options: Mapping[str, Any]) -> dict[str, Any]:
    """Constants and options of a launch as AMD's compiler takes them.

    It has no tf32x3, no limit of registers, and no more than `AMD_STAGES`.
    """
    changed: dict[str, Any] = {
        name: "ieee" if value == "tf32x3" else value for name, value in options.items()
    }
    changed.pop("maxnreg", None)
    if "num_stages" in changed:
        changed["num_stages"] = min(changed["num_stages"], AMD_STAGES)
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
    maxnreg: int | None = None,
    **constants: Any,
) -> None:
    """Launch a kernel on the device of its first argument.

    Multiplications and additions may be fused unless enable_fp_fusion=False is passed. The option
    is always passed on because its default changes in Triton 3.10.

    Args:
        maxnreg: the most registers of a thread; only compilers for NVIDIA know this option.
    """
    for record in [_alone.recorder] if _alone.recorder else _recorders:
        record(Launch(kernel, grid, arguments, constants, num_warps, enable_fp_fusion, maxnreg))
    device = arguments[0].device
    if device.type == "meta":
        return
    options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}
    if maxnreg is not None and torch.version.hip is None:
        options["maxnreg"] = maxnreg
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
    **options: Any,
) -> None:
    """Launch a kernel with those of the arrays and sizes that its parameters name."""
    given = (arrays[name] for name in kernel.arg_names if name in arrays)
    constants = {name: sizes[name] for name in kernel.arg_names if name in sizes}
    run(kernel, grid, *given, num_warps=num_warps, **constants, **options)


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


def step_tile(N: int, W: int) -> tuple[int, int]:
    """How many cells of W numbers each program of a tiled step holds, and its warps."""
    BM, num_warps = _tile(N, W, 1)
    return (BM, num_warps) if cdiv(N, BM) <= STEP_TILES else _tile(N, W, 4)


def start_tile(N: int, W: int) -> tuple[int, int]:
    """The same of the first launch of a step, in which other programs sort cells by usage."""
    return _tile(N, W, 4)[0], 4


def _tile(N: int, W: int, num_warps: int) -> tuple[int, int]:
    """How many cells of W numbers some warps hold; of very long cells, more warps hold one."""
    BM = max(1, min(block(N), 64, STEP_NUMBERS * num_warps // block(W)))
    return BM, max(1, min(8, BM * block(W) // STEP_NUMBERS))


def read_tile(N: int, W: int, R: int) -> tuple[int, int]:
    """The same of the program that reads with R heads."""
    numbers = block(W) * block(R)
    BM = max(1, min(block(N), 32, 8 * READ_NUMBERS // numbers))
    return BM, max(1, min(8, BM * numbers // READ_NUMBERS))


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


def is_small(N: int, W: int) -> bool:
    """Whether programs hold the memory of a batch element as a whole."""
    return N <= SMALL_CELLS and block(N) * block(W) <= SMALL_NUMBERS


def order_tiling(N: int) -> dict[str, int]:
    """How rows of more than ROW_CELLS cells are sorted in tiles, and the tiles searched.

    It depends on N alone, so that a sequence gets the same bits in any batch.
    """
    BT = next(cells for most, cells in ORDER_TILES.items() if most >= N)
    TILES = cdiv(N, BT)
    AT_ONCE, BN = min(block(TILES), SEARCH_TILES), min(BT, SEARCH_CELLS)
    return {
        "TILES": TILES,
        "BT": BT,
        "STEPS": BT.bit_length() - 1,
        "BN": BN,
        "AT_ONCE": AT_ONCE,
        "num_warps": 8 if BN * AT_ONCE > 512 else 4,
    }


def order_blocks(N: int) -> int:
    """How many programs share the order of a row in the backward pass."""
    return 1 if N <= ORDERED_CELLS else cdiv(N, ORDER_BLOCK)


def order_warps(numbers: int) -> int:
    """Warps for a program that sorts this many cells, or goes backward through their order."""
    return max(1, min(8, numbers // 128))
