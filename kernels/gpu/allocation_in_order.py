"""Allocation among so many cells that torch sorts them best; see `allocation`.

torch's radix sort is stable and fast. Its cumulative products and sums are not used, because on one
long row their order of operations varies from run to run. Instead the order of usage is taken in
blocks, in three launches: the product (or sum) of each block, what comes to each block from the
others, and every cell.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .arithmetic import product
from .usage_order import EPSILON


@triton.jit
def load_ordered(values, order, place, mask, other, DTYPE: tl.constexpr):
    """Values (N) of the cells at some places of the order."""
    n = tl.load(order + place, mask=mask, other=0)
    return tl.load(values + n, mask=mask, other=other).to(DTYPE)


@triton.jit
def load_terms(d_allocation, lifted, products, order, place, mask, DTYPE: tl.constexpr):
    """da a of the cells at some places of the order, 0 where masked out."""
    seen = load_ordered(lifted, order, place, mask, 1.0, DTYPE)
    change = load_ordered(d_allocation, order, place, mask, 0.0, DTYPE)
    return change * (1.0 - seen) * tl.load(products + place, mask=mask, other=0.0)


@triton.jit
def blocks_kernel(
    lifted, order, d_allocation, products, blocks,
    N: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr, BACK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The product of the u' of each block of the order; BACK: the sum of its da a."""
    row, tile = launch.row_and_tile(TILES)
    place = tile * BN + tl.arange(0, BN)
    lifted += row * N
    order += row * N
    if BACK:
        d_allocation += row * N
        products += row * N
        found = tl.sum(
            load_terms(d_allocation, lifted, products, order, place, place < N, DTYPE), 0
        )
    else:
        found = product(load_ordered(lifted, order, place, place < N, 1.0, DTYPE), 0)
    tl.store(blocks + row * TILES + tile, found)


