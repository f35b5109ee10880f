"""The elementwise part of an LSTM step after a product by torch, for large batches.

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
from .cells import clipped, load_four, lstm, lstm_backward, store_four


@triton.jit
def forward_kernel(
    product, x_part, c0, active, c1, tanh_c, hidden, product_stride, x_part_stride,
    c0_stride, active_stride, c1_stride, tanh_c_stride, hidden_stride,
    H: tl.constexpr, UNITS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Some units of a batch element; arrays as in `forward`."""
    b = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    mask = unit < H
    entry, forget, change, output = load_four(product + b * product_stride + unit, H, mask, DTYPE)
    x = load_four(x_part + b * x_part_stride + unit, H, mask, DTYPE)
    before = tl.load(c0 + b * c0_stride + unit, mask=mask, other=0.0).to(DTYPE)
    entry, forget, change, output, c, tanh_c_t = lstm(
        entry + x[0], forget + x[1], change + x[2], output + x[3], before
    )
    store_four(active + b * active_stride + unit, entry, forget, change, output, H, mask)
    tl.store(c1 + b * c1_stride + unit, c, mask=mask)
    tl.store(tanh_c + b * tanh_c_stride + unit, tanh_c_t, mask=mask)
    tl.store(hidden + b * hidden_stride + unit, output * tanh_c_t, mask=mask)


@triton.jit
def backward_kernel(
    active, tanh_c, c0, d_output, d_last, d_c, d_active, active_stride, tanh_c_stride,
    c0_stride, d_output_stride, d_last_stride, d_c_stride, d_active_stride,
    H: tl.constexpr, UNITS: tl.constexpr, CLIP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Backward through some units of a batch element; arrays as in `backward`."""
    b = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    mask = unit < H
    kept = load_four(active + b * active_stride + unit, H, mask, DTYPE)
    tanh_c_t = tl.load(tanh_c + b * tanh_c_stride + unit, mask=mask, other=0.0).to(DTYPE)
    before = tl.load(c0 + b * c0_stride + unit, mask=mask, other=0.0).to(DTYPE)
    d_hidden = tl.load(d_output + b * d_output_stride + unit, mask=mask, other=0.0).to(DTYPE)
    d_hidden += tl.load(d_last + b * d_last_stride + unit, mask=mask, other=0.0).to(DTYPE)
    d_c += b * d_c_stride + unit
    d_new = clipped(tl.load(d_c, mask=mask, other=0.0).to(DTYPE), CLIP)
    d_entry, d_forget, d_change, d_gate, d_before = lstm_backward(
        kept[0], kept[1], kept[2], kept[3], tanh_c_t, before, clipped(d_hidden, CLIP), d_new
    )
    place = d_active + b * d_active_stride + unit
    store_four(place, d_entry, d_forget, d_change, d_gate, H, mask)
    tl.store(d_c, d_before, mask=mask)


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
