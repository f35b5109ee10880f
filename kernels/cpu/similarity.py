"""Content weighting of one batch element by any similarity, with a mask for each key.

The similarities are those of `arrays`: COSINE, EUCLIDEAN, MANHATTAN, DOT. A mask multiplies its key
and every cell. Shapes: keys and masks (heads, W), strengths (heads), memory (N, W), similarity and
weights (heads, N). The paper's own, without masks, is in `content` and faster.
"""

from __future__ import annotations

import math

from ..arrays import COSINE, DOT, EUCLIDEAN, MANHATTAN
from .compile import apart, kernel
from .content import EPSILON, exponentials, mean_gradient


@kernel
def _norm(values, mask):
    """sqrt(sum_w (mask value)^2 + e)."""
    total = values.dtype.type(EPSILON)
    for w in range(values.shape[0]):
        value = mask[w] * values[w]
        total += value * value
    return math.sqrt(total)


@kernel
def _product(key, mask, cell):
    """sum_w (mask key) (mask cell)."""
    total = key.dtype.type(0)
    for w in range(key.shape[0]):
        total += mask[w] * mask[w] * key[w] * cell[w]
    return total


@kernel
def _squared_distance(key, mask, cell):
    """sum_w (mask (key - cell))^2."""
    total = key.dtype.type(0)
    for w in range(key.shape[0]):
        difference = mask[w] * (key[w] - cell[w])
        total += difference * difference
    return total


@kernel
def _distance(key, mask, cell):
    """sum_w mask |key - cell|."""
    total = key.dtype.type(0)
    for w in range(key.shape[0]):
        total += mask[w] * abs(key[w] - cell[w])
    return total


@kernel
def similarities(kind, key, mask, memory, similarity):
    """Fill the similarity (N) of a key to all cells."""
    epsilon = memory.dtype.type(EPSILON)
    N = memory.shape[0]
    if kind == COSINE:
        key_norm = _norm(key, mask)
        for n in range(N):
            cell = memory[n]
            similarity[n] = _product(key, mask, cell) / (key_norm * _norm(cell, mask) + epsilon)
    elif kind == EUCLIDEAN:
        for n in range(N):
            similarity[n] = -math.sqrt(_squared_distance(key, mask, memory[n]) + epsilon)
    elif kind == MANHATTAN:
        for n in range(N):
            similarity[n] = -_distance(key, mask, memory[n])
    elif kind == DOT:
        for n in range(N):
            similarity[n] = _product(key, mask, memory[n])


@kernel
def look_up(kind, keys, strengths, masks, memory, similarity, weights):
    """Fill similarity and weights."""
    for head in range(keys.shape[0]):
        similarities(kind, keys[head], masks[head], memory, similarity[head])
        weight = weights[head]
        _, total = exponentials(strengths[head], similarity[head], weight)
        for n in range(weight.shape[0]):
            weight[n] /= total


@apart
def _pull_by_product(cell, d_cell, key, mask, g, pulled, d_key, d_mask):
    """Add to the gradients of a cell, and to the sums over cells of g cell and pulled cell^2."""
    for w in range(key.shape[0]):
        square = mask[w] * mask[w]
        d_key[w] += g * cell[w]
        d_mask[w] += pulled * cell[w] * cell[w]
        d_cell[w] += square * (g * key[w] + pulled * cell[w])


@apart
def _pull_by_square(cell, d_cell, key, mask, g, d_key, d_mask):
    """Add to all gradients, given g = dD / D; to that of the mask all but the factor mask."""
    for w in range(key.shape[0]):
        difference = key[w] - cell[w]
        part = mask[w] * mask[w] * g * difference
        d_key[w] += part
        d_cell[w] -= part
        d_mask[w] += g * difference * difference


@apart
def _pull_by_sign(cell, d_cell, key, mask, g, d_key, d_mask):
    """Add to all gradients, given g = -dD."""
    one, zero = key.dtype.type(1), key.dtype.type(0)
    for w in range(key.shape[0]):
        difference = key[w] - cell[w]
        sign = (one if difference > zero else zero) - (one if difference < zero else zero)
        part = mask[w] * g * sign
        d_key[w] += part
        d_cell[w] -= part
        d_mask[w] += g * abs(difference)


@apart
def _finish_product(key, mask, key_pulled, d_key, d_mask):
    """From the sums that `_pull_by_product` made to the gradients of key and mask."""
    for w in range(key.shape[0]):
        product = d_key[w]
        both = product + product + key_pulled * key[w]
        d_mask[w] = mask[w] * (key[w] * both + d_mask[w])
        d_key[w] = mask[w] * mask[w] * (product + key_pulled * key[w])


@kernel
def through_cells(
    kind, mean, weight, d_logit, row, key, mask, strength, memory, d_key, d_mask, d_memory
):
    """Fill d_key and d_mask, add to d_memory; returns the gradient of the strength.

    d_logit, on entry the gradient of the weights, is overwritten; row is the similarity; `mean` is
    w.dw over all cells. With other cells' results added, these are the gradients of all cells.
    """
    epsilon = memory.dtype.type(EPSILON)
    zero = memory.dtype.type(0)
    N = memory.shape[0]
    for w in range(key.shape[0]):
        d_key[w] = zero
    for w in range(key.shape[0]):
        d_mask[w] = zero
    d_strength = zero
    for n in range(N):
        d_logit[n] = weight[n] * (d_logit[n] - mean)
        d_strength += d_logit[n] * row[n]
    for n in range(N):  # it becomes dD
        d_logit[n] *= strength
    if kind == COSINE:
        key_norm, key_pulled = _norm(key, mask), zero
        for n in range(N):
            cell_norm = _norm(memory[n], mask)
            g = d_logit[n] / (key_norm * cell_norm + epsilon)
            d_scale = -g * row[n]
            key_pulled += d_scale * cell_norm
            pulled = d_scale * key_norm / cell_norm
            _pull_by_product(memory[n], d_memory[n], key, mask, g, pulled, d_key, d_mask)
        _finish_product(key, mask, key_pulled / key_norm, d_key, d_mask)
    elif kind == DOT:
        for n in range(N):
            _pull_by_product(memory[n], d_memory[n], key, mask, d_logit[n], zero, d_key, d_mask)
        _finish_product(key, mask, zero, d_key, d_mask)
    elif kind == EUCLIDEAN:
        for n in range(N):
            _pull_by_square(memory[n], d_memory[n], key, mask, d_logit[n] / row[n], d_key, d_mask)
        for w in range(key.shape[0]):
            d_mask[w] *= mask[w]
    elif kind == MANHATTAN:
        for n in range(N):
            _pull_by_sign(memory[n], d_memory[n], key, mask, -d_logit[n], d_key, d_mask)
    return d_strength


@kernel
def look_up_backward(
    kind, d_weights, weights, similarity, keys, strengths, masks, memory, d_keys, d_strengths,
    d_masks, d_memory,
):  # fmt: skip
    """Fill d_keys, d_strengths and d_masks, add to d_memory; d_weights is overwritten."""
    for head in range(keys.shape[0]):
        d_strengths[head] = through_cells(
            kind, mean_gradient(weights[head], d_weights[head]), weights[head], d_weights[head],
            similarity[head], keys[head], masks[head], strengths[head], memory, d_keys[head],
            d_masks[head], d_memory,
        )  # fmt: skip
