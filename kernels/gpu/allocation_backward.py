"""Gradients of the allocation weightings, from the order and the products kept by the forward pass.

    du'_i = (sum over k after i of da_k a_k) / u'_i - P_i da_i;  du = (1 - e) du'

With S = g_a g_w of a head, s the usage that it saw, and s + (1 - s) S a what the next head saw,
whose gradient ds+ is complete when this head's turn comes:

    da = S (dw + ds+ (1 - s));  ds = du + ds+ (1 - S a);  dS = sum_n ds+ (1 - s) a

for the gradient dw of the write weighting, through which S gets more. Cells are taken in the order
of allocation, by one program or in blocks of it; a block needs the sum of each block after it, from
a launch before.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .allocation_forward import Gates, load_share
from .usage_order import EPSILON, lift


@triton.jit
def join_sums(before_a, with_a, before_b, with_b):
    """Of two neighbouring ranges: the sums without their last number, and with it."""
    return with_a + before_b, with_a + with_b


@triton.jit
def sums_after(terms):
    """The sum of all numbers after each.

    It leaves out the cell's own term. Subtracting that afterwards would leave its rounding error,
    which is then divided by u', perhaps as small as e.
    """
    none = tl.zeros(terms.shape, terms.dtype)
    found, _ = tl.associative_scan((none, terms), 0, join_sums, reverse=True)
    return found


@triton.jit
def load_changes(
    usage, products, order, d_written, d_next_usage, share, place,
    N: tl.constexpr, LATER: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """What some places of the order bring to the gradient; LATER: there is a next head.

    Returns, for each place: the cell there; its da a, 0 beyond the last; u'; P da; what comes to ds
    through the next head; what is added up to dS.
    """
    in_n = place < N
    index = tl.load(order + place, mask=in_n, other=0).to(tl.int32)
    seen = tl.load(usage + index, mask=in_n, other=0.0).to(DTYPE)
    found = tl.load(products + index, mask=in_n, other=0.0).to(DTYPE)
    change = tl.load(d_written + index, mask=in_n, other=0.0).to(DTYPE)
    lifted = lift(seen)
    allocation = (1.0 - lifted) * found  # 0 beyond the last
    carried = tl.zeros(place.shape, DTYPE)
    to_share = carried
    if LATER:
        carried = tl.load(d_next_usage + index, mask=in_n, other=0.0).to(DTYPE)
        free = carried * (1.0 - seen)
        change += free
        to_share = free * allocation
        carried *= 1.0 - share * allocation
    change *= share
    return index, change * allocation, lifted, change * found, carried, to_share


@triton.jit
def ordered_backward(
    usage, products, order, d_written, d_usage, d_share, share, place, later,
    N: tl.constexpr, LATER: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """One head over some places of the order, in one program; `later`: sum of the terms after them.

    Of d_usage, if LATER, it reads only the cells that it fills, so other programs may do theirs.

    Args:
        usage, products: (N), the usage that the head saw; P.
        order: (N), the cell at each place.
        d_written: (N), gradient of the write weighting.
        d_usage: (N), filled for the cells at these places; if LATER, it held the gradient of the
            usage that the next head saw.
        d_share: filled with what the cells at these places bring to dS if LATER.
        share: g_a g_w.
    """
    index, terms, lifted, direct, carried, to_share = load_changes(
        usage, products, order, d_written, d_usage, share, place, N, LATER, DTYPE
    )
    d_seen = (1.0 - EPSILON) * ((sums_after(terms) + later) / lifted - direct) + carried
    if LATER:
        tl.debug_barrier()  # all threads must have read what this store replaces
    tl.store(d_usage + index, d_seen, mask=place < N)
    if LATER:
        tl.store(d_share, tl.sum(to_share, 0))


@triton.jit
def heads_backward(
    usage, later_usage, products, order, d_written, d_usage, d_shares, allocation_gates,
    write_gates,
    N: tl.constexpr, HW: tl.constexpr, BN: tl.constexpr, SHARED: tl.constexpr, RAW: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads over all cells of a batch element, in one program, the last head first.

    For at most launch.ORDERED_CELLS cells. Afterwards other threads may read d_usage after a
    barrier.

    Args:
        usage: (N), that the first head saw.
        later_usage, products, order: (HW, N), filled by the forward pass; later_usage is not used
            if HW is 1.
        d_written: (HW, N), gradients of the write weightings; if not SHARED, which only one head
            may be, of the allocation weighting itself.
        d_usage: (N), filled: complete gradient of `usage`, as far as allocation goes.
        d_shares: (HW), filled for all heads but the last: gradients of g_a g_w through the usage
            that later heads saw.
        allocation_gates, write_gates: (HW), RAW if before their sigmoid; not used if not SHARED.
    """
    place = tl.arange(0, BN)
    for back in tl.static_range(HW):
        head = HW - 1 - back
        row = head * N
        share = 1.0
        if SHARED:
            share = load_share(allocation_gates, write_gates, head, RAW, DTYPE)
        seen = usage
        if head > 0:
            seen = later_usage + row
        if back > 0:
            tl.debug_barrier()  # all threads must have filled d_usage for the next head
        ordered_backward(
            seen, products + row, order + row, d_written + row, d_usage, d_shares + head, share,
            place, 0.0, N, back > 0, DTYPE,
        )  # fmt: skip


