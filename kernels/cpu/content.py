"""Content weighting of one batch element, all heads of a kind together.

    D = k.m / (|k| |m| + e), |x| = sqrt(x.x + e), e = 1e-6;  w = softmax over cells of strength D

Shapes: keys (heads, W), strengths (heads), memory (N, W), cell_norms (N), similarity and weights
(heads, N). For the backward pass nothing is saved but what the caller has anyway.
"""

from __future__ import annotations

import math

from .compile import kernel
from .elementary import exp

EPSILON = 1e-6


@kernel
def norms(rows, out):
    """out[n] = sqrt(rows[n].rows[n] + e)."""
    epsilon = rows.dtype.type(EPSILON)
    for n in range(rows.shape[0]):
        row = rows[n]
        total = epsilon
        for w in range(row.shape[0]):
            total += row[w] * row[w]
        out[n] = math.sqrt(total)


@kernel
def content_weighting(keys, strengths, memory, key_norms, cell_norms, similarity, weights):
    """Fill similarity and weights; the norms are given."""
    epsilon = memory.dtype.type(EPSILON)
    for head in range(keys.shape[0]):
        key, row, weight = keys[head], similarity[head], weights[head]
        for n in range(memory.shape[0]):
            cell = memory[n]
            dot = memory.dtype.type(0)
            for w in range(key.shape[0]):
                dot += key[w] * cell[w]
            row[n] = dot / (key_norms[head] * cell_norms[n] + epsilon)
        highest = row[0]
        for n in range(1, row.shape[0]):
            highest = max(highest, row[n])
        total = memory.dtype.type(0)
        for n in range(row.shape[0]):
            # Strengths are at least 1, so the highest similarity is the highest logit.
            weight[n] = exp(strengths[head] * (row[n] - highest))
        for n in range(row.shape[0]):
            total += weight[n]
        for n in range(row.shape[0]):
            weight[n] /= total


@kernel
def look_up(keys, strengths, memory, key_norms, cell_norms, similarity, weights):
    """Fill the norms, similarity and weights."""
    norms(keys, key_norms)
    norms(memory, cell_norms)
    content_weighting(keys, strengths, memory, key_norms, cell_norms, similarity, weights)


@kernel
def content_weighting_backward(
    d_weights,
    weights,
    similarity,
    keys,
    strengths,
    memory,
    key_norms,
    cell_norms,
    d_keys,
    d_strengths,
    d_memory,
):
    """Fill d_keys and d_strengths, add to d_memory; d_weights is used up.

    ds = w (dw - w.dw);  dstrength = ds.D;  g = strength ds / (|k| |m| + e)
    dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m exchanged
    """
    epsilon = memory.dtype.type(EPSILON)
    zero = memory.dtype.type(0)
    for head in range(keys.shape[0]):
        key, d_key, row = keys[head], d_keys[head], similarity[head]
        weight, d_logit = weights[head], d_weights[head]
        mean = zero
        for n in range(row.shape[0]):
            mean += weight[n] * d_logit[n]
        d_strength = zero
        for n in range(row.shape[0]):
            d_logit[n] = weight[n] * (d_logit[n] - mean)
            d_strength += d_logit[n] * row[n]
        d_strengths[head] = d_strength
        d_key_norm = zero
        for w in range(key.shape[0]):
            d_key[w] = zero
        for n in range(row.shape[0]):
            cell, d_cell = memory[n], d_memory[n]
            g = strengths[head] * d_logit[n] / (key_norms[head] * cell_norms[n] + epsilon)
            d_scale = -g * row[n]
            d_key_norm += d_scale * cell_norms[n]
            pull = d_scale * key_norms[head] / cell_norms[n]
            for w in range(key.shape[0]):
                d_key[w] += g * cell[w]
            for w in range(key.shape[0]):
                d_cell[w] += g * key[w] + pull * cell[w]
        pull = d_key_norm / key_norms[head]
        for w in range(key.shape[0]):
            d_key[w] += pull * key[w]
