"""Usage, and write weightings from allocation and content: some cells, all heads."""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import gate, gate_slope, put_row


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
    kept = usage * 0.0 + 1.0
    for r in tl.static_range(R):
        last = tl.load(read0 + r * N + n, mask=n < N, other=0.0).to(DTYPE)
        kept *= 1.0 - gate(free_gates + r, True, DTYPE) * last
    return (usage + (1.0 - usage) * (1.0 - unwritten)) * kept


@triton.jit
def usage_backward(
    d_usage, usage0, write0, read0, free_gates, d_usage0, d_write0, d_free_gates, n,
    N: tl.constexpr, R: tl.constexpr, HW: tl.constexpr, BR: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through `updated_usage`.

    Fills d_usage0 and d_write0, and stores what cells n add to the gradient of the raw free gates.
    The product of the other heads' factors is multiplied out, not divided, since a factor may be 0.

    Returns:
        gradient of the read weightings (BR, n).
    """
    d_read = tl.zeros([BR, n.shape[0]], DTYPE)
    usage = tl.load(usage0 + n, mask=n < N, other=0.0).to(DTYPE)
    unwritten = usage * 0.0 + 1.0
    for head in tl.static_range(HW):
        unwritten *= 1.0 - tl.load(write0 + head * N + n, mask=n < N, other=0.0).to(DTYPE)
    filled = usage + (1.0 - usage) * (1.0 - unwritten)
    kept = usage * 0.0 + 1.0
    for r in tl.static_range(R):
        others = d_usage * filled
        for other in tl.static_range(R):
            if other != r:
                weight = tl.load(read0 + other * N + n, mask=n < N, other=0.0).to(DTYPE)
                others *= 1.0 - gate(free_gates + other, True, DTYPE) * weight
        free = gate(free_gates + r, True, DTYPE)
        last = tl.load(read0 + r * N + n, mask=n < N, other=0.0).to(DTYPE)
        kept *= 1.0 - free * last
        tl.store(d_free_gates + r, -gate_slope(free, True) * tl.sum(others * last, 0))
        d_read = put_row(d_read, r, -others * free, BR)
    d_filled = d_usage * kept
    tl.store(d_usage0 + n, d_filled * unwritten, mask=n < N)
    for head in tl.static_range(HW):
        others = d_filled * (1.0 - usage)
        for other in tl.static_range(HW):
            if other != head:
                weight = tl.load(write0 + other * N + n, mask=n < N, other=0.0).to(DTYPE)
                others *= 1.0 - weight
        tl.store(d_write0 + head * N + n, others, mask=n < N)
    return d_read


@triton.jit
def mixed(allocation_gate, write_gate, allocation, content):
    """ww = g_w (g_a a + (1 - g_a) c)."""
    return write_gate * (allocation_gate * allocation + (1.0 - allocation_gate) * content)
