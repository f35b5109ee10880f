"""Content-based addressing: cosine similarity and softmax, all keys in one pass over the memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, refuse
from .arithmetic import (
    get_row,
    put_row,
    softmax_parts,
    store_softmax_part,
    strength,
    strength_slope,
)

EPSILON = tl.constexpr(1e-6)


@triton.jit
def load_cells(memory, n, w, N: tl.constexpr, W: tl.constexpr, DTYPE: tl.constexpr):
    """Cells n of a memory (N, W), 0 outside."""
    mask = (n < N)[:, None] & (w < W)[None, :]
    return tl.load(memory + n[:, None] * W + w[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def store_cells(memory, cells, n, w, N: tl.constexpr, W: tl.constexpr):
    """Store cells n of a memory (N, W)."""
    mask = (n < N)[:, None] & (w < W)[None, :]
    tl.store(memory + n[:, None] * W + w[None, :], cells, mask=mask)


@triton.jit
def norms(vectors):
    """Lengths of the rows of (n, W), off zero."""
    return tl.sqrt(tl.sum(vectors * vectors, 1) + EPSILON)


@triton.jit
def norm(vector):
    """Length of (W), off zero."""
    return tl.sqrt(tl.sum(vector * vector, 0) + EPSILON)


@triton.jit
def similarity(key, key_norm, cells, cell_norms):
    """D(k, m) = k.m / (|k| |m| + e) of a key (W) and cells (n, W)."""
    return tl.sum(cells * key[None, :], 1) / (key_norm * cell_norms + EPSILON)


@triton.jit
def similarities(
    keys, cells, w, W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr
):
    """Of all keys (H, W) and cells (n, W): (BH, n)."""
    cell_norms = norms(cells)
    alike = tl.zeros([BH, cells.shape[0]], DTYPE)
    for head in tl.static_range(H):
        key = tl.load(keys + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        alike = put_row(alike, head, similarity(key, norm(key), cells, cell_norms), BH)
    return alike


@triton.jit
def load_strengths(
    strengths, H: tl.constexpr, BH: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr
):
    """The strengths of all heads (BH), 0 outside."""
    rows = tl.arange(0, BH)
    found = tl.zeros([BH], DTYPE)
    for head in tl.static_range(H):
        found = tl.where(rows == head, strength(strengths + head, RAW, DTYPE), found)
    return found


@triton.jit
def lookup_backward(
    d_logits,
    alike,
    cells,
    d_cells,
    keys,
    strengths,
    d_keys,
    d_strengths,
    w,
    W: tl.constexpr,
    H: tl.constexpr,
    BH: tl.constexpr,
    RAW: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Through strength times similarity of all keys and some cells.

    With g = beta ds / q, q = |k| |m| + e, |x| = sqrt(x.x + e):

        dbeta = ds.D;  dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise, k and m exchanged

    Args:
        d_logits: (BH, n), ds, 0 outside.
        alike: (BH, n), D.
        cells: (n, W).
        d_cells: (n, W), gradient so far.
        keys, strengths: (H, W) and (H); RAW: strengths before their activation.
        d_keys, d_strengths: filled with these cells' part of the gradients.

    Returns:
        d_cells, these gradients added.
    """
    cell_norms = norms(cells)
    d_norms = tl.zeros([cells.shape[0]], DTYPE)
    for head in tl.static_range(H):
        key = tl.load(keys + head * W + w, mask=w < W, other=0.0).to(DTYPE)
        key_norm = norm(key)
        d_logit = get_row(d_logits, head, BH)
        similar = get_row(alike, head, BH)
        slope = strength_slope(strengths + head, RAW, DTYPE)
        tl.store(d_strengths + head, slope * tl.sum(d_logit * similar, 0))
        beta = strength(strengths + head, RAW, DTYPE)
        d_product = beta * d_logit / (key_norm * cell_norms + EPSILON)
        d_scale = -d_product * similar
        d_norms += d_scale * key_norm
        d_key_norm = tl.sum(d_scale * cell_norms, 0)
        d_key = tl.sum(d_product[:, None] * cells, 0) + d_key_norm / key_norm * key
        tl.store(d_keys + head * W + w, d_key, mask=w < W)
        d_cells += d_product[:, None] * key[None, :]
    return d_cells + (d_norms / cell_norms)[:, None] * cells


