"""Where the parts lie that the kernels of a small step keep, or store for each other.

Per batch element, with N cells, R read heads, Hw write heads, M = 1 + 2 Hw read modes, S strips:

    kept      of the read keys: content weightings (R, N) | similarities (R, N)
              of the write keys: content weightings (Hw, N) | similarities (Hw, N)
              products of allocation (Hw, N) | lengths of the cells, before and after (2, N)*
              read modes (M, R) | free gates (R) | strengths (R) | lengths of the keys (R)*
              allocation gates (Hw) | write gates (Hw) | strengths (Hw) | lengths of the keys (Hw)*
              (* not filled if keys are not compared with cells as in the paper)
              with sharpness: forward and backward weightings, before it and after (2, 2, Hw, R, N)
    forward   cells after the write times read keys (R, N)
              link matrices times last read weightings (Hw, R, N)
              the strips' parts of the transposed ones times those (S, Hw, R, N)
    backward  gradients of the read weightings (R, N)
              of the write weightings: through the cells (Hw, N), through the link matrices (Hw, N)
              link matrices times gradients of the read weightings (Hw, R, N)
              the strips' parts of sums over rows (S, Hw, R + 2, N), see `link_strip`
              the strips' parts of sums over cells (S, C, W), C = R + 2 Hw, with masks R more, see
              `cells_strip`
              with de-allocation: gradients of the retention, through the memory (N)
"""

from __future__ import annotations

import triton
import triton.language as tl

from .variant import Variant


def kept_size(N: int, R: int, Hw: int, variant: Variant) -> int:
    """How many numbers a step keeps for its backward pass, for each batch element."""
    linked = 4 * Hw * R * N if variant.sharp else 0
    return (2 * R + 3 * Hw + 2) * N + (4 + 2 * Hw) * R + 4 * Hw + linked


def forward_size(N: int, R: int, Hw: int, strips: int) -> int:
    """How many numbers the launches of the forward pass store for each other."""
    return (R + (1 + strips) * Hw * R) * N


def columns(R: int, Hw: int, variant: Variant) -> int:
    """How many sums over its cells a strip stores: C."""
    return R * (2 if variant.masked else 1) + 2 * Hw


def backward_size(N: int, W: int, R: int, Hw: int, strips: int, variant: Variant) -> int:
    """How many numbers the launches of the backward pass store for each other."""
    rows = R + 2 * Hw + Hw * R + variant.deallocate
    return rows * N + strips * (Hw * (R + 2) * N + columns(R, Hw, variant) * W)


@triton.jit
def kept_similarities(N: tl.constexpr, R: tl.constexpr):
    return R * N


@triton.jit
def kept_write_content(N: tl.constexpr, R: tl.constexpr):
    return 2 * R * N


@triton.jit
def kept_write_similarities(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + HW) * N


@triton.jit
def kept_products(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 2 * HW) * N


@triton.jit
def kept_lengths_before(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW) * N


@triton.jit
def kept_lengths_after(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 1) * N


@triton.jit
def kept_modes(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N


@triton.jit
def kept_free_gates(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (1 + 2 * HW) * R


@triton.jit
def kept_strengths(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (2 + 2 * HW) * R


@triton.jit
def kept_key_lengths(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (3 + 2 * HW) * R


@triton.jit
def kept_allocation_gates(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (4 + 2 * HW) * R


@triton.jit
def kept_write_gates(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (4 + 2 * HW) * R + HW


@triton.jit
def kept_write_strengths(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (4 + 2 * HW) * R + 2 * HW


@triton.jit
def kept_write_key_lengths(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (4 + 2 * HW) * R + 3 * HW


@triton.jit
def kept_linked(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (2 * R + 3 * HW + 2) * N + (4 + 2 * HW) * R + 4 * HW


@triton.jit
def forward_ahead(N: tl.constexpr, R: tl.constexpr):
    return R * N


@triton.jit
def forward_behind(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (1 + HW) * R * N


@triton.jit
def backward_written(N: tl.constexpr, R: tl.constexpr):
    return R * N


@triton.jit
def backward_linked(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (R + 2 * HW) * N


@triton.jit
def backward_rows(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr):
    return (R + 2 * HW + HW * R) * N


@triton.jit
def backward_cells(N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, S: tl.constexpr):
    return (R + 2 * HW + HW * R + S * HW * (R + 2)) * N


@triton.jit
def backward_retention(
    N: tl.constexpr, W: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, S: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    return (R + 2 * HW + HW * R + S * HW * (R + 2)) * N + S * COLUMNS * W


@triton.jit
def load(pointers, mask, FULL: tl.constexpr, DTYPE: tl.constexpr):
    """Load numbers, 0 outside; FULL: the mask is true everywhere, and need not be formed."""
    if FULL:
        found = tl.load(pointers)
    else:
        found = tl.load(pointers, mask=mask, other=0.0)
    return found.to(DTYPE)


@triton.jit
def store(pointers, numbers, mask, FULL: tl.constexpr):
    """Store numbers where the mask is true; FULL as in `load`."""
    if FULL:
        tl.store(pointers, numbers)
    else:
        tl.store(pointers, numbers, mask=mask)
