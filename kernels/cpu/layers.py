"""One step of one controller layer for one batch element, forward and backward.

Every loop writes to only one array, because the compiler does not vectorise others. `c` are the
cell states c of an LSTM. Shapes: active, the activations of all gates, (G H); all others (H).
"""

from __future__ import annotations

from ..arrays import GRU, LSTM
from .compile import kernel
from .elementary import sigmoid, tanh


@kernel
def _sigmoid(values):
    for j in range(values.shape[0]):
        values[j] = sigmoid(values[j])


@kernel
def _tanh(values, out):
    for j in range(values.shape[0]):
        out[j] = tanh(values[j])


@kernel
def _lstm(active, c, new_c, tanh_c, hidden):
    """h = o s, s = tanh(c'), c' = f c + i g; active holds i, f, g, o."""
    H = hidden.shape[0]
    entry, forget, change = active[:H], active[H : 2 * H], active[2 * H : 3 * H]
    output = active[3 * H :]
    _sigmoid(active[: 2 * H])
    _tanh(change, change)
    _sigmoid(output)
    for j in range(H):
        new_c[j] = forget[j] * c[j] + entry[j] * change[j]
    _tanh(new_c, tanh_c)
    for j in range(H):
        hidden[j] = output[j] * tanh_c[j]


@kernel
def _lstm_backward(active, c, tanh_c, d_hidden, d_c, d_active):
    """Fill d_active; d_c is taken from step t to step t - 1."""
    one = active.dtype.type(1)
    H = d_hidden.shape[0]
    entry, forget, change = active[:H], active[H : 2 * H], active[2 * H : 3 * H]
    output = active[3 * H :]
    d_entry, d_forget, d_change = d_active[:H], d_active[H : 2 * H], d_active[2 * H : 3 * H]
    d_output = d_active[3 * H :]
    for j in range(H):
        d_c[j] += d_hidden[j] * output[j] * (one - tanh_c[j] * tanh_c[j])
    for j in range(H):
        d_entry[j] = d_c[j] * change[j] * entry[j] * (one - entry[j])
    for j in range(H):
        d_forget[j] = d_c[j] * c[j] * forget[j] * (one - forget[j])
    for j in range(H):
        d_change[j] = d_c[j] * entry[j] * (one - change[j] * change[j])
    for j in range(H):
        d_output[j] = d_hidden[j] * tanh_c[j] * output[j] * (one - output[j])
    for j in range(H):
        d_c[j] *= forget[j]


@kernel
def _gru(active, last, hidden):
    """h' = n + z (h - n), n = tanh(a + r b); active holds r, z, n, b."""
    H = hidden.shape[0]
    reset, update, new = active[:H], active[H : 2 * H], active[2 * H : 3 * H]
    hidden_new = active[3 * H :]
    _sigmoid(active[: 2 * H])
    for j in range(H):
        new[j] += reset[j] * hidden_new[j]
    _tanh(new, new)
    for j in range(H):
        hidden[j] = new[j] + update[j] * (last[j] - new[j])


@kernel
def _gru_backward(active, last, d_hidden, d_active):
    """Fill d_active; d_hidden becomes the gradient of h_{t-1} except through pre-activations."""
    one = active.dtype.type(1)
    H = d_hidden.shape[0]
    reset, update, new = active[:H], active[H : 2 * H], active[2 * H : 3 * H]
    hidden_new = active[3 * H :]
    d_reset, d_update, d_new = d_active[:H], d_active[H : 2 * H], d_active[2 * H : 3 * H]
    d_hidden_new = d_active[3 * H :]
    for j in range(H):
        d_new[j] = d_hidden[j] * (one - update[j]) * (one - new[j] * new[j])
    for j in range(H):
        d_update[j] = d_hidden[j] * (last[j] - new[j]) * update[j] * (one - update[j])
    for j in range(H):
        d_reset[j] = d_new[j] * hidden_new[j] * reset[j] * (one - reset[j])
    for j in range(H):
        d_hidden_new[j] = d_new[j] * reset[j]
    for j in range(H):
        d_hidden[j] *= update[j]


@kernel
def layer(kind, active, last, c, new_c, tanh_c, hidden):
    """Compute cell states and hidden activations from pre-activations.

    Args:
        kind: LSTM, GRU or PLAIN.
        active: pre-activations, which become activations in place.
        last: h_{t-1}; not used by an LSTM.
        c, new_c: c_{t-1} and c_t of an LSTM, not used by others.
        tanh_c: tanh(c_t), likewise.
        hidden: h_t.
    """
    if kind == LSTM:
        _lstm(active, c, new_c, tanh_c, hidden)
    elif kind == GRU:
        _gru(active, last, hidden)
    else:
        _tanh(active, hidden)


@kernel
def layer_backward(kind, active, last, c, tanh_c, hidden, d_hidden, d_c, d_active):
    """Fill d_active, the gradient of the pre-activations.

    d_hidden becomes the gradient of h_{t-1} except through the pre-activations, d_c that of
    c_{t-1}.
    """
    one = active.dtype.type(1)
    if kind == LSTM:
        _lstm_backward(active, c, tanh_c, d_hidden, d_c, d_active)
    elif kind == GRU:
        _gru_backward(active, last, d_hidden, d_active)
    else:
        for j in range(d_hidden.shape[0]):
            d_active[j] = d_hidden[j] * (one - hidden[j] * hidden[j])
    if kind != GRU:
        for j in range(d_hidden.shape[0]):
            d_hidden[j] = active.dtype.type(0)