@triton.jit
def scores_kernel(
    keys,
    strengths,
    memory,
    scores,
    parts,
    N: tl.constexpr,
    W: tl.constexpr,
    H: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BH: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Scores of a tile of cells for all keys, and the tile's share in their softmax."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w = tile * BM + tl.arange(0, BM), tl.arange(0, BW)
    cells = load_cells(memory + b * N * W, n, w, N, W, DTYPE)
    alike = similarities(keys + b * H * W, cells, w, W, H, BH, DTYPE)
    for head in tl.static_range(H):
        row = b * H + head
        score = strength(strengths + row, False, DTYPE) * get_row(alike, head, BH)
        store_softmax_part(parts + row * 2 * TILES, tile, score, n < N, TILES)
        tl.store(scores + row * N + n, score, mask=n < N)


@triton.jit
def weights_kernel(
    scores,
    parts,
    weights,
    N: tl.constexpr,
    TILES: tl.constexpr,
    BT: tl.constexpr,
    BN: tl.constexpr,
):
    """Content weightings from scores: some cells of a row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    top, total, _ = softmax_parts(parts + row * 2 * TILES, TILES, BT)
    score = tl.load(scores + row * N + n, mask=n < N, other=0.0)
    tl.store(weights + row * N + n, tl.exp(score - top) / total, mask=n < N)


@triton.jit
def backward_kernel(
    d_weights,
    weights,
    keys,
    strengths,
    memory,
    d_keys,
    d_strengths,
    d_memory,
    N: tl.constexpr,
    W: tl.constexpr,
    H: tl.constexpr,
    TILES: tl.constexpr,
    BM: tl.constexpr,
    BW: tl.constexpr,
    BH: tl.constexpr,
    BN: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Gradients of a tile of cells, and the tile's part of those of keys and strengths."""
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n, w, h = tile * BM + tl.arange(0, BM), tl.arange(0, BW), tl.arange(0, BH)
    d_weights += b * H * N
    weights += b * H * N
    # The mean of dw, weighed by w, needs all cells of each row; every program adds them up for
    # itself, in the same order. In half precision the sum of w is not quite 1.
    total, whole = tl.zeros([BH], DTYPE), tl.zeros([BH], DTYPE)
    for start in range(0, N, BN):
        j = start + tl.arange(0, BN)
        mask = (h < H)[:, None] & (j < N)[None, :]
        offset = h[:, None] * N + j[None, :]
        found = tl.load(weights + offset, mask=mask, other=0.0).to(DTYPE)
        total += tl.sum(found * tl.load(d_weights + offset, mask=mask, other=0.0).to(DTYPE), 1)
        whole += tl.sum(found, 1)
    mean = total / tl.where(h < H, whole, 1.0)
    mask = (h < H)[:, None] & (n < N)[None, :]
    offset = h[:, None] * N + n[None, :]
    found = tl.load(weights + offset, mask=mask, other=0.0).to(DTYPE)
    d_found = tl.load(d_weights + offset, mask=mask, other=0.0).to(DTYPE)
    cells = load_cells(memory + b * N * W, n, w, N, W, DTYPE)
    d_cells = lookup_backward(
        found * (d_found - mean[:, None]),
        similarities(keys + b * H * W, cells, w, W, H, BH, DTYPE),
        cells,
        tl.zeros([BM, BW], DTYPE),
        keys + b * H * W,
        strengths + b * H,
        d_keys + (b * TILES + tile) * H * W,
        d_strengths + (b * TILES + tile) * H,
        w,
        W,
        H,
        BH,
        False,
        DTYPE,
    )
    store_cells(d_memory + b * N * W, d_cells, n, w, N, W)


@torch.library.custom_op("dnc_fast::content_weighting", mutates_args=())
def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """(B, H, N): softmax over the cells of strength times cosine similarity.

    Args:
        keys: (B, H, W).
        strengths: (B, H), at least 1.
        memory: (B, N, W).
    """
    keys, strengths, memory = keys.contiguous(), strengths.contiguous(), memory.contiguous()
    (B, H, W), N = keys.shape, memory.shape[1]
    BM, DTYPE = launch.cell_tile(N, W), launch.compute_dtype(keys.dtype)
    TILES = triton.cdiv(N, BM)
    weights = keys.new_empty(B, H, N)
    scores, parts = launch.new_like(keys, B, H, N), launch.new_like(keys, B, H, 2, TILES)
    sizes = {"N": N, "W": W, "H": H, "TILES": TILES, "BM": BM, "BW": launch.block(W)}
    launch.run(
        scores_kernel,
        (B, TILES),
        keys,
        strengths,
        memory,
        scores,
        parts,
        **sizes,
        BH=launch.block(H),
        DTYPE=DTYPE,
    )
    BN = min(1024, launch.block(N))
    launch.run(
        weights_kernel,
        (B * H, triton.cdiv(N, BN)),
        scores,
        parts,
        weights,
        N=N,
        TILES=TILES,
        BT=launch.block(TILES),
        BN=BN,
    )
    return weights


@content_weighting.register_fake
def _(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    return keys.new_empty(*keys.shape[:2], memory.shape[1])


@torch.library.custom_op("dnc_fast::content_weighting_backward", mutates_args=())
def content_weighting_backward(
    d_weights: Tensor, weights: Tensor, keys: Tensor, strengths: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of keys, strengths and memory; `weights` is what `content_weighting` returned."""
    d_weights, weights, keys, strengths, memory = (
        tensor.contiguous() for tensor in (d_weights, weights, keys, strengths, memory)
    )
    (B, H, W), N = keys.shape, memory.shape[1]
    BM = launch.cell_tile(N, W)
    TILES = triton.cdiv(N, BM)
    d_key_parts = launch.new_like(keys, B, TILES, H, W)
    d_strength_parts = launch.new_like(keys, B, TILES, H)
    d_memory = torch.empty_like(memory)
    launch.run(
        backward_kernel,
        (B, TILES),
        d_weights,
        weights,
        keys,
        strengths,
        memory,
        d_key_parts,
        d_strength_parts,
        d_memory,
        N=N,
        W=W,
        H=H,
        TILES=TILES,
        BM=BM,
        BW=launch.block(W),
        BH=launch.block(H),
        BN=min(256, launch.block(N)),
        DTYPE=launch.compute_dtype(keys.dtype),
    )
    d_keys, d_strengths = torch.empty_like(keys), torch.empty_like(strengths)
    launch.total(d_key_parts, d_keys)
    launch.total(d_strength_parts, d_strengths)
    return d_keys, d_strengths, d_memory


@content_weighting_backward.register_fake
def _(
    d_weights: Tensor, weights: Tensor, keys: Tensor, strengths: Tensor, memory: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return launch.contiguous_like(keys, strengths, memory)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(output, *inputs)


def _backward(ctx, d_weights):
    return content_weighting_backward(d_weights, *ctx.saved_tensors)


content_weighting.register_autograd(_backward, setup_context=_setup)
refuse.second_gradient(content_weighting_backward)
