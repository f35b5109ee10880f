"""The allocation weighting forward, for any number of cells: sorted rows, or sorted tiles of a row.

    u' = e + (1 - e) u;  P_i = prod over j before i of u'_j;  a_i = (1 - u'_i) P_i

Few cells are sorted by one program, which goes from head to head: the next write head sees
s + (1 - s) g_a g_w a, where s is the usage that this head saw. Of more cells, tiles are sorted, and
the products up to each place of a tile are formed; then every cell finds its place in each tile by
binary search and multiplies the products that it finds there. So no tiles are merged, and no launch
waits for one program: two launches for each head.

P and the order are kept for the gradient (`allocation_backward`). P is, because a / (1 - u') fails
at usage 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .arithmetic import gate, product
from .usage_order import lift, sort_key, sorted_cells


@triton.jit
def load_share(
    allocation_gates, write_gates, head, RAW: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """g_a g_w of a head: the fraction of its allocation weighting that it writes with."""
    return gate(allocation_gates + head, RAW, DTYPE) * gate(write_gates + head, RAW, DTYPE)


@triton.jit
def join_products(before_a, with_a, before_b, with_b):
    """Of two neighbouring ranges: the products before their last number, and with it."""
    return with_a * before_b, with_a * with_b


@triton.jit
def products_before(ordered):
    """The product of all numbers before each; divides nothing."""
    ones = tl.full(ordered.shape, 1.0, ordered.dtype)
    found, _ = tl.associative_scan((ones, ordered), 0, join_products)
    return found


@triton.jit
def allocate_row(
    seen, usage, products, allocation, order,
    N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One head over all cells of a batch element, in one program.

    Args:
        seen: (BN), the usage that the head sees, anything beyond the last cell.
        usage: (N), the same in memory, see `sorted_cells`.
        products, allocation, order: (N), filled: P and a of each cell; the cell at each place.
    """
    index, ordered = sorted_cells(seen, usage, order, 0, N, BN, ROBUST, DTYPE)
    found = products_before(ordered)
    tl.store(products + index, found, mask=index < N)
    tl.store(allocation + index, (1.0 - ordered) * found, mask=index < N)


