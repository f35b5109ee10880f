"""The elementwise part of an LSTM step: gates, cell states and hidden activations.

    c = f c_{t-1} + i g,  h = o tanh(c),  with i, f, o = sigmoid(a) and g = tanh(a)

The pre-activations a (b, 4 H) hold four parts in the order i, f, g, o of nn.LSTMCell. "Cells" are
the cell states c here. Every tensor has its own row stride; columns are contiguous. A program takes
UNITS hidden units of one batch element. Each number belongs to one thread, so tensors can change in
place without barriers.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from . import launch
from .arithmetic import tanh


@triton.jit
def load_part(row, part: tl.constexpr, unit, H: tl.constexpr, DTYPE: tl.constexpr):
    """Some units of one of the four parts of a batch element."""
    return tl.load(row + part * H + unit, mask=unit < H, other=0.0).to(DTYPE)


@triton.jit
def pre_activation(product, x_part, part: tl.constexpr, unit, H: tl.constexpr, DTYPE: tl.constexpr):
    """The pre-activations of some units of one of the four parts."""
    return load_part(product, part, unit, H, DTYPE) + load_part(x_part, part, unit, H, DTYPE)


@triton.jit
def store_parts(row, entry, forget, change, output, unit, H: tl.constexpr):
    """Store some units of all four parts of a batch element."""
    tl.store(row + unit, entry, mask=unit < H)
    tl.store(row + H + unit, forget, mask=unit < H)
    tl.store(row + 2 * H + unit, change, mask=unit < H)
    tl.store(row + 3 * H + unit, output, mask=unit < H)


@triton.jit
def clipped(value, CLIP: tl.constexpr):
    """The value clipped to [-CLIP, CLIP] unless CLIP is None; NaN stays NaN."""
    if CLIP is not None:
        value = tl.where(value > CLIP, CLIP, tl.where(value < -CLIP, -CLIP, value))
    return value


@triton.jit
def forward_kernel(
    product, x_part, c0, active, c1, tanh_c, hidden, product_stride, x_part_stride,
    c0_stride, active_stride, c1_stride, tanh_c_stride, hidden_stride,
    H: tl.constexpr, UNITS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Some units of a batch element; arrays as in `forward`."""
    b = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    product += b * product_stride
    x_part += b * x_part_stride
    entry = tl.sigmoid(pre_activation(product, x_part, 0, unit, H, DTYPE))
    forget = tl.sigmoid(pre_activation(product, x_part, 1, unit, H, DTYPE))
    change = tanh(pre_activation(product, x_part, 2, unit, H, DTYPE))
    output = tl.sigmoid(pre_activation(product, x_part, 3, unit, H, DTYPE))
    before = load_part(c0 + b * c0_stride, 0, unit, H, DTYPE)
    c = forget * before + entry * change
    tanh_c_t = tanh(c)
    store_parts(active + b * active_stride, entry, forget, change, output, unit, H)
    tl.store(c1 + b * c1_stride + unit, c, mask=unit < H)
    tl.store(tanh_c + b * tanh_c_stride + unit, tanh_c_t, mask=unit < H)
    tl.store(hidden + b * hidden_stride + unit, output * tanh_c_t, mask=unit < H)


@triton.jit
def backward_kernel(
    active, tanh_c, c0, d_output, d_last, d_c, d_active, active_stride, tanh_c_stride,
    c0_stride, d_output_stride, d_last_stride, d_c_stride, d_active_stride,
    H: tl.constexpr, UNITS: tl.constexpr, CLIP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through some units of a batch element; arrays as in `backward`."""
    b = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    active += b * active_stride
    d_c += b * d_c_stride
    entry = load_part(active, 0, unit, H, DTYPE)
    forget = load_part(active, 1, unit, H, DTYPE)
    change = load_part(active, 2, unit, H, DTYPE)
    output = load_part(active, 3, unit, H, DTYPE)
    tanh_c_t = load_part(tanh_c + b * tanh_c_stride, 0, unit, H, DTYPE)
    before = load_part(c0 + b * c0_stride, 0, unit, H, DTYPE)
    d_hidden = load_part(d_output + b * d_output_stride, 0, unit, H, DTYPE)
    d_hidden = clipped(d_hidden + load_part(d_last + b * d_last_stride, 0, unit, H, DTYPE), CLIP)
    d_new = clipped(load_part(d_c, 0, unit, H, DTYPE), CLIP)
    d_new += d_hidden * output * (1.0 - tanh_c_t * tanh_c_t)
    store_parts(
        d_active + b * d_active_stride, d_new * change * (entry * (1.0 - entry)),
        d_new * before * (forget * (1.0 - forget)), d_new * entry * (1.0 - change * change),
        d_hidden * tanh_c_t * (output * (1.0 - output)), unit, H,
    )  # fmt: skip
    tl.store(d_c + unit, d_new * forget, mask=unit < H)


def forward(
    product: Tensor,
    x_part: Tensor,
    c0: Tensor,
    active: Tensor,
    c1: Tensor,
    tanh_c: Tensor,
    hidden: Tensor,
) -> None:
    """Fill active, c1, tanh_c and hidden; each may have a dtype of its own.

    Args:
        product, x_part: (b, 4 H), their sum is the pre-activations; any float dtypes.
        c0: (b, H), c_{t-1}; everything is computed in float64 if this is, otherwise float32.
        active: (b, 4 H), i, f, g, o.
        c1: (b, H), c.
        tanh_c: (b, H), tanh(c).
        hidden: (b, H), h.
    """
    _launch(forward_kernel, (product, x_part, c0, active, c1, tanh_c, hidden), c0)


def backward(
    active: Tensor,
    tanh_c: Tensor,
    c0: Tensor,
    d_output: Tensor,
    d_last: Tensor,
    clip: float | None,
    d_c: Tensor,
    d_active: Tensor,
) -> None:
    """Fill d_active, the gradient of the pre-activations, and take d_c from t to t - 1.

    Args:
        active, tanh_c: as `forward` filled them.
        c0: what `forward` was given.
        d_output, d_last: (b, H), their sum is the gradient of h.
        clip: bound for each element of that sum and of d_c on entry; None: no bound.
        d_c: (b, H), gradient of c from step t + 1; changed in place.
        d_active: (b, 4 H), any float dtype.
    """
    tensors = (active, tanh_c, c0, d_output, d_last, d_c, d_active)
    _launch(backward_kernel, tensors, c0, CLIP=clip)


def _launch(kernel: object, tensors: tuple[Tensor, ...], c0: Tensor, **constants: Any) -> None:
    """Launch a kernel on tensors and their row strides."""
    b, H = c0.shape
    launch.run(
        kernel, (b, launch.cdiv(H, launch.LSTM_UNITS)), *tensors,
        *(tensor.stride(0) for tensor in tensors), H=H, UNITS=launch.LSTM_UNITS,
        DTYPE=launch.compute_dtype(c0.dtype), **constants, num_warps=1,
    )  # fmt: skip
