"""Content-based addressing: similarity and softmax, all keys in one pass over the memory.

There may be tens of thousands of tiles. What each adds to the softmax is combined by one program
per key; the mean gradient that the backward pass needs is a sum by torch, which is as fast.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import arrays
from . import launch, ops
from .arithmetic import (
    get_row,
    put_row,
    store_softmax_parts,
)
from .similarity import COSINE, varied_lookup_backward, varied_similarities

EPSILON = tl.constexpr(1e-6)


@triton.jit
def wide(n, N: tl.constexpr, W: tl.constexpr):
    """Cells n as 64-bit integers if a memory (N, W) has too many numbers for 32 bits."""
    cells = n
    if N * W >= 2**31:
        cells = n.to(tl.int64)
    return cells


@triton.jit
def load_cells(memory, n, w, N: tl.constexpr, W: tl.constexpr, DTYPE: tl.constexpr):
    """Cells n of a memory (N, W), 0 outside."""
    n = wide(n, N, W)
    mask = (n < N)[:, None] & (w < W)[None, :]
    return tl.load(memory + n[:, None] * W + w[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def store_cells(memory, cells, n, w, N: tl.constexpr, W: tl.constexpr):
    """Store cells n of a memory (N, W)."""
    n = wide(n, N, W)
    mask = (n < N)[:, None] & (w < W)[None, :]
    tl.store(memory + n[:, None] * W + w[None, :], cells, mask=mask)


@triton.jit
def norms(vectors):
    """Lengths of the rows of (n, W), never zero."""
    return tl.sqrt(tl.sum(vectors * vectors, 1) + EPSILON)


@triton.jit
def load_keys(keys, w, W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr):
    """All keys (BH, W), 0 outside."""
    head = tl.arange(0, BH)
    mask = (head < H)[:, None] & (w < W)[None, :]
    return tl.load(keys + head[:, None] * W + w[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def scales(key_norms, cell_norms):
    """|k| |m| + e for all keys and cells: (BH, n)."""
    return key_norms[:, None] * cell_norms[None, :] + EPSILON


@triton.jit
def similarities(
    keys, cells, w, W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr
):
    """D(k, m) = k.m / (|k| |m| + e) for all keys (H, W) and cells (n, W): (BH, n)."""
    products = tl.zeros([BH, cells.shape[0]], DTYPE)
    for head in tl.static_range(H):
        key = tl.load(keys + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        products = put_row(products, head, tl.sum(cells * key[None, :], 1), BH)
    return products / scales(norms(load_keys(keys, w, W, H, BH, DTYPE)), norms(cells))


@triton.jit
def lookup_backward(
    d_logits, alike, cells, d_cells, keys, strengths, d_keys, d_strengths, w,
    W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through strength times similarity, for all keys and some cells.

    With g = beta ds / q, q = |k| |m| + e, |x| = sqrt(x.x + e):

        dbeta = ds.D;  dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m swapped

    Args:
        d_logits: (BH, n), ds, 0 outside.
        alike: (BH, n), D.
        cells: (n, W).
        d_cells: (n, W), gradient so far.
        keys, strengths: (H, W) and (H).
        d_keys, d_strengths: filled with what these cells add to the gradients.

    Returns:
        d_cells with these gradients added.
    """
    heads = tl.arange(0, BH)
    all_keys = load_keys(keys, w, W, H, BH, DTYPE)
    key_norms, cell_norms = norms(all_keys), norms(cells)
    tl.store(d_strengths + heads, tl.sum(d_logits * alike, 1), mask=heads < H)
    strength = tl.load(strengths + heads, mask=heads < H, other=0.0).to(DTYPE)
    d_products = strength[:, None] * d_logits
    d_products /= scales(key_norms, cell_norms)
    d_scales = -d_products * alike
    d_norms = tl.sum(d_scales * key_norms[:, None], 0)
    d_key_norms = tl.sum(d_scales * cell_norms[None, :], 1)
    d_all_keys = (d_key_norms / key_norms)[:, None] * all_keys
    for head in tl.static_range(H):
        key = tl.load(keys + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        d_product = get_row(d_products, head, BH)
        row = tl.sum(d_product[:, None] * cells, 0)
        d_all_keys += tl.where((heads == head)[:, None], row[None, :], 0.0)
        d_cells += d_product[:, None] * key[None, :]
    mask = (heads < H)[:, None] & (w < W)[None, :]
    tl.store(d_keys + heads[:, None] * W + w[None, :], d_all_keys, mask=mask)
    return d_cells + (d_norms / cell_norms)[:, None] * cells


@triton.jit
def store_scores(
    scores, parts, strengths, alike, tile, n,
    N: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Store the scores (H, N) of some cells, strength times similarity, and their softmax parts.

    The similarities are (BH, n); the parts (H, 2, TILES) are those of `store_softmax_parts`.
    """
    head = tl.arange(0, BH)
    # Adding zero rounds the scores here. A compiler may fuse a product with the difference from the
    # maximum: the largest e^0 is not 1 then, and what is found later from the stored scores does
    # not add up to 1; with a strength of 800, one is off by 3e-5, the gradients by 5e-5.
    strength = tl.load(strengths + head, mask=head < H, other=0.0).to(DTYPE)
    found = strength[:, None] * alike + 0.0
    mask = (head < H)[:, None] & (n < N)[None, :]
    tl.store(scores + head[:, None] * N + n[None, :], found, mask=mask)
    store_softmax_parts(parts, tile, found, n < N, H, BH, TILES)


@triton.jit
def similarities_of_kind(
    keys, masks, cells, w, SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """`similarities`, or `varied_similarities`."""
    if SIMILARITY == COSINE and not MASKED:
        alike = similarities(keys, cells, w, W, H, BH, DTYPE)
    else:
        alike = varied_similarities(keys, masks, cells, w, SIMILARITY, MASKED, W, H, BH, DTYPE)
    return alike


@triton.jit
def scores_kernel(
    keys, strengths, masks, memory, scores, parts,
    N: tl.constexpr, W: tl.constexpr, H: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BH: tl.constexpr, SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """Scores of a tile of cells for all keys, and the tile's parts of their softmax."""
    b, tile = launch.row_and_tile(TILES)
    n, w = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW)
    cells = load_cells(memory + b * N * W, n, w, N, W, DTYPE)
    alike = similarities_of_kind(
        keys + b * H * W, masks + b * H * W, cells, w, SIMILARITY, MASKED, W, H, BH, DTYPE
    )
    store_scores(
        scores + b * H * N, parts + b * H * 2 * TILES, strengths + b * H, alike, tile, n, N, H, BH,
        TILES, DTYPE,
    )  # fmt: skip


@triton.jit
def totals_kernel(
    parts,
    totals,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Maximum and sum over all tiles, (B, H, 2), from the parts of a key's softmax."""
    row = tl.program_id(0).to(tl.int64)
    parts += row * 2 * TILES
    tops = tl.full([BT], -float("inf"), DTYPE)
    for start in range(0, TILES, BT):
        t = start + tl.arange(0, BT)
        tops = tl.maximum(tops, tl.load(parts + t, mask=t < TILES, other=-float("inf")))
    top = tl.max(tops, 0)
    sums = tl.zeros([BT], DTYPE)
    for start in range(0, TILES, BT):
        t = start + tl.arange(0, BT)
        own = tl.load(parts + t, mask=t < TILES, other=-float("inf"))
        sums += tl.exp(own - top) * tl.load(parts + TILES + t, mask=t < TILES, other=0.0)
    tl.store(totals + row * 2, top)
    tl.store(totals + row * 2 + 1, tl.sum(sums, 0))


@triton.jit
def weights_kernel(
    scores, totals, weights,
    N: tl.constexpr, TILES: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Content weightings of some cells for one key, from the scores."""
    row, tile = launch.row_and_tile(TILES)
    n = tile * BN + tl.arange(0, BN)
    score = tl.load(scores + row * N + n, mask=n < N, other=0.0)
    found = tl.exp(score - tl.load(totals + row * 2)) / tl.load(totals + row * 2 + 1)
    tl.store(weights + row * N + n, found, mask=n < N)


@triton.jit
def backward_kernel(
    d_weights, weights, means, keys, strengths, masks, memory, d_keys, d_strengths, d_masks,
    d_memory,
    N: tl.constexpr, W: tl.constexpr, H: tl.constexpr, TILES: tl.constexpr, BM: tl.constexpr,
    BW: tl.constexpr, BH: tl.constexpr, SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    ADD: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of cells, and what the tile adds to those of keys, strengths and masks.

    ADD: the gradients of the cells are added to d_memory instead of stored there.
    """
    b, tile = launch.row_and_tile(TILES)
    n, w, h = tile.to(tl.int32) * BM + tl.arange(0, BM), tl.arange(0, BW), tl.arange(0, BH)
    mask = (h < H)[:, None] & (n < N)[None, :]
    offset = b * H * N + h[:, None] * N + n[None, :]
    found = tl.load(weights + offset, mask=mask, other=0.0).to(DTYPE)
    d_found = tl.load(d_weights + offset, mask=mask, other=0.0).to(DTYPE)
    mean = tl.load(means + b * H + h, mask=h < H, other=0.0)
    cells = load_cells(memory + b * N * W, n, w, N, W, DTYPE)
    if ADD:
        d_cells = load_cells(d_memory + b * N * W, n, w, N, W, DTYPE)
    else:
        d_cells = tl.zeros([BM, BW], DTYPE)
    d_logits = found * (d_found - mean[:, None])
    keys, strengths, masks = keys + b * H * W, strengths + b * H, masks + b * H * W
    part = b * TILES + tile
    d_keys, d_strengths, d_masks = (
        d_keys + part * H * W, d_strengths + part * H, d_masks + part * H * W
    )  # fmt: skip
    alike = similarities_of_kind(keys, masks, cells, w, SIMILARITY, MASKED, W, H, BH, DTYPE)
    if SIMILARITY == COSINE and not MASKED:
        d_cells = lookup_backward(
            d_logits, alike, cells, d_cells, keys, strengths, d_keys, d_strengths, w, W, H, BH,
            DTYPE,
        )  # fmt: skip
    else:
        d_cells = varied_lookup_backward(
            d_logits, alike, cells, d_cells, keys, strengths, masks, d_keys, d_strengths, d_masks,
            w, SIMILARITY, MASKED, W, H, BH, DTYPE,
        )  # fmt: skip
    tl.debug_barrier()  # several threads may hold the same number: all must have read it
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)


def launch_look_up(
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    weights: Tensor,
    masks: Tensor | None = None,
    similarity: int = arrays.COSINE,
) -> None:
    """Fill weights (B, H, N). All tensors are contiguous."""
    (B, H, N), sizes = weights.shape, launch.tile_sizes(memory, H=keys.shape[1])
    TILES, MASKED = sizes["TILES"], masks is not None
    scores, parts = launch.new_like(keys, B, H, N), launch.new_like(keys, B, H, 2, TILES)
    launch.run(
        scores_kernel, (B * TILES,), keys, strengths, keys if masks is None else masks, memory,
        scores, parts, SIMILARITY=similarity, MASKED=MASKED, **sizes,
    )  # fmt: skip
    totals, BT = launch.new_like(keys, B, H, 2), min(1024, launch.block(TILES))
    launch.run(
        totals_kernel, (B * H,), parts, totals, TILES=TILES, BT=BT, DTYPE=sizes["DTYPE"],
        num_warps=launch.warps(BT),
    )  # fmt: skip
    BN = min(1024, launch.block(N))
    TILES = launch.cdiv(N, BN)
    launch.run(weights_kernel, (B * H * TILES,), scores, totals, weights, N=N, TILES=TILES, BN=BN)


def launch_look_up_backward(
    d_weights: Tensor,
    weights: Tensor,
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    d_memory: Tensor,
    add: bool,
    masks: Tensor | None = None,
    similarity: int = arrays.COSINE,
) -> tuple[Tensor, ...]:
    """Gradients of keys, strengths, and masks if there are any; fills d_memory or adds to it.

    All tensors are contiguous.
    """
    B, H, W = keys.shape
    sizes = launch.tile_sizes(memory, H=H)
    TILES = sizes["TILES"]
    d_key_parts = launch.new_like(keys, B, TILES, H, W)
    d_strength_parts = launch.new_like(keys, B, TILES, H)
    d_parts = [d_key_parts, d_strength_parts]
    if masks is not None:
        d_parts.append(torch.empty_like(d_key_parts))
    # In half precision the weightings do not quite sum to 1.
    found = weights.to(d_key_parts.dtype)
    means = (found * d_weights).sum(-1) / found.sum(-1)
    launch.run(
        backward_kernel, (B * TILES,), d_weights, weights, means, keys, strengths,
        keys if masks is None else masks, memory, d_key_parts, d_strength_parts, d_parts[-1],
        d_memory, SIMILARITY=similarity, MASKED=masks is not None, ADD=add, **sizes,
    )  # fmt: skip
    like = [keys, strengths] if masks is None else [keys, strengths, masks]
    gradients = tuple(map(torch.empty_like, like))
    for part, out in zip(d_parts, gradients, strict=True):
        launch.total(part, out)
    return gradients


@torch.library.custom_op("dnc_fast::content_weighting", mutates_args=())
def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """(B, H, N): softmax over the cells of strength times cosine similarity.

    Args:
        keys: (B, H, W).
        strengths: (B, H), not negative.
        memory: (B, N, W).
    """
    keys, strengths, memory = launch.contiguous(keys, strengths, memory)
    weights = keys.new_empty(*keys.shape[:2], memory.shape[1])
    launch_look_up(keys, strengths, memory, weights)
    return weights


@content_weighting.register_fake
def _(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    return keys.new_empty(*keys.shape[:2], memory.shape[1])


@torch.library.custom_op("dnc_fast::content_weighting_backward", mutates_args=())
def content_weighting_backward(
    d_weights: Tensor, weights: Tensor, keys: Tensor, strengths: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of keys, strengths and memory; `weights` is what `content_weighting` returned."""
    d_weights, weights = launch.contiguous(d_weights, weights)
    keys, strengths, memory = launch.contiguous(keys, strengths, memory)
    d_memory = torch.empty_like(memory)
    d_keys, d_strengths = launch_look_up_backward(
        d_weights, weights, keys, strengths, memory, d_memory, add=False
    )
    return d_keys, d_strengths, d_memory


@content_weighting_backward.register_fake
def _(*inputs: Tensor) -> Any:
    return launch.contiguous_like(*inputs[2:])


ops.differentiate(
    content_weighting, content_weighting_backward, lambda inputs, output: (output, *inputs)
)
