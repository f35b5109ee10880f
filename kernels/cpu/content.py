"""Content weighting of one batch element, all read heads or all write heads together.

    D = k.m / (|k| |m| + e), |x| = sqrt(x.x + e), e = 1e-6;  w = softmax over cells of strength D

Shapes: keys (heads, W), strengths (heads), memory (N, W), cell_norms (N), similarity and weights
(heads, N). The backward pass needs nothing saved except what the caller has anyway.
"""

from __future__ import annotations

import math

from .compile import apart, kernel
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
def similarities(key, memory, key_norm, cell_norms, similarity):
    """Fill the similarity (N) of a key to all cells; the norms are given."""
    epsilon = memory.dtype.type(EPSILON)
    N = memory.shape[0]
    fours = N - N % 4
    for n in range(0, fours, 4):
        m0, m1, m2, m3 = memory[n], memory[n + 1], memory[n + 2], memory[n + 3]
        t0 = t1 = t2 = t3 = memory.dtype.type(0)
        for w in range(key.shape[0]):
            t0 += key[w] * m0[w]
            t1 += key[w] * m1[w]
            t2 += key[w] * m2[w]
            t3 += key[w] * m3[w]
        similarity[n], similarity[n + 1], similarity[n + 2], similarity[n + 3] = t0, t1, t2, t3
    for n in range(fours, N):
        cell = memory[n]
        total = memory.dtype.type(0)
        for w in range(key.shape[0]):
            total += key[w] * cell[w]
        similarity[n] = total
    for n in range(N):
        similarity[n] /= key_norm * cell_norms[n] + epsilon


@kernel
def exponentials(strength, similarity, weights):
    """Fill weights (N) with e^(strength (D - highest D)); returns the highest D and their sum."""
    highest = similarity[0]
    for n in range(1, similarity.shape[0]):
        highest = max(highest, similarity[n])
    total = similarity.dtype.type(0)
    for n in range(similarity.shape[0]):
        # No strength is negative, so the highest similarity is the highest logit.
        weights[n] = exp(strength * (similarity[n] - highest))
    for n in range(similarity.shape[0]):
        total += weights[n]
    return highest, total


@kernel
def content_weighting(keys, strengths, memory, key_norms, cell_norms, similarity, weights):
    """Fill similarity and weights; the norms are given."""
    for head in range(keys.shape[0]):
        similarities(keys[head], memory, key_norms[head], cell_norms, similarity[head])
        weight = weights[head]
        _, total = exponentials(strengths[head], similarity[head], weight)
        for n in range(weight.shape[0]):
            weight[n] /= total


@kernel
def look_up(keys, strengths, memory, key_norms, cell_norms, similarity, weights):
    """Fill the norms, similarity and weights."""
    norms(keys, key_norms)
    norms(memory, cell_norms)
    content_weighting(keys, strengths, memory, key_norms, cell_norms, similarity, weights)


@apart
def _pull(m0, m1, m2, m3, d0, d1, d2, d3, key, g, pull, d_key):
    """Add to the gradients d of four cells m, and to d_key, given g and pull of each cell."""
    g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
    p0, p1, p2, p3 = pull[0], pull[1], pull[2], pull[3]
    for w in range(key.shape[0]):
        d_key[w] += g0 * m0[w] + g1 * m1[w] + g2 * m2[w] + g3 * m3[w]
        d0[w] += g0 * key[w] + p0 * m0[w]
        d1[w] += g1 * key[w] + p1 * m1[w]
        d2[w] += g2 * key[w] + p2 * m2[w]
        d3[w] += g3 * key[w] + p3 * m3[w]


@kernel
def mean_gradient(weight, d_weight):
    """w.dw."""
    mean = weight.dtype.type(0)
    for n in range(weight.shape[0]):
        mean += weight[n] * d_weight[n]
    return mean


@kernel
def through_cells(
    mean, weight, d_logit, row, key, strength, memory, key_norm, cell_norms, d_key, d_memory
):
    """Add to d_memory, and to d_key all except what comes through the key's norm.

    d_logit, on entry the gradient of the weights, and row, the similarity, are overwritten; `mean`
    is w.dw over all cells. Returns the gradients of the strength and of the key's norm.
    """
    epsilon = memory.dtype.type(EPSILON)
    zero = memory.dtype.type(0)
    N = memory.shape[0]
    fours = N - N % 4
    d_strength = zero
    for n in range(N):
        d_logit[n] = weight[n] * (d_logit[n] - mean)
        d_strength += d_logit[n] * row[n]
    for n in range(N):  # d_logit becomes g
        d_logit[n] *= strength / (key_norm * cell_norms[n] + epsilon)
    d_key_norm = zero
    for n in range(N):
        d_key_norm -= d_logit[n] * row[n] * cell_norms[n]
    for n in range(N):  # row becomes the factor of each cell in its own gradient
        row[n] *= -d_logit[n] * key_norm / cell_norms[n]
    for n in range(0, fours, 4):
        _pull(
            memory[n], memory[n + 1], memory[n + 2], memory[n + 3], d_memory[n],
            d_memory[n + 1], d_memory[n + 2], d_memory[n + 3], key, d_logit[n : n + 4],
            row[n : n + 4], d_key,
        )  # fmt: skip
    for n in range(fours, N):
        cell, d_cell = memory[n], d_memory[n]
        for w in range(key.shape[0]):
            d_key[w] += d_logit[n] * cell[w]
        for w in range(key.shape[0]):
            d_cell[w] += d_logit[n] * key[w] + row[n] * cell[w]
    return d_strength, d_key_norm


@kernel
def content_weighting_backward(
    d_weights, weights, similarity, keys, strengths, memory, key_norms, cell_norms, d_keys,
    d_strengths, d_memory,
):  # fmt: skip
    """Fill d_keys and d_strengths, add to d_memory; d_weights and similarity are overwritten.

    ds = w (dw - w.dw);  dstrength = ds.D;  g = strength ds / (|k| |m| + e)
    dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m swapped
    """
    for head in range(keys.shape[0]):
        key, d_key = keys[head], d_keys[head]
        for w in range(key.shape[0]):
            d_key[w] = memory.dtype.type(0)
        d_strengths[head], d_key_norm = through_cells(
            mean_gradient(weights[head], d_weights[head]), weights[head], d_weights[head],
            similarity[head], key, strengths[head], memory, key_norms[head], cell_norms, d_key,
            d_memory,
        )  # fmt: skip
        pull = d_key_norm / key_norms[head]
        for w in range(key.shape[0]):
            d_key[w] += pull * key[w]
