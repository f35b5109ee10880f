"""Dynamic memory allocation: the allocation weighting, by comparing or by sorting the cells.

    u' = e + (1 - e) u;  P_i = prod over j before i of u'_j;  a_i = (1 - u'_i) P_i
    du'_i = (sum over k after i of da_k a_k) / u'_i - P_i da_i;  du = (1 - e) du'

Cell j comes before i if it is less used, or equally used and j < i. Finding that out for all cells
takes N^2 comparisons, which any number of programs can share; a sort is done by one program per
batch element. P is kept for the gradient because a / (1 - u') fails at usage 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, ops
from .arithmetic import gate, product

EPSILON = tl.constexpr(1e-6)


@triton.jit
def lift(usage):
    """u' = e + (1 - e) u, never zero."""
    return usage * (1.0 - EPSILON) + EPSILON


@triton.jit
def order_key(lifted, ROBUST: tl.constexpr):
    """What cells are ordered by: u', rounded to a multiple of 2^-8 (ties to even) if ROBUST."""
    key = lifted
    if ROBUST:
        # The last bit of a number this large is 2^-8, so that the addition rounds to it.
        if lifted.dtype == tl.float64:
            key = (lifted + 1.5 * 2.0**44) - 1.5 * 2.0**44
        else:
            key = (lifted + 1.5 * 2.0**15) - 1.5 * 2.0**15
    return key


@triton.jit
def cell_key(lifted, in_n, ROBUST: tl.constexpr):
    """`order_key` of cells; places outside come last."""
    return tl.where(in_n, order_key(lifted, ROBUST), float("inf"))


@triton.jit
def comes_before(key_a, a, key_b, b):
    """Whether cell a is allocated before cell b: by lower key, then by lower index."""
    return (key_a < key_b) | ((key_a == key_b) & (a < b))


@triton.jit
def tile_products(lifted, in_n, n, ROBUST: tl.constexpr):
    """P (n) where n are all cells of a batch element; finite where in_n is false."""
    key = cell_key(lifted, in_n, ROBUST)
    before = comes_before(key[None, :], n[None, :], key[:, None], n[:, None])
    return product(tl.where(before, lifted[None, :], 1.0), 1)


@triton.jit
def tile_rank_backward(d_allocation, lifted, products, in_n, n, ROBUST: tl.constexpr):
    """Gradient of usage (n) where n are all cells of a batch element; d_allocation is 0 outside."""
    key = cell_key(lifted, in_n, ROBUST)
    after = comes_before(key[:, None], n[:, None], key[None, :], n[None, :])
    terms = d_allocation * (1.0 - lifted) * products  # 0 outside, where products are finite
    d_later = tl.sum(tl.where(after, terms[None, :], 0.0), 1)
    return (1.0 - EPSILON) * (d_later / lifted - products * d_allocation)


@triton.jit
def load_lifted(usage, n, N: tl.constexpr, ROBUST: tl.constexpr, DTYPE: tl.constexpr):
    """u' and order keys of cells n of a batch element."""
    lifted = lift(tl.load(usage + n, mask=n < N, other=0.0).to(DTYPE))
    return lifted, cell_key(lifted, n < N, ROBUST)


@triton.jit
def load_share(allocation_gate, write_gate, RAW: tl.constexpr, DTYPE: tl.constexpr):
    """g_a g_w: the fraction of its allocation weighting that a head writes with."""
    return gate(allocation_gate, RAW, DTYPE) * gate(write_gate, RAW, DTYPE)


