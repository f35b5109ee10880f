"""The interface vector of one batch element: its parts, their activations and the gradients.

read keys (R, W) | read strengths (R) | write keys (Hw, W) | write strengths (Hw) |
erase vectors (Hw, W) | write vectors (Hw, W) | free gates (R) | allocation gates (Hw) |
write gates (Hw) | read modes (R, 1 + 2 Hw): backward[Hw], content, forward[Hw]

and perhaps, see `variant`,

read masks (R, W) | write masks (Hw, W) | forward sharpness (R, Hw) | backward sharpness (R, Hw)
"""

from __future__ import annotations

import math

from .compile import kernel
from .elementary import exp, sigmoid


@kernel
def split(vector, W, R, Hw):
    """Views of the parts of a vector, in the order above."""
    a = R * W
    b = a + R
    c = b + Hw * W
    d = c + Hw
    e = d + Hw * W
    f = e + Hw * W
    g = f + R
    h = g + Hw
    i = h + Hw
    return (
        vector[:a].reshape(R, W),
        vector[a:b],
        vector[b:c].reshape(Hw, W),
        vector[c:d],
        vector[d:e].reshape(Hw, W),
        vector[e:f].reshape(Hw, W),
        vector[f:g],
        vector[g:h],
        vector[h:i],
        vector[i : i + R * (1 + 2 * Hw)].reshape(R, 1 + 2 * Hw),
    )


@kernel
def split_masks(vector, W, R, Hw):
    """Views of the masks of read keys and of write keys, which come after the paper's parts."""
    start = R * W + R + Hw * (3 * W + 3) + R + R * (1 + 2 * Hw)
    middle = start + R * W
    return (
        vector[start:middle].reshape(R, W),
        vector[middle : middle + Hw * W].reshape(Hw, W),
    )


@kernel
def split_sharpness(vector, R, Hw):
    """Views of the sharpness of forward and of backward weightings, the last parts."""
    start = vector.shape[0] - 2 * R * Hw
    middle = start + R * Hw
    return vector[start:middle].reshape(R, Hw), vector[middle:].reshape(R, Hw)


@kernel
def _sigmoid(values):
    for index in range(values.shape[0]):
        values[index] = sigmoid(values[index])


@kernel
def oneplus(values, least):
    """least + log(1 + e^x), in place."""
    low = values.dtype.type(least)
    zero = values.dtype.type(0)
    for index in range(values.shape[0]):
        x = values[index]
        values[index] = low + max(x, zero) + math.log1p(math.exp(-abs(x)))


@kernel
def activate(vector, W, R, Hw, least, active):
    """Fill active with a raw vector after the activations of its parts; least: of strengths."""
    for index in range(vector.shape[0]):
        active[index] = vector[index]
    parts = split(active, W, R, Hw)
    oneplus(parts[1], least)
    oneplus(parts[3], least)
    for head in range(Hw):
        _sigmoid(parts[4][head])
    _sigmoid(parts[6])
    _sigmoid(parts[7])
    _sigmoid(parts[8])
    modes = parts[9]
    for r in range(R):
        row = modes[r]
        highest = row[0]
        for mode in range(1, row.shape[0]):
            highest = max(highest, row[mode])
        total = vector.dtype.type(0)
        for mode in range(row.shape[0]):
            row[mode] = exp(row[mode] - highest)
            total += row[mode]
        for mode in range(row.shape[0]):
            row[mode] /= total


@kernel
def _times_gate_slope(gradient, values):
    one = values.dtype.type(1)
    for index in range(values.shape[0]):
        gradient[index] *= values[index] * (one - values[index])


@kernel
def times_oneplus_slope(gradient, values, least):
    """From the gradient of `oneplus` to that of its argument, in place; values are its results."""
    low = values.dtype.type(least)
    for index in range(values.shape[0]):
        gradient[index] *= -math.expm1(low - values[index])


@kernel
def activate_backward(gradient, active, W, R, Hw, least):
    """Turn the gradient of the activated vector into that of the raw one, in place."""
    d = split(gradient, W, R, Hw)
    parts = split(active, W, R, Hw)
    times_oneplus_slope(d[1], parts[1], least)
    times_oneplus_slope(d[3], parts[3], least)
    for head in range(Hw):
        _times_gate_slope(d[4][head], parts[4][head])
    _times_gate_slope(d[6], parts[6])
    _times_gate_slope(d[7], parts[7])
    _times_gate_slope(d[8], parts[8])
    for r in range(R):
        row, modes = d[9][r], parts[9][r]
        mean = gradient.dtype.type(0)
        for mode in range(modes.shape[0]):
            mean += modes[mode] * row[mode]
        for mode in range(modes.shape[0]):
            row[mode] = modes[mode] * (row[mode] - mean)
