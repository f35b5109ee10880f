"""The gates of an LSTM layer, backward, for a whole batch in one pass."""

from __future__ import annotations

from .compile import kernel


@kernel
def lstm_backward(active, seen, cells, d_hidden, d_cells, d_active):
    """Fill d_active (b, 4 H); d_cells (b, H) goes from step t to step t - 1.

    h = o s, s = tanh(c) (seen), c = f c_{t-1} + i g; active (b, 4 H) holds i, f, g, o, and cells
    (b, H) c_{t-1}.
    """
    one = active.dtype.type(1)
    B, H = seen.shape
    for b in range(B):
        for j in range(H):
            entry, forget = active[b, j], active[b, H + j]
            change, output = active[b, 2 * H + j], active[b, 3 * H + j]
            d_h, s = d_hidden[b, j], seen[b, j]
            d_c = d_cells[b, j] + d_h * output * (one - s * s)
            d_active[b, j] = d_c * change * entry * (one - entry)
            d_active[b, H + j] = d_c * cells[b, j] * forget * (one - forget)
            d_active[b, 2 * H + j] = d_c * entry * (one - change * change)
            d_active[b, 3 * H + j] = d_h * s * output * (one - output)
            d_cells[b, j] = d_c * forget
