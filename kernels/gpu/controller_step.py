"""A step of a controller's layers and of the interface layer, in four kernels.

| kernel                | from                                  | to                               |
|-----------------------|---------------------------------------|----------------------------------|
| gates_kernel          | r_{t-1}, h_t of the layer below,      | h_t, and what its gradient needs |
|                       | h_{t-1}: pre-activations              |                                  |
| interface_kernel      | h_t of all layers                     | the interface vector             |
| units_backward_kernel | its gradient, those of h_t from       | gradient of the pre-activations  |
|                       | elsewhere                             |                                  |
| gates_backward_kernel | gradient of the pre-activations       | those of r_{t-1}, h_t of the     |
|                       |                                       | layer below, h_{t-1}             |

Each is a product with a weight matrix (see `product`) and what is elementwise (see `cells`). A
program finds a tile of MB rows (batch elements) and N numbers, or U hidden units with all their
gates. Every tensor has its own row stride; columns are contiguous. What is elementwise is loaded
before the product, so that both are on their way at the same time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .arithmetic import tanh
from .cells import (
    GRU,
    LSTM,
    PLAIN,
    clipped,
    gru,
    gru_backward,
    load_four,
    lstm,
    lstm_backward,
    store_four,
)
from .launch import row_and_tile
from .product import add_rows_times_columns, add_rows_times_lines, empty_sum, whole_sum


@triton.jit
def four_gates(found, MB: tl.constexpr, U: tl.constexpr):
    """The four gates, each (MB, U), of (MB, 4 U) with those of a unit side by side."""
    even, odd = tl.split(tl.reshape(found, (MB, U, 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


@triton.jit
def store_four_at_once(
    place, first, second, third, fourth, H: tl.constexpr, mask, MB: tl.constexpr, U: tl.constexpr
):
    """`store_four` in one store, before which numbers change threads once instead of four times."""
    four = tl.join(tl.join(first, third), tl.join(second, fourth))
    part = 2 * tl.arange(0, 2)[:, None] + tl.arange(0, 2)[None, :]
    places = place[:, :, None, None] + (part * H)[None, None, :, :]
    tl.store(places, four, mask=tl.broadcast_to(mask[:, :, None, None], (MB, U, 2, 2)))


@triton.jit
def gates_kernel(
    reads, below, hidden0, weight, x_part, before, active, c, tanh_c, hidden,
    reads_stride, below_stride, hidden0_stride, weight_stride, x_part_stride, before_stride,
    active_stride, c_stride, tanh_c_stride, hidden_stride, rows,
    RW: tl.constexpr, BELOW: tl.constexpr, OWN: tl.constexpr, H: tl.constexpr, KIND: tl.constexpr,
    MIXED: tl.constexpr, U: tl.constexpr, MB: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr,
    HOW: tl.constexpr, DTYPE: tl.constexpr, C_CLIP: tl.constexpr,
):  # fmt: skip
    """U hidden units of MB rows of a layer that sees [reads below hidden0]; see `controller.gates`.

    MIXED: reads have another dtype than hidden activations.
    """
    GATES: tl.constexpr = 1 if KIND == PLAIN else 4
    N: tl.constexpr = GATES * U
    block, tile = row_and_tile((H + U - 1) // U)
    row0 = block * MB
    row = row0 + tl.arange(0, MB)
    n = tl.arange(0, N)
    line_unit = tile * U + n // GATES
    line = (n % GATES) * H + line_unit
    unit = tile * U + tl.arange(0, U)
    mask = (row < rows)[:, None] & (unit < H)[None, :]
    x_place = x_part + row[:, None] * x_part_stride + unit[None, :]
    if KIND == PLAIN:
        x = tl.load(x_place, mask=mask, other=0.0).to(DTYPE)
    else:  # long before they are needed
        x_first, x_second, x_third, x_fourth = load_four(x_place, H, mask, DTYPE)
        place = before + row[:, None] * before_stride + unit[None, :]
        state = tl.load(place, mask=mask, other=0.0).to(DTYPE)
    found = empty_sum(MB, N, KS, BK, HOW, DTYPE)
    if MIXED:
        found = add_rows_times_lines(
            found, reads, reads, reads, reads_stride, reads_stride, reads_stride, row0, rows,
            weight, weight_stride, line, line_unit < H, RW, 0, 0, MB, KS, BK, HOW, DTYPE,
        )  # fmt: skip
        found = add_rows_times_lines(
            found, below, hidden0, hidden0, below_stride, hidden0_stride, hidden0_stride, row0,
            rows, weight + RW, weight_stride, line, line_unit < H, BELOW, OWN, 0,
            MB, KS, BK, HOW, DTYPE,
        )  # fmt: skip
    else:
        found = add_rows_times_lines(
            found, reads, below, hidden0, reads_stride, below_stride, hidden0_stride, row0, rows,
            weight, weight_stride, line, line_unit < H, RW, BELOW, OWN, MB, KS, BK, HOW, DTYPE,
        )  # fmt: skip
    sums = whole_sum(found, HOW)
    hidden += row[:, None] * hidden_stride + unit[None, :]
    if KIND == PLAIN:
        tl.store(hidden, tanh(sums + x), mask=mask)
    else:
        first, second, third, fourth = four_gates(sums, MB, U)
        first, second, third, fourth = (
            first + x_first, second + x_second, third + x_third, fourth + x_fourth
        )  # fmt: skip
        if KIND == LSTM:
            first, second, third, fourth, cells, squashed = lstm(
                first, second, third, fourth, state
            )
            tl.store(c + row[:, None] * c_stride + unit[None, :], clipped(cells, C_CLIP), mask=mask)
            tl.store(tanh_c + row[:, None] * tanh_c_stride + unit[None, :], squashed, mask=mask)
            tl.store(hidden, fourth * squashed, mask=mask)
        else:
            first, second, third, new_hidden = gru(first, second, third, fourth, state)
            tl.store(hidden, new_hidden, mask=mask)
        place = active + row[:, None] * active_stride + unit[None, :]
        store_four(place, first, second, third, fourth, H, mask)


@triton.jit
def interface_kernel(
    hidden, weight, bias, vectors, hidden_stride, weight_stride, vectors_stride, rows,
    K: tl.constexpr, S: tl.constexpr, BIAS: tl.constexpr, N: tl.constexpr, MB: tl.constexpr,
    KS: tl.constexpr, BK: tl.constexpr, HOW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """N numbers of the interface vectors (S) of MB rows; see `controller.interface`."""
    block, tile = row_and_tile((S + N - 1) // N)
    row0 = block * MB
    row = row0 + tl.arange(0, MB)
    n = tile * N + tl.arange(0, N)
    if BIAS:
        own = tl.load(bias + n, mask=n < S, other=0.0).to(DTYPE)
    found = empty_sum(MB, N, KS, BK, HOW, DTYPE)
    found = add_rows_times_lines(
        found, hidden, hidden, hidden, hidden_stride, hidden_stride, hidden_stride, row0, rows,
        weight, weight_stride, n, n < S, K, 0, 0, MB, KS, BK, HOW, DTYPE,
    )  # fmt: skip
    sums = whole_sum(found, HOW)
    if BIAS:
        sums += own[None, :]
    place = vectors + row[:, None] * vectors_stride + n[None, :]
    tl.store(place, sums, mask=(row < rows)[:, None] & (n < S)[None, :])


@triton.jit
def units_backward_kernel(
    d_vectors, weight, d_hidden, d_last, d_c, d_active, before, active, tanh_c, hidden,
    d_vectors_stride, weight_stride, d_hidden_stride, d_last_stride, d_c_stride, d_active_stride,
    before_stride, active_stride, tanh_c_stride, hidden_stride, rows,
    S: tl.constexpr, OWN: tl.constexpr, H: tl.constexpr, KIND: tl.constexpr, CLIP: tl.constexpr,
    U: tl.constexpr, MB: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr,
    HOW: tl.constexpr, DTYPE: tl.constexpr, C_CLIP: tl.constexpr,
):  # fmt: skip
    """U hidden units of MB rows; see `controller.units_backward`."""
    block, tile = row_and_tile((H + U - 1) // U)
    row0 = block * MB
    row = row0 + tl.arange(0, MB)
    unit = tile * U + tl.arange(0, U)
    mask = (row < rows)[:, None] & (unit < H)[None, :]
    place = d_hidden + row[:, None] * d_hidden_stride + unit[None, :]
    d_h = tl.load(place, mask=mask, other=0.0).to(DTYPE)
    last_place = d_last + row[:, None] * d_last_stride + unit[None, :]
    if OWN > 0:
        d_h += tl.load(last_place, mask=mask, other=0.0).to(DTYPE)
    if KIND == PLAIN:
        place = hidden + row[:, None] * hidden_stride + unit[None, :]
        h = tl.load(place, mask=mask, other=0.0).to(DTYPE)
    else:
        place = active + row[:, None] * active_stride + unit[None, :]
        first, second, third, fourth = load_four(place, H, mask, DTYPE)
        place = before + row[:, None] * before_stride + unit[None, :]
        state = tl.load(place, mask=mask, other=0.0).to(DTYPE)
    if KIND == LSTM:
        place = tanh_c + row[:, None] * tanh_c_stride + unit[None, :]
        squashed = tl.load(place, mask=mask, other=0.0).to(DTYPE)
        c_place = d_c + row[:, None] * d_c_stride + unit[None, :]
        d_cells = clipped(tl.load(c_place, mask=mask, other=0.0).to(DTYPE), CLIP)
        if C_CLIP is not None:  # c as it was before it was clipped
            d_cells = tl.where(tl.abs(second * state + first * third) > C_CLIP, 0.0, d_cells)
    found = empty_sum(MB, U, KS, BK, HOW, DTYPE)
    found = add_rows_times_columns(
        found, d_vectors, d_vectors_stride, row0, rows, weight, weight_stride, unit, unit < H,
        S, MB, KS, BK, HOW, DTYPE,
    )  # fmt: skip
    d_h = clipped(d_h + whole_sum(found, HOW), CLIP)
    tl.debug_barrier()  # all threads have loaded what changes in place
    d_place = d_active + row[:, None] * d_active_stride + unit[None, :]
    if KIND == PLAIN:
        tl.store(d_place, d_h * (1.0 - h * h), mask=mask)
    else:
        if KIND == LSTM:
            d_first, d_second, d_third, d_fourth, d_state = lstm_backward(
                first, second, third, fourth, squashed, state, d_h, d_cells
            )
            tl.store(c_place, d_state, mask=mask)
        else:
            d_first, d_second, d_third, d_fourth, d_state = gru_backward(
                first, second, third, fourth, state, d_h
            )
            tl.store(last_place, d_state, mask=mask)
        store_four_at_once(d_place, d_first, d_second, d_third, d_fourth, H, mask, MB, U)


@triton.jit
def gates_backward_kernel(
    d_active, weight, d_reads, d_below, kept_below, d_last,
    d_active_stride, weight_stride, d_reads_stride, d_below_stride, kept_below_stride,
    d_last_stride, rows,
    RW: tl.constexpr, BELOW: tl.constexpr, OWN: tl.constexpr, H: tl.constexpr, KIND: tl.constexpr,
    DROPS: tl.constexpr, N: tl.constexpr, MB: tl.constexpr, KS: tl.constexpr, BK: tl.constexpr,
    HOW: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """N of what a layer saw, [reads below hidden0], of MB rows; see `controller.gates_backward`."""
    GATES: tl.constexpr = 1 if KIND == PLAIN else 4
    SEEN: tl.constexpr = RW + BELOW + OWN
    block, tile = row_and_tile((SEEN + N - 1) // N)
    row0 = block * MB
    row = row0 + tl.arange(0, MB)
    n = tile * N + tl.arange(0, N)
    in_rows = (row < rows)[:, None]
    in_reads = in_rows & (n < RW)[None, :]
    in_below = in_rows & ((n >= RW) & (n < RW + BELOW))[None, :]
    in_own = in_rows & ((n >= RW + BELOW) & (n < SEEN))[None, :]
    reads_place = d_reads + row[:, None] * d_reads_stride + n[None, :]
    below_place = d_below + row[:, None] * d_below_stride + (n - RW)[None, :]
    last_place = d_last + row[:, None] * d_last_stride + (n - RW - BELOW)[None, :]
    there = tl.load(reads_place, mask=in_reads, other=0.0).to(DTYPE)
    if BELOW > 0:
        there += tl.load(below_place, mask=in_below, other=0.0).to(DTYPE)
    if DROPS:
        place = kept_below + row[:, None] * kept_below_stride + (n - RW)[None, :]
        kept = tl.load(place, mask=in_below, other=1.0).to(DTYPE)
    if KIND == GRU:  # what bypasses the gates
        there += tl.load(last_place, mask=in_own, other=0.0).to(DTYPE)
    found = empty_sum(MB, N, KS, BK, HOW, DTYPE)
    found = add_rows_times_columns(
        found, d_active, d_active_stride, row0, rows, weight, weight_stride, n, n < SEEN,
        GATES * H, MB, KS, BK, HOW, DTYPE,
    )  # fmt: skip
    sums = whole_sum(found, HOW)
    if DROPS:
        sums *= kept
    sums += there
    tl.debug_barrier()  # all threads have loaded what changes in place
    tl.store(reads_place, sums, mask=in_reads)
    if BELOW > 0:
        tl.store(below_place, sums, mask=in_below)
    if OWN > 0:
        tl.store(last_place, sums, mask=in_own)
