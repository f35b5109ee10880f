"""The elementwise part of a controller layer's step, by kind, and its gradient.

| kind  | pre-activations | what is kept as `active`         | state           |
|-------|-----------------|----------------------------------|-----------------|
| LSTM  | 4 H             | i, f, g, o                       | h and c         |
| GRU   | 4 H             | r, z, n, and b, what n sees of h | h               |
| PLAIN | H               | nothing                          | h, or none      |
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import arrays
from .arithmetic import tanh

LSTM, GRU, PLAIN = (tl.constexpr(kind) for kind in (arrays.LSTM, arrays.GRU, arrays.PLAIN))


@triton.jit
def clipped(value, CLIP: tl.constexpr):
    """The value clipped to [-CLIP, CLIP] unless CLIP is None; NaN stays NaN."""
    if CLIP is not None:
        value = tl.where(value > CLIP, CLIP, tl.where(value < -CLIP, -CLIP, value))
    return value


@triton.jit
def lstm(entry, forget, change, output, before):
    """c = f c_{t-1} + i g, with i, f, o = sigmoid(a) and g = tanh(a).

    Returns:
        i, f, g, o, c, tanh(c).
    """
    entry, forget, output = tl.sigmoid(entry), tl.sigmoid(forget), tl.sigmoid(output)
    change = tanh(change)
    c = forget * before + entry * change
    return entry, forget, change, output, c, tanh(c)


@triton.jit
def lstm_backward(entry, forget, change, output, tanh_c, before, d_hidden, d_c):
    """From the gradients of h = o tanh(c) and of c, clipped before.

    Returns:
        gradients of the four pre-activations and of c_{t-1}.
    """
    d_c += d_hidden * output * (1.0 - tanh_c * tanh_c)
    d_entry = d_c * change * (entry * (1.0 - entry))
    d_forget = d_c * before * (forget * (1.0 - forget))
    d_change = d_c * entry * (1.0 - change * change)
    d_output = d_hidden * tanh_c * (output * (1.0 - output))
    return d_entry, d_forget, d_change, d_output, d_c * forget


@triton.jit
def gru(reset, update, new, hidden_new, before):
    """h = n + z (h_{t-1} - n), with r, z = sigmoid(a) and n = tanh(a + r b).

    Returns:
        r, z, n, h.
    """
    reset, update = tl.sigmoid(reset), tl.sigmoid(update)
    new = tanh(new + reset * hidden_new)
    return reset, update, new, new + update * (before - new)


@triton.jit
def gru_backward(reset, update, new, hidden_new, before, d_hidden):
    """From the gradient of h, clipped before.

    Returns:
        gradients of the four pre-activations, and that of h_{t-1} beside them.
    """
    d_new = d_hidden * (1.0 - update) * (1.0 - new * new)
    d_update = d_hidden * (before - new) * (update * (1.0 - update))
    d_reset = d_new * hidden_new * (reset * (1.0 - reset))
    return d_reset, d_update, d_new, d_new * reset, d_hidden * update


@triton.jit
def load_four(place, H: tl.constexpr, mask, DTYPE: tl.constexpr):
    """Numbers of each of four parts of H."""
    return (
        tl.load(place, mask=mask, other=0.0).to(DTYPE),
        tl.load(place + H, mask=mask, other=0.0).to(DTYPE),
        tl.load(place + 2 * H, mask=mask, other=0.0).to(DTYPE),
        tl.load(place + 3 * H, mask=mask, other=0.0).to(DTYPE),
    )


@triton.jit
def store_four(place, first, second, third, fourth, H: tl.constexpr, mask):
    """Store numbers of each of four parts of H."""
    tl.store(place, first, mask=mask)
    tl.store(place + H, second, mask=mask)
    tl.store(place + 2 * H, third, mask=mask)
    tl.store(place + 3 * H, fourth, mask=mask)
