"""How alike a key and a cell are: the similarities D(k, m) of content-based addressing.

A mask (Csordas & Schmidhuber 2019) multiplies a key and all cells that it is compared with, number
by number, before any of the equations. Each similarity has a hand-derived backward beside it.

Letters: B batch, N memory cells, W cell size. Arguments of all functions:

    keys (B, heads, W);  memory (B, N, W);  masks (B, heads, W), in [0, 1], or None for ones
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

EPSILON = 1e-6
"""Added inside each square root, and to the product of two norms, so that all stay finite."""


class Similarity(NamedTuple):
    """A similarity and its gradients.

    | field    | of                                       | gives                               |
    |----------|------------------------------------------|-------------------------------------|
    | forward  | keys, memory, masks                      | D (B, heads, N), and what else its  |
    |          |                                          | gradient needs                      |
    | backward | dD, (D, what else), keys, memory, masks  | gradients of keys, memory, masks    |
    """

    forward: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor | None]]


def cosine(keys: Tensor, memory: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
    """D = k.m / (|k| |m| + e) with |x| = sqrt(x.x + e), in [-1, 1] (Graves et al. 2016).

    Equation (2) of docs/primer.md.

    Returns:
        D, and |k|, |m| and |k| |m| + e, each (B, heads, N) or broadcast to it.
    """
    key_norms = (_weighted(keys.square(), masks).sum(-1, keepdim=True) + EPSILON).sqrt()
    if masks is None:
        cell_norms = (memory.square().sum(-1) + EPSILON).sqrt().unsqueeze(-2)
    else:
        cell_norms = (masks.square() @ memory.square().mT + EPSILON).sqrt()
    scale = key_norms * cell_norms + EPSILON
    return _weighted(keys, masks) @ memory.mT / scale, key_norms, cell_norms, scale


def cosine_backward(
    d_similarity: Tensor,
    found: tuple[Tensor, ...],
    keys: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `cosine`. With q = |k| |m| + e and g = dD / q, without a mask:

        dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m exchanged

    A mask a multiplies both, so that dk and dm are those of (a k, a m) times a, and
    da = k d(a k) + sum_n m d(a m).
    """
    similarity, key_norms, cell_norms, scale = found
    d_product = d_similarity / scale
    d_scale = -d_product * similarity
    d_key_norms = (d_scale * cell_norms).sum(-1, keepdim=True)
    products = d_product @ memory
    if masks is None:
        d_cell_norms = (d_scale * key_norms).sum(-2, keepdim=True)
        d_keys = products + d_key_norms / key_norms * keys
        d_memory = d_product.mT @ keys + (d_cell_norms / cell_norms).mT * memory
        return d_keys, d_memory, None
    squares, pulled = masks.square(), d_scale * key_norms / cell_norms
    key_pulled = d_key_norms / key_norms
    d_keys = squares * (products + key_pulled * keys)
    d_memory = d_product.mT @ (squares * keys) + (pulled.mT @ squares) * memory
    d_squares = 2 * keys * products + key_pulled * keys.square() + pulled @ memory.square()
    return d_keys, d_memory, masks * d_squares


def dot(keys: Tensor, memory: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
    """D = k.m, unbounded."""
    return (_weighted(keys, masks) @ memory.mT,)


def dot_backward(
    d_similarity: Tensor,
    found: tuple[Tensor, ...],
    keys: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `dot`."""
    products = d_similarity @ memory
    d_memory = d_similarity.mT @ _weighted(keys, masks)
    d_masks = None if masks is None else 2 * masks * keys * products
    return _weighted(products, masks), d_memory, d_masks


def euclidean(keys: Tensor, memory: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
    """D = -sqrt(|k - m|^2 + e): minus the distance itself, at most -sqrt(e)."""
    return (-(_weighted(_differences(keys, memory).square(), masks).sum(-1) + EPSILON).sqrt(),)


def euclidean_backward(
    d_similarity: Tensor,
    found: tuple[Tensor, ...],
    keys: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `euclidean`: dk = sum_n dD (k - m) / D, which is 0 where k = m."""
    differences = _differences(keys, memory)
    pulled = (d_similarity / found[0]).unsqueeze(-1) * differences
    d_keys, d_memory = _spread(_weighted(pulled, masks))
    if masks is None:
        return d_keys, d_memory, None
    return d_keys, d_memory, masks * (pulled * differences).sum(-2)


def manhattan(keys: Tensor, memory: Tensor, masks: Tensor | None = None) -> tuple[Tensor, ...]:
    """D = -sum_w |k_w - m_w|, at most 0."""
    differences = _differences(keys, memory).abs()
    if masks is not None:
        differences = differences * masks.unsqueeze(-2)
    return (-differences.sum(-1),)


def manhattan_backward(
    d_similarity: Tensor,
    found: tuple[Tensor, ...],
    keys: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `manhattan`: dk = -sum_n dD sign(k - m), where sign(0) = 0."""
    differences = _differences(keys, memory)
    pulled = -d_similarity.unsqueeze(-1) * differences.sign()
    if masks is None:
        return *_spread(pulled), None
    d_masks = -(d_similarity.unsqueeze(-1) * differences.abs()).sum(-2)
    return *_spread(masks.unsqueeze(-2) * pulled), d_masks


SIMILARITY_FUNCTIONS = {
    "cosine": Similarity(cosine, cosine_backward),
    "euclidean": Similarity(euclidean, euclidean_backward),
    "manhattan": Similarity(manhattan, manhattan_backward),
    "dot": Similarity(dot, dot_backward),
}
"""By the names of `SIMILARITIES`."""


def _weighted(values: Tensor, masks: Tensor | None) -> Tensor:
    """Values (B, heads, W) or (B, heads, N, W) times the squared mask of their head."""
    if masks is None:
        return values
    squares = masks.square()
    return values * (squares.unsqueeze(-2) if values.dim() > squares.dim() else squares)


def _differences(keys: Tensor, memory: Tensor) -> Tensor:
    """(B, heads, N, W): k - m."""
    return keys.unsqueeze(-2) - memory.unsqueeze(-3)


def _spread(d_differences: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of keys and memory from that of their differences (B, heads, N, W)."""
    return d_differences.sum(-2), -d_differences.sum(-3)