@triton.jit
def products_kernel(
    usage, products, allocation, next_usage, allocation_gate, write_gate,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, PRODUCTS_STRIDE: tl.constexpr,
    ALLOCATION_STRIDE: tl.constexpr, NEXT_STRIDE: tl.constexpr, SIZE: tl.constexpr,
    BN: tl.constexpr, BO: tl.constexpr, MORE: tl.constexpr, RAW: tl.constexpr, ROBUST: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """P and a of a range of cells; MORE: also the usage that the next head sees.

    Strides are from one batch element to the next; SIZE is that of the gates.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, o = tile * BN + tl.arange(0, BN), tl.arange(0, BO)
    usage += b * USAGE_STRIDE
    lifted, own_key = load_lifted(usage, n, N, ROBUST, DTYPE)
    key = own_key[:, None]
    found = tl.full([BN, BO], 1.0, DTYPE)
    # At equal keys, cells to the left come before and cells to the right do not. Indices need to be
    # compared only in the blocks that hold this program's own cells.
    left, right = tile * BN // BO * BO, tl.cdiv((tile + 1) * BN, BO) * BO
    start = 0
    while start < left:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        found = tl.where(other_key[None, :] <= key, found * other[None, :], found)
        start += BO
    while start < right:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        before = comes_before(other_key[None, :], (start + o)[None, :], key, n[:, None])
        found = tl.where(before, found * other[None, :], found)
        start += BO
    while start < N:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        found = tl.where(other_key[None, :] < key, found * other[None, :], found)
        start += BO
    own = product(found, 1)
    weights = (1.0 - lifted) * own
    tl.store(products + b * PRODUCTS_STRIDE + n, own, mask=n < N)
    tl.store(allocation + b * ALLOCATION_STRIDE + n, weights, mask=n < N)
    if MORE:
        share = load_share(allocation_gate + b * SIZE, write_gate + b * SIZE, RAW, DTYPE)
        seen = tl.load(usage + n, mask=n < N, other=0.0).to(DTYPE)
        seen += (1.0 - seen) * share * weights
        tl.store(next_usage + b * NEXT_STRIDE + n, seen, mask=n < N)


@triton.jit
def load_changes(d_allocation, products, lifted, n, N: tl.constexpr, DTYPE: tl.constexpr):
    """da a of cells n of a batch element, 0 outside."""
    changes = tl.load(d_allocation + n, mask=n < N, other=0.0).to(DTYPE)
    return changes * (1.0 - lifted) * tl.load(products + n, mask=n < N, other=0.0)


@triton.jit
def rank_backward_kernel(
    usage, products, d_allocation, allocation_gate, write_gate, usage_before, products_before,
    d_allocation_before, allocation_gate_before, write_gate_before, d_usage, d_next_usage,
    d_share_before,
    N: tl.constexpr, USAGE_STRIDE: tl.constexpr, BEFORE_STRIDE: tl.constexpr,
    PRODUCTS_STRIDE: tl.constexpr, D_ALLOCATION_STRIDE: tl.constexpr, D_USAGE_STRIDE: tl.constexpr,
    D_NEXT_STRIDE: tl.constexpr, D_SHARE_STRIDE: tl.constexpr, SIZE: tl.constexpr, BN: tl.constexpr,
    BO: tl.constexpr, CARRY: tl.constexpr, HEAD_BEFORE: tl.constexpr, RAW: tl.constexpr,
    ROBUST: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradient of the usage that a head saw, for a range of cells; see `launch_rank_backward`.

    CARRY: there is a next head, and the usage it saw was s + (1 - s) g_a g_w a.
    """
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, o = tile * BN + tl.arange(0, BN), tl.arange(0, BO)
    in_n = n < N
    usage += b * USAGE_STRIDE
    products += b * PRODUCTS_STRIDE
    d_allocation += b * D_ALLOCATION_STRIDE
    lifted, own_key = load_lifted(usage, n, N, ROBUST, DTYPE)
    key = own_key[:, None]
    found = tl.zeros([BN, BO], DTYPE)
    left, right = tile * BN // BO * BO, tl.cdiv((tile + 1) * BN, BO) * BO
    start = 0
    while start < left:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        change = load_changes(d_allocation, products, other, start + o, N, DTYPE)
        found = tl.where(key < other_key[None, :], found + change[None, :], found)
        start += BO
    while start < right:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        change = load_changes(d_allocation, products, other, start + o, N, DTYPE)
        after = comes_before(key, n[:, None], other_key[None, :], (start + o)[None, :])
        found = tl.where(after, found + change[None, :], found)
        start += BO
    while start < N:
        other, other_key = load_lifted(usage, start + o, N, ROBUST, DTYPE)
        change = load_changes(d_allocation, products, other, start + o, N, DTYPE)
        found = tl.where(key <= other_key[None, :], found + change[None, :], found)
        start += BO
    own = tl.load(products + n, mask=in_n, other=0.0)
    d_own = tl.load(d_allocation + n, mask=in_n, other=0.0).to(DTYPE)
    d_seen = (1.0 - EPSILON) * (tl.sum(found, 1) / lifted - own * d_own)
    if CARRY:
        share = load_share(allocation_gate + b * SIZE, write_gate + b * SIZE, RAW, DTYPE)
        carried = tl.load(d_next_usage + b * D_NEXT_STRIDE + n, mask=in_n, other=0.0)
        d_seen += carried * (1.0 - share * ((1.0 - lifted) * own))
    if HEAD_BEFORE:
        share = load_share(
            allocation_gate_before + b * SIZE, write_gate_before + b * SIZE, RAW, DTYPE
        )
        seen = tl.load(usage_before + b * BEFORE_STRIDE + n, mask=in_n, other=0.0).to(DTYPE)
        own = tl.load(products_before + b * PRODUCTS_STRIDE + n, mask=in_n, other=0.0)
        free = tl.where(in_n, d_seen * (1.0 - seen), 0.0)
        d_share = tl.sum(free * ((1.0 - lift(seen)) * own), 0)
        tl.store(d_share_before + b * D_SHARE_STRIDE + tile, d_share)
        place = d_allocation_before + b * D_ALLOCATION_STRIDE + n
        changed = tl.load(place, mask=in_n, other=0.0) + free * share
        tl.debug_barrier()  # all threads must have read what this store replaces
        tl.store(place, changed, mask=in_n)
    tl.debug_barrier()  # likewise
    tl.store(d_usage + b * D_USAGE_STRIDE + n, d_seen, mask=in_n)


@triton.jit
def sorted_cells(usage, N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr):
    """The cells of a batch element in the order in which they are allocated, in float32.

    Keys are positive, so that their bits sort like integers; the index in the low bits breaks ties.

    Returns:
        u' (BN), 1 beyond the last cell, and the indices (BN), at least N there.
    """
    n = tl.arange(0, BN)
    _, key = load_lifted(usage, n, N, ROBUST, tl.float32)
    packed = (key.to(tl.int32, bitcast=True).to(tl.int64) << 32) | n.to(tl.int64)
    packed = tl.sort(packed)
    index = packed.to(tl.int32)
    if ROBUST:
        ordered, _ = load_lifted(usage, index, N, ROBUST, tl.float32)
    else:
        ordered = (packed >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return tl.where(index < N, ordered, 1.0), index


@triton.jit
def sort_kernel(
    usage, products, allocation,
    N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr,
):  # fmt: skip
    """P and a of a whole batch element, by sorting."""
    row = tl.program_id(0).to(tl.int64) * N
    place = tl.arange(0, BN)
    ordered, index = sorted_cells(usage + row, N, BN, ROBUST)
    last = tl.gather(ordered, tl.maximum(place - 1, 0), 0)
    found = tl.cumprod(tl.where(place > 0, last, 1.0), 0)
    tl.store(products + row + index, found, mask=index < N)
    tl.store(allocation + row + index, (1.0 - ordered) * found, mask=index < N)


@triton.jit
def sort_backward_kernel(
    usage, products, d_allocation, d_usage,
    N: tl.constexpr, BN: tl.constexpr, ROBUST: tl.constexpr,
):  # fmt: skip
    """Gradient of the usage of a whole batch element, by sorting."""
    row = tl.program_id(0).to(tl.int64) * N
    place = tl.arange(0, BN)
    ordered, index = sorted_cells(usage + row, N, BN, ROBUST)
    found = tl.load(products + row + index, mask=index < N, other=0.0)
    d_found = tl.load(d_allocation + row + index, mask=index < N, other=0.0).to(tl.float32)
    # The sum leaves out the cell's own term. Subtracting it afterwards would leave its rounding
    # error, divided by u', which may be as small as e.
    next_term = tl.gather(d_found * (1.0 - ordered) * found, tl.minimum(place + 1, BN - 1), 0)
    d_later = tl.cumsum(tl.where(place + 1 < BN, next_term, 0.0), 0, reverse=True)
    d_seen = (1.0 - EPSILON) * (d_later / ordered - found * d_found)
    tl.store(d_usage + row + index, d_seen, mask=index < N)


def _rank_sizes(usage: Tensor, robust: bool) -> dict[str, Any]:
    """Constants of the kernels that compare cells.

    Keys are computed twice, for both sides of a comparison. Without fusion, equal usages get equal
    keys, and the same keys as in plain torch.
    """
    N = usage.shape[1]
    BN, BO = min(launch.RANK_CELLS, launch.block(N)), min(launch.RANK_OTHERS, launch.block(N))
    return {
        "N": N,
        "BN": BN,
        "BO": BO,
        "ROBUST": robust,
        "DTYPE": launch.compute_dtype(usage.dtype),
        "num_warps": launch.warps(BN * BO),
        "enable_fp_fusion": False,
    }


def launch_products(
    usage: Tensor,
    products: Tensor,
    allocation: Tensor,
    robust: bool,
    next_usage: Tensor | None = None,
    allocation_gate: Tensor | None = None,
    write_gate: Tensor | None = None,
    raw: bool = False,
) -> None:
    """Fill products and allocation; and next_usage, which the next write head sees, if given.

    Args:
        usage, products, allocation, next_usage: (B, N), each contiguous in N; products and
            next_usage in the dtype that kernels compute in, the others in any float dtype.
        allocation_gate, write_gate: (B), of this head, with the same stride; needed for next_usage.
        raw: whether the gates are given before their sigmoid.
    """
    given = _given((next_usage, allocation_gate, write_gate), usage)
    launch.run(
        products_kernel, (usage.shape[0], launch.rank_ranges(usage.shape[1])), usage, products,
        allocation, *given, USAGE_STRIDE=usage.stride(0), PRODUCTS_STRIDE=products.stride(0),
        ALLOCATION_STRIDE=allocation.stride(0), NEXT_STRIDE=given[0].stride(0),
        SIZE=given[1].stride(0), MORE=next_usage is not None, RAW=raw, **_rank_sizes(usage, robust),
    )  # fmt: skip


class Head(NamedTuple):
    """What the gradient needs of a write head.

    | field           | shape  |                                                                |
    |-----------------|--------|----------------------------------------------------------------|
    | usage           | (B, N) | that this head saw                                             |
    | products        | (B, N) | its P                                                          |
    | d_allocation    | (B, N) | gradient of its allocation weighting                           |
    | allocation_gate | (B)    | needed with several heads                                      |
    | write_gate      | (B)    | likewise                                                       |
    """

    usage: Tensor
    products: Tensor
    d_allocation: Tensor
    allocation_gate: Tensor | None = None
    write_gate: Tensor | None = None


def launch_rank_backward(
    head: Head,
    d_usage: Tensor,
    robust: bool,
    d_next_usage: Tensor | None = None,
    before: Head | None = None,
    d_share: Tensor | None = None,
    raw: bool = False,
) -> None:
    """Fill d_usage (B, N), the complete gradient of the usage that a head saw.

    Each head takes one launch, the last head first. With S = g_a g_w of a head and
    s_{h+1} = s_h + (1 - s_h) S_h a_h, the launch for head h computes

        ds_h = (through a_h, from da_h of all cells) + ds_{h+1} (1 - S_h a_h)
        da_{h-1} += ds_h (1 - s_{h-1}) S_{h-1};  dS_{h-1} = sum_n ds_h (1 - s_{h-1}) a_{h-1}

    Each program fills only its own cells, and reads no other cells of tensors that this launch
    fills. So d_usage may be d_next_usage. When the launch ends, ds_h, da_{h-1} and dS_{h-1} are
    complete, and the next launch, for head h - 1, may read all cells of da_{h-1}.

    Args:
        head: this head; its d_allocation must be complete.
        d_next_usage: (B, N), filled by the launch for the next head; None for the last head.
        before: the previous head; to its d_allocation, which comes from its own write weighting,
            this launch adds in place. None for the first head.
        d_share: (B, launch.rank_ranges(N)), filled with the parts of dS_{h-1}; needed with before.
        raw: whether the gates are given before their sigmoid.

    Both heads must have the same stride for products, for d_allocation and for all gates.
    """
    own, last = _given(head, head.usage), _given(before or head, head.usage)
    filled = _given((d_usage, d_next_usage, d_share), head.usage)
    launch.run(
        rank_backward_kernel, (head.usage.shape[0], launch.rank_ranges(head.usage.shape[1])), *own,
        *last, *filled, USAGE_STRIDE=head.usage.stride(0), BEFORE_STRIDE=last[0].stride(0),
        PRODUCTS_STRIDE=head.products.stride(0), D_ALLOCATION_STRIDE=head.d_allocation.stride(0),
        SIZE=own[3].stride(0), D_USAGE_STRIDE=filled[0].stride(0),
        D_NEXT_STRIDE=filled[1].stride(0), D_SHARE_STRIDE=filled[2].stride(0),
        CARRY=d_next_usage is not None, HEAD_BEFORE=before is not None, RAW=raw,
        **_rank_sizes(head.usage, robust),
    )  # fmt: skip


def _given(arguments: Iterable[Tensor | None], unused: Tensor) -> list[Tensor]:
    """The arguments, with a tensor that the kernel will not read in place of each None."""
    return [unused if argument is None else argument for argument in arguments]


def _sort_sizes(usage: Tensor, robust: bool) -> dict[str, Any]:
    """Constants of the kernels that sort."""
    N = usage.shape[1]
    return {
        "N": N,
        "BN": launch.block(N),
        "ROBUST": robust,
        "num_warps": launch.sort_warps(N),
        "enable_fp_fusion": False,
    }


def allocate(usage: Tensor, robust: bool, sort: bool) -> tuple[Tensor, Tensor]:
    """The op `allocation_weighting`: by sorting, in float32, or by comparing."""
    usage = usage.contiguous()
    allocation, products = torch.empty_like(usage), launch.new_like(usage, *usage.shape)
    if sort:
        grid, sizes = (usage.shape[0],), _sort_sizes(usage, robust)
        launch.run(sort_kernel, grid, usage, products, allocation, **sizes)
    else:
        launch_products(usage, products, allocation, robust)
    return allocation, products


def allocate_backward(
    d_allocation: Tensor, usage: Tensor, products: Tensor, robust: bool, sort: bool
) -> Tensor:
    """The op `allocation_weighting_backward`: by sorting, in float32, or by comparing."""
    d_allocation, usage, products = launch.contiguous(d_allocation, usage, products)
    d_usage = torch.empty_like(usage)
    if sort:
        grid, sizes = (usage.shape[0],), _sort_sizes(usage, robust)
        launch.run(sort_backward_kernel, grid, usage, products, d_allocation, d_usage, **sizes)
    else:
        launch_rank_backward(Head(usage, products, d_allocation), d_usage, robust)
    return d_usage


@torch.library.custom_op("dnc_fast::allocation_weighting", mutates_args=())
def allocation_and_products(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor]:
    """a (B, N), and P (B, N), which has no gradient and is float32 or float64."""
    B, N = usage.shape
    return allocate(usage, robust, launch.sorts(B, N, usage.dtype))


@allocation_and_products.register_fake
def _(usage: Tensor, robust: bool) -> tuple[Tensor, Tensor]:
    return usage.new_empty(usage.shape), launch.new_like(usage, *usage.shape)


@torch.library.custom_op("dnc_fast::allocation_weighting_backward", mutates_args=())
def allocation_weighting_backward(
    d_allocation: Tensor, usage: Tensor, products: Tensor, robust: bool
) -> Tensor:
    """Gradient of usage; `products` is what `allocation_and_products` returned."""
    B, N = usage.shape
    sort = launch.sorts(B, N, usage.dtype)
    return allocate_backward(d_allocation, usage, products, robust, sort)


@allocation_weighting_backward.register_fake
def _(d_allocation: Tensor, usage: Tensor, products: Tensor, robust: bool) -> Tensor:
    return usage.new_empty(usage.shape)


def _setup(ctx, inputs, output):
    usage, ctx.robust = inputs
    _, products = output
    ctx.mark_non_differentiable(products)
    ctx.save_for_backward(usage, products)


def _backward(ctx, d_allocation, _):
    return allocation_weighting_backward(d_allocation, *ctx.saved_tensors, ctx.robust), None


allocation_and_products.register_autograd(_backward, setup_context=_setup)
ops.refuse_second_gradient(allocation_weighting_backward)


def allocation_weighting(usage: Tensor, robust: bool = False) -> Tensor:
    """(B, N): where new content is written, the least used cell first.

    Args:
        usage: (B, N), in [0, 1].
        robust: whether usages that round to the same multiple of 2^-8 count as equal.
    """
    return allocation_and_products(usage, robust)[0]
