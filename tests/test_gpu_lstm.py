"""The LSTM kernels against plain torch: values, gradients, where they write, what is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from gpu import DEVICE, assert_as_good_as_torch
from states import assert_close, normal
from torch import Tensor, nn

from dnc_fast.backends import load_backend

pytest.importorskip("triton", minversion="3.6")

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward

SIZES = [*((b, H) for b in (1, 3, 16) for H in (1, 5, 64, 100)), (2, 300)]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
every_size = pytest.mark.parametrize("b, H", SIZES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_clip = pytest.mark.parametrize("clip", [None, 0.3])

RESULTS = ("active", "c1", "tanh_c", "hidden")
GRADIENTS = ("d_active", "d_c")


class Room:
    """Places for (b, size) amid NaN, each with a row stride of its own."""

    def __init__(self) -> None:
        self.places: list[tuple[Tensor, Tensor]] = []

    def empty(self, b: int, size: int, dtype: torch.dtype) -> Tensor:
        """A place with NaN in it."""
        width = size + 3 + 2 * len(self.places)
        around = torch.full((b + 2, width), torch.nan, dtype=dtype, device=DEVICE)
        self.places.append((around, around[1:-1, 2 : 2 + size]))
        return self.places[-1][1]

    def put(self, tensor: Tensor) -> Tensor:
        """A place that holds the numbers of a tensor."""
        return self.empty(*tensor.shape, tensor.dtype).copy_(tensor)

    def assert_filled(self) -> None:
        """The places hold numbers, and nothing around them does."""
        for around, place in self.places:
            assert place.isfinite().all()
            assert around.isfinite().sum() == place.numel()


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """What is calculated in."""
    return torch.promote_types(dtype, torch.float32)


def forward(
    product: Tensor, x_part: Tensor, c0: Tensor, dtypes: Sequence[torch.dtype]
) -> dict[str, Tensor]:
    """By the kernel, results in some dtypes."""
    room, (b, H) = Room(), c0.shape
    given = [room.put(tensor) for tensor in (product, x_part, c0)]
    found = [room.empty(b, H * (4 if i == 0 else 1), dtype) for i, dtype in enumerate(dtypes)]
    load_backend("triton").lstm_forward(*given, *found)
    room.assert_filled()
    assert_close(given, (product, x_part, c0), "equal")
    return dict(zip(RESULTS, found, strict=True))


def plain_forward(
    product: Tensor, x_part: Tensor, c0: Tensor, dtypes: Sequence[torch.dtype]
) -> dict[str, Tensor]:
    """By torch, in the dtype of the cells."""
    gates = (product.to(c0.dtype) + x_part.to(c0.dtype)).chunk(4, dim=1)
    entry, forget, output = (gates[i].sigmoid() for i in (0, 1, 3))
    change = gates[2].tanh()
    c1 = forget * c0 + entry * change
    tanh_c = c1.tanh()
    active = torch.cat([entry, forget, change, output], dim=1)
    found = zip(RESULTS, (active, c1, tanh_c, output * tanh_c), dtypes, strict=True)
    return {name: tensor.to(dtype) for name, tensor, dtype in found}


Given = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Of the backward pass: activations, tanh(c), c_{t-1}, and the gradients of h from two sides."""


