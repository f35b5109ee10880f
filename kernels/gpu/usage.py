"""Usage, and write weightings from allocation and content: some cells, all heads."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import gate


@triton.jit
def retention(
    read0, free_gates, n, N: tl.constexpr, R: tl.constexpr, RAW: tl.constexpr, DTYPE: tl.constexpr
):  # fmt: skip
    """psi = prod_r (1 - f_r wr_r) of cells n, 1 outside; RAW: free gates before their sigmoid."""
    kept = tl.full(n.shape, 1.0, DTYPE)
    for r in tl.static_range(R):
        last = tl.load(read0 + r * N + n, mask=n < N, other=0.0).to(DTYPE)
        kept *= 1.0 - gate(free_gates + r, RAW, DTYPE) * last
    return kept


@triton.jit
def updated_usage(
    usage0, write0, read0, free_gates, n,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """u_t = (u + (1 - u) (1 - prod_h (1 - ww_h))) prod_r (1 - f_r wr_r) of cells n, 0 outside.

    All pointers are to one batch element; free_gates are raw.
    """
    usage = tl.load(usage0 + n, mask=n < N, other=0.0).to(DTYPE)
    unwritten = usage * 0.0 + 1.0
    for head in tl.static_range(HW):
        unwritten *= 1.0 - tl.load(write0 + head * N + n, mask=n < N, other=0.0).to(DTYPE)
    kept = retention(read0, free_gates, n, N, R, True, DTYPE)
    return (usage + (1.0 - usage) * (1.0 - unwritten)) * kept


@triton.jit
def mixed(allocation_gate, write_gate, allocation, content):
    """ww = g_w (g_a a + (1 - g_a) c)."""
    return write_gate * (allocation_gate * allocation + (1.0 - allocation_gate) * content)