@triton.jit
def carries_kernel(
    blocks, carries,
    TILES: tl.constexpr, BT: tl.constexpr, BACK: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The product of all blocks before each; BACK: the sum of all blocks after each."""
    row = tl.program_id(0).to(tl.int64) * TILES
    t = tl.arange(0, BT)
    if BACK:
        carry = tl.sum(tl.zeros([BT], DTYPE), 0)
    else:
        carry = tl.sum(tl.where(t == 0, tl.full([BT], 1.0, DTYPE), 0.0), 0)
    for start in range(0, TILES, BT):
        if BACK:
            place = TILES - 1 - start - t
            last = tl.load(blocks + row + place + 1, mask=(t > 0) & (place >= 0), other=0.0)
            found = carry + tl.cumsum(last, 0)
            own = tl.load(blocks + row + place, mask=place >= 0, other=0.0)
            carry += tl.sum(own, 0)
        else:
            place = start + t
            last = tl.load(blocks + row + place - 1, mask=(t > 0) & (place < TILES), other=1.0)
            found = carry * tl.cumprod(last, 0)
            own = tl.load(blocks + row + place, mask=place < TILES, other=1.0)
            carry *= product(own, 0)
        tl.store(carries + row + place, found, mask=(place >= 0) & (place < TILES))


@triton.jit
def cells_kernel(
    lifted, order, carries, products, allocation,
    N: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """P at each place of the order, and a of the cell there."""
    row, tile = launch.row_and_tile(TILES)
    local = tl.arange(0, BN)
    place = tile * BN + local
    lifted += row * N
    order += row * N
    carry = tl.load(carries + row * TILES + tile)
    last = load_ordered(lifted, order, place - 1, (local > 0) & (place < N), 1.0, DTYPE)
    found = carry * tl.cumprod(last, 0)
    own = load_ordered(lifted, order, place, place < N, 1.0, DTYPE)
    tl.store(products + row * N + place, found, mask=place < N)
    n = tl.load(order + place, mask=place < N, other=0)
    tl.store(allocation + row * N + n, (1.0 - own) * found, mask=place < N)


@triton.jit
def cells_backward_kernel(
    lifted, order, carries, products, d_allocation, d_usage,
    N: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradient of the usage of the cell at each place of the order."""
    row, tile = launch.row_and_tile(TILES)
    local = tl.arange(0, BN)
    place = tile * BN + local
    lifted += row * N
    order += row * N
    products += row * N
    d_allocation += row * N
    carry = tl.load(carries + row * TILES + tile)
    # The sum leaves out the cell's own term. Subtracting it afterwards would leave its rounding
    # error, divided by u', which may be as small as e.
    later = (local + 1 < BN) & (place + 1 < N)
    terms = load_terms(d_allocation, lifted, products, order, place + 1, later, DTYPE)
    d_later = carry + tl.cumsum(terms, 0, reverse=True)
    own = load_ordered(lifted, order, place, place < N, 1.0, DTYPE)
    found = tl.load(products + place, mask=place < N, other=0.0)
    d_found = load_ordered(d_allocation, order, place, place < N, 0.0, DTYPE)
    n = tl.load(order + place, mask=place < N, other=0)
    d_seen = (1.0 - EPSILON) * (d_later / own - found * d_found)
    tl.store(d_usage + row * N + n, d_seen, mask=place < N)


def _sizes(lifted: Tensor) -> dict[str, Any]:
    """Constants of the kernels that work on blocks of the order."""
    N = lifted.shape[1]
    BN = min(launch.SCAN_CELLS, launch.block(N))
    DTYPE = launch.compute_dtype(lifted.dtype)
    return {"N": N, "TILES": launch.cdiv(N, BN), "BN": BN, "DTYPE": DTYPE}


def _carries(
    lifted: Tensor, order: Tensor, d_allocation: Tensor, products: Tensor, back: bool
) -> Tensor:
    """(B, TILES): the product of the blocks before each block; back: the sum of those after."""
    sizes = _sizes(lifted)
    B, TILES = len(lifted), sizes["TILES"]
    blocks, carries = (launch.new_like(lifted, B, TILES) for _ in range(2))
    given = (lifted, order, d_allocation, products)
    launch.run(blocks_kernel, (B * TILES,), *given, blocks, BACK=back, **sizes)
    BT, DTYPE = min(launch.SCAN_CELLS, launch.block(TILES)), sizes["DTYPE"]
    launch.run(carries_kernel, (B,), blocks, carries, TILES=TILES, BT=BT, BACK=back, DTYPE=DTYPE)
    return carries


def _lifted(usage: Tensor) -> Tensor:
    """u' (B, N), as in `usage_order.lift`, in the dtype that kernels compute in."""
    usage = usage.to(torch.promote_types(usage.dtype, torch.float32))
    return (EPSILON.value + (1 - EPSILON.value) * usage).contiguous()


def allocate(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The allocation weighting; see `allocation.allocate`.

    Returns:
        a (B, N); P (B, N) at each place of the order; the order (B, N), int32: the cell there.
    """
    lifted = _lifted(usage)
    keys = torch.round(lifted * 2.0**8) if robust else lifted
    order = torch.argsort(keys, dim=-1, stable=True).int()
    sizes, products = _sizes(lifted), torch.empty_like(lifted)
    allocation = torch.empty_like(lifted, dtype=usage.dtype)
    carries = _carries(lifted, order, lifted, products, back=False)
    grid = (len(lifted) * sizes["TILES"],)
    launch.run(cells_kernel, grid, lifted, order, carries, products, allocation, **sizes)
    return allocation, products, order


def allocate_backward(
    d_allocation: Tensor, usage: Tensor, products: Tensor, order: Tensor
) -> Tensor:
    """Gradient of usage (B, N).

    Args:
        d_allocation: (B, N), gradient of the weighting.
        usage: what `allocate` was given.
        products, order: what it returned.
    """
    d_allocation, lifted = d_allocation.contiguous(), _lifted(usage)
    sizes, d_usage = _sizes(lifted), torch.empty_like(lifted, dtype=usage.dtype)
    carries = _carries(lifted, order, d_allocation, products, back=True)
    grid = (len(lifted) * sizes["TILES"],)
    given = (lifted, order, carries, products, d_allocation)
    launch.run(cells_backward_kernel, grid, *given, d_usage, **sizes)
    return d_usage