def backward(
    given: Given, clip: float | None, d_c: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """By the kernel, the gradient of the pre-activations in a dtype."""
    room = Room()
    placed = [room.put(tensor) for tensor in given]
    found = [room.empty(*given[0].shape, dtype), room.put(d_c)]
    load_backend("triton").lstm_backward(*placed, clip, found[1], found[0])
    if all(tensor.isfinite().all() for tensor in (*given, d_c)):
        room.assert_filled()
        assert_close(placed, given, "equal")
    return dict(zip(GRADIENTS, found, strict=True))


def plain_backward(
    given: Given, clip: float | None, d_c: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """By torch, in the dtype of the cells."""
    active, tanh_c, c0, d_output, d_last = given
    entry, forget, change, output = active.to(c0.dtype).chunk(4, dim=1)
    d_hidden = d_output.to(c0.dtype) + d_last
    if clip is not None:
        d_hidden, d_c = d_hidden.clamp(-clip, clip), d_c.clamp(-clip, clip)
    d_c = d_c + tanh_backward(d_hidden * output, tanh_c.to(c0.dtype))
    parts = (
        sigmoid_backward(d_c * change, entry),
        sigmoid_backward(d_c * c0, forget),
        tanh_backward(d_c * entry, change),
        sigmoid_backward(d_hidden * tanh_c, output),
    )
    return {"d_active": torch.cat(parts, dim=1).to(dtype), "d_c": d_c * forget}


def forward_inputs(b: int, H: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What the controller's products make, in a dtype, and the cells before."""
    product, x_part = (normal(b, 4 * H).to(DEVICE, dtype) for _ in range(2))
    return product, x_part, normal(b, H).to(DEVICE, arithmetic(dtype))


@every_size
@every_dtype
def test_forward_is_as_good_as_torch(b: int, H: int, dtype: torch.dtype) -> None:
    """Products and activations in any dtype; the state in the dtype of the arithmetic."""
    inputs = forward_inputs(b, H, dtype)
    dtypes = [dtype, arithmetic(dtype), arithmetic(dtype), dtype]
    exact = plain_forward(*(tensor.double() for tensor in inputs), [torch.float64] * 4)
    actual = forward(*inputs, dtypes)
    if dtype == torch.float64:
        assert_close(actual, exact, "float64")
    else:
        assert_as_good_as_torch(actual, plain_forward(*inputs, dtypes), exact)


@every_clip
@every_size
@every_dtype
def test_backward_is_as_good_as_torch(
    b: int, H: int, dtype: torch.dtype, clip: float | None
) -> None:
    """Activations, their gradients, and what comes from above in any dtype."""
    *_, c0 = inputs = forward_inputs(b, H, dtype)
    dtypes = [dtype, arithmetic(dtype), arithmetic(dtype), dtype]
    active, _, tanh_c, _ = plain_forward(*inputs, dtypes).values()
    d_output, d_last, d_c = (normal(b, H).to(DEVICE, arithmetic(dtype)) for _ in range(3))
    given = (active, tanh_c, c0, d_output.to(dtype), d_last)
    double = tuple(tensor.double() for tensor in given)
    truth = plain_backward(double, clip, d_c.double(), torch.float64)
    actual = backward(given, clip, d_c, dtype)
    if dtype == torch.float64:
        assert_close(actual, truth, "float64")
    else:
        assert_as_good_as_torch(actual, plain_backward(given, clip, d_c, dtype), truth)


@every_clip
def test_equals_an_lstm_cell_and_its_gradients(clip: float | None) -> None:
    """Those of its input and of its whole state, by autograd, from clipped gradients."""
    cell = nn.LSTMCell(5, 5, dtype=torch.float64, device=DEVICE)
    x, hidden0, c0, d_output, d_last, d_c = (normal(3, 5).to(DEVICE) for _ in range(6))
    inputs = [tensor.requires_grad_() for tensor in (x, hidden0, c0)]
    hidden, cells = cell(x, (hidden0, c0))
    ends = [d_output + d_last, d_c]
    if clip is not None:
        assert all((tensor.abs() > clip).any() for tensor in ends)
        ends = [tensor.clamp(-clip, clip) for tensor in ends]
    expected = torch.autograd.grad((hidden, cells), inputs, ends)

    x_part = x @ cell.weight_ih.T + cell.bias_ih + cell.bias_hh
    given = (hidden0 @ cell.weight_hh.T, x_part, c0)
    found = forward(*(tensor.detach() for tensor in given), [torch.float64] * 4)
    assert_close((found["hidden"], found["c1"]), (hidden, cells), "float64")
    given = (found["active"], found["tanh_c"], c0.detach(), d_output, d_last)
    d_active, d_before = backward(given, clip, d_c, torch.float64).values()
    actual = (d_active @ cell.weight_ih, d_active @ cell.weight_hh, d_before)
    assert_close(actual, expected, "float64")


def test_every_tensor_has_its_own_dtype() -> None:
    """As under autocast: products in half precision, what is kept in another, h in the state's."""
    half, single, double = torch.bfloat16, torch.float32, torch.float64
    product, x_part, c0 = forward_inputs(3, 7, single)
    product = product.to(half)
    dtypes = [torch.float16, double, half, single]
    exact = plain_forward(product.double(), x_part.double(), c0.double(), [double] * 4)
    plain = plain_forward(product, x_part, c0, dtypes)
    # What is calculated in float32 is no better in a float64 tensor.
    actual = {
        name: tensor.to(single) if tensor.dtype == double else tensor
        for name, tensor in forward(product, x_part, c0, dtypes).items()
    }
    plain["c1"] = plain["c1"].to(single)
    assert_as_good_as_torch(actual, plain, exact)


@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
def test_tanh_is_right_to_its_last_digits(dtype: torch.dtype, error: float) -> None:
    """Each number by itself, near zero too, where a difference of exponentials would cancel."""
    x = torch.logspace(-30, 2, 400, dtype=dtype, device=DEVICE)
    x = torch.cat([x, -x, x.new_zeros(1)]).expand(1, -1)
    product = torch.cat([torch.zeros_like(x), torch.zeros_like(x), x, torch.zeros_like(x)], dim=1)
    active = forward(product, torch.zeros_like(product), torch.zeros_like(x), [dtype] * 4)["active"]
    change, expected = active.chunk(4, dim=1)[2].double(), x.double().tanh()
    assert ((change - expected).abs() <= error * expected.abs()).all()


def test_saturates_without_nan() -> None:
    """From -inf to inf: gates are exactly closed or open, and the cells go through or stay."""
    far = torch.tensor([[-torch.inf, -1e4, 1e4, torch.inf]], device=DEVICE)
    product = far.repeat(1, 4)
    given = (product, torch.zeros_like(product), torch.full_like(far, 2.0))
    found = {name: torch.empty_like(product if name == "active" else far) for name in RESULTS}
    load_backend("triton").lstm_forward(*given, *found.values())
    expected = plain_forward(*given, [torch.float32] * 4)
    assert set(found["active"].flatten().tolist()) == {-1.0, 0.0, 1.0}
    assert_close(found.pop("active"), expected.pop("active"), "equal")
    assert_close(found, expected, "float32")


def assert_same_with_nan(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each part has NaN, in the same places."""
    for name, part in actual.items():
        assert part.isnan().any()
        torch.testing.assert_close(part, expected[name], rtol=1e-5, atol=1e-6, equal_nan=True)


@every_clip
def test_what_is_not_finite_goes_through_as_in_torch(clip: float | None) -> None:
    """NaN stays NaN, clipped or not; infinite gradients are clipped."""
    product, x_part, c0 = forward_inputs(2, 3, torch.float32)
    kept = plain_forward(product, x_part, c0, [torch.float32] * 4)
    broken = product.clone()
    broken[0, [0, 4, 8, 9]] = torch.nan  # i, f and g of the three units of a row, and o of one
    found = {name: torch.empty_like(part) for name, part in kept.items()}
    load_backend("triton").lstm_forward(broken, x_part, c0, *found.values())
    assert_same_with_nan(found, plain_forward(broken, x_part, c0, [torch.float32] * 4))

    d_output, d_last, d_c = (normal(2, 3).float().to(DEVICE) for _ in range(3))
    d_output[0, 0] = d_c[1, 1] = torch.nan
    d_last[0, 2], d_c[0, 1] = torch.inf, -torch.inf
    given = (kept["active"], kept["tanh_c"], c0, d_output, d_last), clip, d_c
    assert_same_with_nan(backward(*given, torch.float32), plain_backward(*given, torch.float32))


def test_no_rows_are_nothing_to_do() -> None:
    product, x_part, c0 = forward_inputs(0, 5, torch.float32)
    found = forward(product, x_part, c0, [torch.float32] * 4)
    none = found["hidden"]
    backward((found["active"], none, c0, none, none), 1.0, none, torch.float32)


def test_rows_may_be_far_apart() -> None:
    """Further than 32 bits count: the third row begins 2^31 numbers after the first."""
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    inputs = forward_inputs(3, 4, torch.float16)
    product, hidden = (
        far.as_strided((3, size), (2**30, 1), start) for size, start in ((16, 0), (4, 32))
    )
    product.copy_(inputs[0])
    expected = forward(*inputs, [torch.float32] * 3 + [torch.float16])
    active, c1, tanh_c, _ = (torch.empty_like(part) for part in expected.values())
    given = (product, *inputs[1:])
    load_backend("triton").lstm_forward(*given, active, c1, tanh_c, hidden)
    assert_close((active, c1, tanh_c, hidden), tuple(expected.values()), "equal")
