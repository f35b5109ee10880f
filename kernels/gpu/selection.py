"""The largest entries of rows of any length, exactly and in one pass; the lower index wins ties.

An entry and its index are packed into one integer that sorts the same way. So no two are equal, and
the selection is exact. Each program picks the largest of some cells, and torch picks the largest of
those, which are a few thousand of a million.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch

LAST = tl.constexpr(2**31 - 1)


@triton.jit
def packed_entries(weights, n, N: tl.constexpr):
    """Cells n of a row as integers, -2^63 outside: larger entries are larger; ties by lower index.

    The bits of floats sort like integers, those of negative floats in reverse.
    """
    entry = tl.load(weights + n, mask=n < N, other=0.0).to(tl.float32)
    bits = tl.where(entry == 0.0, 0.0, entry).to(tl.int32, bitcast=True)
    bits = tl.where(bits < 0, bits ^ LAST, bits)
    packed = (bits.to(tl.int64) << 32) | (n ^ LAST).to(tl.int64)
    return tl.where(n < N, packed, -(2**63))


@triton.jit
def pick_kernel(
    weights, picked,
    N: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The BK largest of BN cells of a row, packed; if BK is BN, all of them in their places."""
    row, tile = launch.row_and_tile(TILES)
    n = tile.to(tl.int32) * BN + tl.arange(0, BN)
    packed = packed_entries(weights + row * N, n, N)
    if BK < BN:
        packed = tl.topk(packed, BK)
    tl.store(picked + (row * TILES + tile) * BK + tl.arange(0, BK), packed)


def largest_cells(weights: Tensor, count: int) -> Tensor:
    """(rows, min(count, N)) int64: the cells with the largest entries, in increasing order.

    Args:
        weights: (rows, N), float32 or half precision.
        count: how many entries.
    """
    weights = weights.contiguous()
    rows, N = weights.shape
    BN = min(launch.PICK_CELLS, launch.block(N))
    BK = max(2, launch.block(count))
    if BK * 4 > BN:
        BK = BN
    TILES = launch.cdiv(N, BN)
    picked = torch.empty(rows, TILES * BK, dtype=torch.int64, device=weights.device)
    launch.run(
        pick_kernel, (rows * TILES,), weights, picked, N=N, TILES=TILES, BN=BN, BK=BK,
        num_warps=launch.warps(BN // 4),
    )  # fmt: skip
    found = picked.topk(min(count, N), sorted=False).values
    return ((found & LAST.value) ^ LAST.value).sort().values