@triton.jit
def allocate_heads(
    seen, usage, later_usage, products, allocation, order, allocation_gates, write_gates,
    N: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, RAW: tl.constexpr, ROBUST: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads over all cells of a batch element, in one program, for at most launch.ROW_CELLS.

    Args:
        seen: (BN), the usage that the first head sees, anything beyond the last cell.
        usage: (N), the same in memory; this program may have stored it just now.
        later_usage: (HW, N), filled for all heads but the first with the usage that each sees; not
            used if HW is 1.
        products, allocation, order: (HW, N), filled, see `allocate_row`.
        allocation_gates, write_gates: (HW), RAW if before their sigmoid; not used if HW is 1.
    """
    n = tl.arange(0, BN)
    allocate_row(seen, usage, products, allocation, order, N, BN, ROBUST, DTYPE)
    for head in tl.static_range(1, HW):
        tl.debug_barrier()  # all threads must have stored what the last head allocates
        share = load_share(allocation_gates, write_gates, head - 1, RAW, DTYPE)
        weights = tl.load(allocation + (head - 1) * N + n, mask=n < N, other=0.0).to(DTYPE)
        seen += (1.0 - seen) * share * weights
        row = head * N
        tl.store(later_usage + row + n, seen, mask=n < N)
        allocate_row(
            seen, later_usage + row, products + row, allocation + row, order + row, N, BN, ROBUST,
            DTYPE,
        )  # fmt: skip


@triton.jit
def sort_tile(
    seen, usage, keys, prefixes, cells, tile,
    N: tl.constexpr, BT: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One tile of BT cells of a batch element, in one program.

    Args:
        seen: (BT), the usage of these cells, anything beyond the last cell.
        usage: (N), the same and that of all other tiles in memory; others are not read.
        keys, prefixes, cells: (TILES * BT), filled for this tile: `sort_key` of its places, the
            product of u' up to and with each of them, and the cells there; see `Tiles`.
    """
    start = tile * BT
    index, ordered = sorted_cells(seen, usage, cells + start, start, N, BT, ROBUST, DTYPE)
    place = start + tl.arange(0, BT)
    tl.store(keys + place, sort_key(ordered, index < N, ROBUST))
    tl.store(prefixes + place, tl.cumprod(ordered, 0))


@triton.jit
def search_tiles(
    keys, prefixes, cells, part,
    N: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr, STEPS: tl.constexpr, BN: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """P and the rank in the whole order of BN cells of one tile, which is a multiple of BN.

    They are taken in the order of the tile, so that neighbours search alike.

    Args:
        keys, prefixes, cells: (TILES * BT), filled by `sort_tile`.
        part: which BN places of TILES * BT.
        STEPS: log2 of BT.
        AT_ONCE: a power of two, how many tiles are searched at a time.

    Returns:
        index of each cell, at least N beyond the last; its P; its rank.
    """
    tile = part * BN // BT
    within = part * BN % BT + tl.arange(0, BN)
    places = tile * BT + within
    real = places < N
    own = tl.load(keys + places)
    index = tl.load(cells + places, mask=real, other=N).to(tl.int32)
    found = tl.full([BN, AT_ONCE], 1.0, prefixes.dtype.element_ty)
    rank = tl.zeros([BN, AT_ONCE], tl.int32)
    for first in range(0, TILES, AT_ONCE):
        t = (first + tl.arange(0, AT_ONCE))[None, :]
        searched = (t < TILES) & real[:, None]
        # At equal keys cells of tiles to the left come before, cells of tiles to the right do not.
        least = own[:, None] + (t < tile).to(own.dtype)
        count = tl.zeros([BN, AT_ONCE], tl.int32)
        for step in tl.static_range(STEPS):
            middle = t * BT + count + ((BT >> (step + 1)) - 1)
            probe = tl.load(keys + middle, mask=searched, other=0)
            count += tl.where(probe < least, BT >> (step + 1), 0)
        probe = tl.load(keys + t * BT + count, mask=searched, other=0)
        count += (probe < least).to(tl.int32)
        count = tl.where(t == tile, within[:, None], count)
        before = searched & (count > 0)
        found *= tl.load(prefixes + t * BT + count - 1, mask=before, other=1.0)
        rank += tl.where(searched, count, 0)
    return index, product(found, 1), tl.sum(rank, 1)


@triton.jit
def row_kernel(
    usage, later_usage, products, allocation, order, allocation_gates, write_gates,
    N: tl.constexpr, HW: tl.constexpr, USAGE_STRIDE: tl.constexpr, LATER_STRIDE: tl.constexpr,
    PRODUCTS_STRIDE: tl.constexpr, ALLOCATION_STRIDE: tl.constexpr, ORDER_STRIDE: tl.constexpr,
    GATES_STRIDE: tl.constexpr, BN: tl.constexpr, RAW: tl.constexpr, ROBUST: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads of a batch element; see `launch_forward`."""
    b = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    usage += b * USAGE_STRIDE
    allocate_heads(
        tl.load(usage + n, mask=n < N, other=0.0).to(DTYPE), usage, later_usage + b * LATER_STRIDE,
        products + b * PRODUCTS_STRIDE, allocation + b * ALLOCATION_STRIDE,
        order + b * ORDER_STRIDE, allocation_gates + b * GATES_STRIDE,
        write_gates + b * GATES_STRIDE, N, HW, BN, RAW, ROBUST, DTYPE,
    )  # fmt: skip


@triton.jit
def tile_kernel(
    usage, keys, prefixes, cells,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Sort a tile; see `sort_tile`."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tile * BT + tl.arange(0, BT)
    usage += b * USAGE_STRIDE
    row = b * TILES * BT
    seen = tl.load(usage + n, mask=n < N, other=0.0).to(DTYPE)
    sort_tile(seen, usage, keys + row, prefixes + row, cells + row, tile, N, BT, ROBUST, DTYPE)


@triton.jit
def search_kernel(
    usage, keys, prefixes, cells, products, allocation, order, next_usage, allocation_gates,
    write_gates,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, NEXT_STRIDE: tl.constexpr,
    PRODUCTS_STRIDE: tl.constexpr, ALLOCATION_STRIDE: tl.constexpr, ORDER_STRIDE: tl.constexpr,
    GATES_STRIDE: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr, STEPS: tl.constexpr,
    BN: tl.constexpr, AT_ONCE: tl.constexpr, MORE: tl.constexpr, RAW: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """P and a of some cells, and their places in the order; MORE: the usage the next head sees."""
    b, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = b * TILES * BT
    index, found, rank = search_tiles(
        keys + row, prefixes + row, cells + row, part, N, TILES, BT, STEPS, BN, AT_ONCE
    )
    in_n = index < N
    seen = tl.load(usage + b * USAGE_STRIDE + index, mask=in_n, other=0.0).to(DTYPE)
    weights = (1.0 - lift(seen)) * found
    tl.store(products + b * PRODUCTS_STRIDE + index, found, mask=in_n)
    tl.store(allocation + b * ALLOCATION_STRIDE + index, weights, mask=in_n)
    place = order + b * ORDER_STRIDE + rank
    tl.store(place, index.to(order.dtype.element_ty), mask=in_n)
    if MORE:
        row = b * GATES_STRIDE
        share = load_share(allocation_gates + row, write_gates + row, 0, RAW, DTYPE)
        seen += (1.0 - seen) * share * weights
        tl.store(next_usage + b * NEXT_STRIDE + index, seen, mask=in_n)


class Tiles(NamedTuple):
    """What the two launches over tiles of a row hand on; TILES tiles of BT cells.

    | field    | shape           |                                                              |
    |----------|-----------------|--------------------------------------------------------------|
    | keys     | (B, TILES * BT) | `sort_key` in the order of each tile: int32, or int64        |
    | prefixes | (B, TILES * BT) | the product of u' of a tile up to and with each place        |
    | cells    | (B, TILES * BT) | int32, the cell at each place of a tile                      |
    """

    keys: Tensor
    prefixes: Tensor
    cells: Tensor


class Gates(NamedTuple):
    """The gates of all write heads, (B, Hw) each with the same strides; raw: before the sigmoid."""

    allocation: Tensor
    write: Tensor
    raw: bool = False


def make_tiles(B: int, N: int, like: Tensor) -> Tiles | None:
    """Room for `launch_forward`, for a batch of at most B; None if it sorts whole rows."""
    if N <= launch.ROW_CELLS:
        return None
    tiling = launch.order_tiling(N)
    shape = (B, tiling["TILES"] * tiling["BT"])
    prefixes = launch.new_like(like, *shape)
    key = torch.int64 if prefixes.dtype == torch.float64 else torch.int32
    keys, cells = (torch.empty(shape, dtype=d, device=like.device) for d in (key, torch.int32))
    return Tiles(keys, prefixes, cells)


def launch_forward(
    usage: Tensor,
    later_usage: Tensor | None,
    products: Tensor,
    allocation: Tensor,
    order: Tensor,
    robust: bool,
    gates: Gates | None = None,
    tiles: Tiles | None = None,
    first_sorted: bool = False,
) -> None:
    """Fill products, allocation, order, and later_usage if there is more than one write head.

    One launch for at most `launch.ROW_CELLS` cells, otherwise two for each head.

    Args:
        usage: (B, N), that the first head sees.
        later_usage: (B, Hw, N), filled for all heads but the first with the usage that each sees;
            needed if Hw > 1.
        products: (B, Hw, N), P, in the dtype that kernels compute in, like later_usage.
        allocation: (B, Hw, N), a, in any float dtype.
        order: (B, Hw, N), the cell at each place of the order, in any dtype that can hold it.
        robust: whether usages that round to the same multiple of 2^-8 count as equal.
        gates: needed if Hw > 1.
        tiles: from `make_tiles`; made here if not given.
        first_sorted: whether tiles hold the sorted tiles of `usage` already.

    What belongs to one batch element must be contiguous.
    """
    (B, N), Hw = usage.shape, products.shape[1]
    later = usage.unsqueeze(1) if later_usage is None else later_usage
    gates = gates or Gates(usage, usage)
    sizes: dict[str, Any] = {
        "N": N,
        "USAGE_STRIDE": usage.stride(0),
        "PRODUCTS_STRIDE": products.stride(0),
        "ALLOCATION_STRIDE": allocation.stride(0),
        "ORDER_STRIDE": order.stride(0),
        "GATES_STRIDE": gates.allocation.stride(0),
        "RAW": gates.raw,
        "DTYPE": launch.compute_dtype(usage.dtype),
        "enable_fp_fusion": False,
    }
    if N <= launch.ROW_CELLS:
        BN = launch.block(N)
        launch.run(
            row_kernel, (B,), usage, later, products, allocation, order, gates.allocation,
            gates.write, **sizes, HW=Hw, BN=BN, LATER_STRIDE=later.stride(0), ROBUST=robust,
            num_warps=launch.order_warps(BN),
        )  # fmt: skip
        return
    tiles = tiles or make_tiles(B, N, usage)
    assert tiles is not None
    for head in range(Hw):
        seen, more = later[:, head] if head else usage, head + 1 < Hw
        if head or not first_sorted:
            _launch_tiles(seen, tiles, robust, sizes)
        filled = products[:, head], allocation[:, head], order[:, head]
        own = gates.allocation[:, head:], gates.write[:, head:]
        next_usage = later[:, head + 1] if more else usage
        _launch_search(seen, tiles, filled, next_usage, own, sizes | {"MORE": more})


def _launch_tiles(usage: Tensor, tiles: Tiles, robust: bool, sizes: dict[str, Any]) -> None:
    """Sort the tiles of the usage that a head sees."""
    B, N = usage.shape
    TILES, BT = (launch.order_tiling(N)[name] for name in ("TILES", "BT"))
    launch.run(
        tile_kernel, (B, TILES), usage, *tiles, N=N, USAGE_STRIDE=usage.stride(0), TILES=TILES,
        BT=BT, ROBUST=robust, DTYPE=sizes["DTYPE"], enable_fp_fusion=False,
    )  # fmt: skip


def _launch_search(
    usage: Tensor,
    tiles: Tiles,
    filled: tuple[Tensor, ...],
    next_usage: Tensor,
    gates: tuple[Tensor, ...],
    sizes: dict[str, Any],
) -> None:
    """Search the sorted tiles for the places of all cells."""
    B, N = usage.shape
    tiling = launch.order_tiling(N)
    sizes = sizes | {"USAGE_STRIDE": usage.stride(0), "NEXT_STRIDE": next_usage.stride(0)} | tiling
    grid = B, tiling["TILES"] * tiling["BT"] // tiling["BN"]
    launch.run(search_kernel, grid, usage, *tiles, *filled, next_usage, *gates, **sizes)
