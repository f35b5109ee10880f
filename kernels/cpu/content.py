"""Content weighting of one batch element, all heads of a kind together.

    D = k.m / (|k| |m| + e), |x| = sqrt(x.x + e), e = 1e-6;  w = softmax over cells of strength D

Shapes: keys (heads, W), strengths (heads), memory (N, W), cell_norms (N), similarity and weights
(heads, N). For the backward pass nothing is saved but what the caller has anyway.
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
def content_weighting(keys, strengths, memory, key_norms, cell_norms, similarity, weights):
    """Fill similarity and weights; the norms are given."""
    epsilon = memory.dtype.type(EPSILON)
    N = memory.shape[0]
    fours = N - N % 4
    for head in range(keys.shape[0]):
        key, row, weight = keys[head], similarity[head], weights[head]
        for n in range(0, fours, 4):
            m0, m1, m2, m3 = memory[n], memory[n + 1], memory[n + 2], memory[n + 3]
            t0 = t1 = t2 = t3 = memory.dtype.type(0)
            for w in range(key.shape[0]):
                t0 += key[w] * m0[w]
                t1 += key[w] * m1[w]
                t2 += key[w] * m2[w]
                t3 += key[w] * m3[w]
            row[n], row[n + 1], row[n + 2], row[n + 3] = t0, t1, t2, t3
        for n in range(fours, N):
            cell = memory[n]
            total = memory.dtype.type(0)
            for w in range(key.shape[0]):
                total += key[w] * cell[w]
            row[n] = total
        for n in range(N):
            row[n] /= key_norms[head] * cell_norms[n] + epsilon
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


@apart
def _pull(m0, m1, m2, m3, d0, d1, d2, d3, key, g, pull, d_key):
    """To the gradients d of four cells m, and of the key, what g and pull of each cell add."""
    g0, g1, g2, g3 = g[0], g[1], g[2], g[3]
    p0, p1, p2, p3 = pull[0], pull[1], pull[2], pull[3]
    for w in range(key.shape[0]):
        d_key[w] += g0 * m0[w] + g1 * m1[w] + g2 * m2[w] + g3 * m3[w]
        d0[w] += g0 * key[w] + p0 * m0[w]
        d1[w] += g1 * key[w] + p1 * m1[w]
        d2[w] += g2 * key[w] + p2 * m2[w]
        d3[w] += g3 * key[w] + p3 * m3[w]


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
    """Fill d_keys and d_strengths, add to d_memory; d_weights and similarity are used up.

    ds = w (dw - w.dw);  dstrength = ds.D;  g = strength ds / (|k| |m| + e)
    dk = sum_n g m - (sum_n g D |m|) k / |k|;  dm likewise with k and m exchanged
    """
    epsilon = memory.dtype.type(EPSILON)
    zero = memory.dtype.type(0)
    N = memory.shape[0]
    fours = N - N % 4
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
        for w in range(key.shape[0]):
            d_key[w] = zero
        for n in range(N):  # g takes the place of the logits' gradient
            d_logit[n] *= strengths[head] / (key_norms[head] * cell_norms[n] + epsilon)
        d_key_norm = zero
        for n in range(N):
            d_key_norm -= d_logit[n] * row[n] * cell_norms[n]
        for n in range(N):  # and the pull towards the cell that of its similarity
            row[n] *= -d_logit[n] * key_norms[head] / cell_norms[n]
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
        pull = d_key_norm / key_norms[head]
        for w in range(key.shape[0]):
            d_key[w] += pull * key[w]
