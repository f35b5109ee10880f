"""Offsets of the parts of an interface vector from its start.

read keys (R, W) | read strengths (R) | write keys (Hw, W) | write strengths (Hw) |
erase vectors (Hw, W) | write vectors (Hw, W) | free gates (R) | allocation gates (Hw) |
write gates (Hw) | read modes (R, 1 + 2 Hw): backward[Hw], content, forward[Hw]

and of variants, see `interface_shapes`: read masks (R, W) | write masks (Hw, W) |
forward sharpness (R, Hw) | backward sharpness (R, Hw)
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def read_strengths(W: tl.constexpr, R: tl.constexpr):
    return R * W


@triton.jit
def write_keys(W: tl.constexpr, R: tl.constexpr):
    return R * W + R


@triton.jit
def write_strengths(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + R + HW * W


@triton.jit
def erase_vectors(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + R + HW * (W + 1)


@triton.jit
def write_vectors(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + R + HW * (2 * W + 1)


@triton.jit
def free_gates(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + R + HW * (3 * W + 1)


@triton.jit
def allocation_gates(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + 2 * R + HW * (3 * W + 1)


@triton.jit
def write_gates(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + 2 * R + HW * (3 * W + 2)


@triton.jit
def read_modes(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + 2 * R + HW * (3 * W + 3)


@triton.jit
def read_masks(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return R * W + 3 * R + HW * (3 * W + 3 + 2 * R)


@triton.jit
def write_masks(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return 2 * R * W + 3 * R + HW * (3 * W + 3 + 2 * R)


@triton.jit
def sharpness(W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, MASKED: tl.constexpr):
    """Forward first, then backward."""
    return R * W + 3 * R + HW * (3 * W + 3 + 2 * R) + (R + HW) * W * MASKED


@triton.jit
def load_modes(
    vector,
    W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BR: tl.constexpr, BMODES: tl.constexpr,
    DTYPE: tl.constexpr,
):  # fmt: skip
    """The read modes (BR, BMODES) after their softmax, 0 outside."""
    r, m = tl.arange(0, BR)[:, None], tl.arange(0, BMODES)[None, :]
    count: tl.constexpr = 1 + 2 * HW
    start = vector + read_modes(W, R, HW)
    raw = tl.load(start + r * count + m, mask=(r < R) & (m < count), other=0.0).to(DTYPE)
    raw = tl.where(m < count, raw, -float("inf"))
    weights = tl.exp(raw - tl.max(raw, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    return tl.where((r < R) & (m < count), weights, 0.0)
