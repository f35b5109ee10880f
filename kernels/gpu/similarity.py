"""Similarities of keys and cells, with a mask for each key.

The similarities are those of `arrays`: COSINE, EUCLIDEAN, MANHATTAN, DOT, see the reference. A mask
multiplies its key and all cells. The paper's similarity, without masks, is in `content`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import arrays
from .arithmetic import gate_slope, get_row, put_row

COSINE, EUCLIDEAN = tl.constexpr(arrays.COSINE), tl.constexpr(arrays.EUCLIDEAN)
MANHATTAN, DOT = tl.constexpr(arrays.MANHATTAN), tl.constexpr(arrays.DOT)
EPSILON = tl.constexpr(1e-6)


@triton.jit
def word(vectors, head, w, W: tl.constexpr, DTYPE: tl.constexpr):
    """A head's vector (W), 0 outside."""
    return tl.load(vectors + head * W + w, mask=w < W, other=0.0).to(DTYPE)


@triton.jit
def one_mask(masks, head, w, W: tl.constexpr, MASKED: tl.constexpr, DTYPE: tl.constexpr):
    """A head's mask (W): ones if there are no masks."""
    if MASKED:
        mask = word(masks, head, w, W, DTYPE)
    else:
        mask = tl.full(w.shape, 1.0, DTYPE)
    return mask


@triton.jit
def raw_mask(
    masks, head, w, W: tl.constexpr, MASKED: tl.constexpr, FLOOR: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """`one_mask` from masks before their activation: FLOOR + (1 - FLOOR) sigmoid."""
    mask = one_mask(masks, head, w, W, MASKED, DTYPE)
    if MASKED:
        mask = FLOOR + (1.0 - FLOOR) * tl.sigmoid(mask)
    return mask


@triton.jit
def mask_slope(raw, FLOOR: tl.constexpr):
    """The factor from a mask's gradient to that of the value before its activation."""
    return (1.0 - FLOOR) * gate_slope(tl.sigmoid(raw))


@triton.jit
def masked_norms(key, mask, cells):
    """Lengths of a key and of cells (n, W) that are multiplied by a mask, never zero."""
    key_norm = tl.sqrt(tl.sum(key * mask * key * mask, 0) + EPSILON)
    masked = cells * mask[None, :]
    return key_norm, tl.sqrt(tl.sum(masked * masked, 1) + EPSILON)


@triton.jit
def compare(key, mask, cells, SIMILARITY: tl.constexpr):
    """D of a key (W) with a mask and all cells (n, W): (n)."""
    if SIMILARITY == EUCLIDEAN:
        differences = (key[None, :] - cells) * mask[None, :]
        alike = -tl.sqrt(tl.sum(differences * differences, 1) + EPSILON)
    elif SIMILARITY == MANHATTAN:
        alike = -tl.sum(tl.abs(key[None, :] - cells) * mask[None, :], 1)
    else:
        alike = tl.sum(cells * (key * mask * mask)[None, :], 1)
    if SIMILARITY == COSINE:
        key_norm, cell_norms = masked_norms(key, mask, cells)
        alike = alike / (key_norm * cell_norms + EPSILON)
    return alike


@triton.jit
def compare_backward(d_alike, alike, key, mask, cells, SIMILARITY: tl.constexpr):
    """Gradients of the key (W), the mask (W) and the cells (n, W) of `compare`.

    Each is linear in d_alike (n), the gradient of alike (n); those of key and mask are sums over
    the cells.
    """
    squares = mask * mask
    if SIMILARITY == EUCLIDEAN:
        differences = key[None, :] - cells
        alike = tl.where(alike < 0.0, alike, 1.0)  # 0 where a padded cell was loaded
        pulled = (d_alike / alike)[:, None] * differences
        d_key = squares * tl.sum(pulled, 0)
        d_mask = mask * tl.sum(pulled * differences, 0)
        d_cells = -squares[None, :] * pulled
    elif SIMILARITY == MANHATTAN:
        differences = key[None, :] - cells
        signs = tl.where(differences > 0.0, 1.0, tl.where(differences < 0.0, -1.0, 0.0))
        pulled = -d_alike[:, None] * signs
        d_key = mask * tl.sum(pulled, 0)
        d_mask = tl.sum(pulled * differences, 0)
        d_cells = -mask[None, :] * pulled
    elif SIMILARITY == DOT:
        products = tl.sum(d_alike[:, None] * cells, 0)
        d_key = squares * products
        d_mask = 2.0 * mask * key * products
        d_cells = d_alike[:, None] * (squares * key)[None, :]
    else:
        key_norm, cell_norms = masked_norms(key, mask, cells)
        d_product = d_alike / (key_norm * cell_norms + EPSILON)
        d_scale = -d_product * alike
        key_pulled = tl.sum(d_scale * cell_norms, 0) / key_norm
        pulled = (d_scale * key_norm / cell_norms)[:, None] * cells
        products = tl.sum(d_product[:, None] * cells, 0)
        d_key = squares * (products + key_pulled * key)
        d_mask = 2.0 * key * products + key_pulled * key * key + tl.sum(pulled * cells, 0)
        d_mask *= mask
        d_cells = squares[None, :] * (d_product[:, None] * key[None, :] + pulled)
    return d_key, d_mask, d_cells


@triton.jit
def varied_similarities(
    keys, masks, cells, w, SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """D for all keys (H, W) and cells (n, W): (BH, n)."""
    alike = tl.zeros([BH, cells.shape[0]], DTYPE)
    for head in tl.static_range(H):
        key, mask = word(keys, head, w, W, DTYPE), one_mask(masks, head, w, W, MASKED, DTYPE)
        alike = put_row(alike, head, compare(key, mask, cells, SIMILARITY), BH)
    return alike


@triton.jit
def varied_lookup_backward(
    d_logits, alike, cells, d_cells, keys, strengths, masks, d_keys, d_strengths, d_masks, w,
    SIMILARITY: tl.constexpr, MASKED: tl.constexpr,
    W: tl.constexpr, H: tl.constexpr, BH: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through strength times similarity, for all keys and some cells.

    Args:
        d_logits: (BH, n), ds, 0 outside.
        alike: (BH, n), D.
        cells: (n, W).
        d_cells: (n, W), gradient so far.
        keys, strengths, masks: (H, W), (H) and (H, W).
        d_keys, d_strengths, d_masks: filled with what these cells add to the gradients.

    Returns:
        d_cells with these gradients added.
    """
    heads = tl.arange(0, BH)
    tl.store(d_strengths + heads, tl.sum(d_logits * alike, 1), mask=heads < H)
    for head in tl.static_range(H):
        key, mask = word(keys, head, w, W, DTYPE), one_mask(masks, head, w, W, MASKED, DTYPE)
        strength = tl.load(strengths + head).to(DTYPE)
        d_alike = strength * get_row(d_logits, head, BH)
        d_key, d_mask, more = compare_backward(
            d_alike, get_row(alike, head, BH), key, mask, cells, SIMILARITY
        )
        d_cells += more
        tl.store(d_keys + head * W + w, d_key, mask=w < W)
        if MASKED:
            tl.store(d_masks + head * W + w, d_mask, mask=w < W)
    return d_cells