@triton.jit
def ordered_backward_kernel(
    usage, later_usage, products, order, d_written, d_usage, d_shares, allocation_gates,
    write_gates,
    N: tl.constexpr, HW: tl.constexpr, USAGE_STRIDE: tl.constexpr, LATER_STRIDE: tl.constexpr,
    PRODUCTS_STRIDE: tl.constexpr, ORDER_STRIDE: tl.constexpr, D_WRITTEN_STRIDE: tl.constexpr,
    D_USAGE_STRIDE: tl.constexpr, GATES_STRIDE: tl.constexpr, BN: tl.constexpr,
    SHARED: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """All heads of a batch element; see `launch_backward`."""
    b = tl.program_id(0).to(tl.int64)
    heads_backward(
        usage + b * USAGE_STRIDE, later_usage + b * LATER_STRIDE, products + b * PRODUCTS_STRIDE,
        order + b * ORDER_STRIDE, d_written + b * D_WRITTEN_STRIDE, d_usage + b * D_USAGE_STRIDE,
        d_shares + b * HW, allocation_gates + b * GATES_STRIDE, write_gates + b * GATES_STRIDE,
        N, HW, BN, SHARED, RAW, DTYPE,
    )  # fmt: skip


@triton.jit
def block_sums_kernel(
    usage, products, order, d_written, d_usage, sums, allocation_gate, write_gate,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, PRODUCTS_STRIDE: tl.constexpr,
    ORDER_STRIDE: tl.constexpr, D_WRITTEN_STRIDE: tl.constexpr, D_USAGE_STRIDE: tl.constexpr,
    GATES_STRIDE: tl.constexpr, BLOCKS: tl.constexpr, BN: tl.constexpr, LATER: tl.constexpr,
    SHARED: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The sum of da a over each block of the order, (B, BLOCKS)."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tile * BN + tl.arange(0, BN)
    share = 1.0
    if SHARED:
        row = b * GATES_STRIDE
        share = load_share(allocation_gate + row, write_gate + row, 0, RAW, DTYPE)
    _, terms, _, _, _, _ = load_changes(
        usage + b * USAGE_STRIDE, products + b * PRODUCTS_STRIDE, order + b * ORDER_STRIDE,
        d_written + b * D_WRITTEN_STRIDE, d_usage + b * D_USAGE_STRIDE, share, place, N, LATER,
        DTYPE,
    )  # fmt: skip
    tl.store(sums + b * BLOCKS + tile, tl.sum(terms, 0))


@triton.jit
def block_backward_kernel(
    usage, products, order, d_written, d_usage, sums, d_shares, allocation_gate, write_gate,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, PRODUCTS_STRIDE: tl.constexpr,
    ORDER_STRIDE: tl.constexpr, D_WRITTEN_STRIDE: tl.constexpr, D_USAGE_STRIDE: tl.constexpr,
    D_SHARES_STRIDE: tl.constexpr, GATES_STRIDE: tl.constexpr, BLOCKS: tl.constexpr,
    BB: tl.constexpr, BN: tl.constexpr, LATER: tl.constexpr, SHARED: tl.constexpr,
    RAW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A head over one block of the order, given the sums of all blocks."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    place = tile * BN + tl.arange(0, BN)
    t = tl.arange(0, BB)
    after = tl.load(sums + b * BLOCKS + t, mask=(t > tile) & (t < BLOCKS), other=0.0)
    share = 1.0
    if SHARED:
        row = b * GATES_STRIDE
        share = load_share(allocation_gate + row, write_gate + row, 0, RAW, DTYPE)
    ordered_backward(
        usage + b * USAGE_STRIDE, products + b * PRODUCTS_STRIDE, order + b * ORDER_STRIDE,
        d_written + b * D_WRITTEN_STRIDE, d_usage + b * D_USAGE_STRIDE,
        d_shares + b * D_SHARES_STRIDE + tile, share, place, tl.sum(after, 0), N, LATER, DTYPE,
    )  # fmt: skip


def launch_backward(
    usage: Tensor,
    later_usage: Tensor | None,
    products: Tensor,
    order: Tensor,
    d_written: Tensor,
    d_usage: Tensor,
    d_shares: Tensor | None = None,
    gates: Gates | None = None,
) -> None:
    """Fill d_usage, the gradient of the usage that the first head saw, from those of all heads.

    One launch for at most `launch.ORDERED_CELLS` cells, otherwise two for each head.

    Args:
        usage, later_usage, products, order: see `allocation_forward.launch_forward`.
        d_written: (B, Hw, N), gradients of the write weightings. Without gates, which only one head
            may be, of the allocation weighting itself.
        d_usage: (B, N); also holds the gradients of what later heads saw, for a time.
        d_shares: (B, Hw, launch.order_blocks(N)), contiguous, filled for all heads but the last
            with the parts of dS; needed if Hw > 1.

    What belongs to one batch element must be contiguous.
    """
    (B, N), Hw = usage.shape, products.shape[1]
    unused = usage.unsqueeze(1)
    later = unused if later_usage is None else later_usage
    shares = unused if d_shares is None else d_shares
    given = gates or Gates(usage, usage)
    sizes: dict[str, Any] = {
        "N": N,
        "PRODUCTS_STRIDE": products.stride(0),
        "ORDER_STRIDE": order.stride(0),
        "D_WRITTEN_STRIDE": d_written.stride(0),
        "D_USAGE_STRIDE": d_usage.stride(0),
        "GATES_STRIDE": given.allocation.stride(0),
        "SHARED": gates is not None,
        "RAW": given.raw,
        "DTYPE": launch.compute_dtype(usage.dtype),
        "enable_fp_fusion": False,
    }
    if N <= launch.ORDERED_CELLS:
        BN = launch.block(N)
        launch.run(
            ordered_backward_kernel, (B,), usage, later, products, order, d_written, d_usage,
            shares, given.allocation, given.write, **sizes, HW=Hw, BN=BN,
            USAGE_STRIDE=usage.stride(0), LATER_STRIDE=later.stride(0),
            num_warps=launch.order_warps(BN),
        )  # fmt: skip
        return
    BLOCKS = launch.order_blocks(N)
    sums = launch.new_like(usage, B, BLOCKS)
    sizes |= {"BLOCKS": BLOCKS, "BN": min(launch.ORDER_BLOCK, launch.block(N))}
    for head in reversed(range(Hw)):
        seen = later[:, head] if head else usage
        kept = seen, products[:, head], order[:, head], d_written[:, head], d_usage, sums
        sizes |= {"USAGE_STRIDE": seen.stride(0), "LATER": head + 1 < Hw}
        own = given.allocation[:, head:], given.write[:, head:]
        launch.run(block_sums_kernel, (B, BLOCKS), *kept, *own, **sizes)
        launch.run(
            block_backward_kernel, (B, BLOCKS), *kept, shares[:, head], *own, **sizes,
            D_SHARES_STRIDE=shares.stride(0), BB=launch.block(BLOCKS),
        )  # fmt: skip
