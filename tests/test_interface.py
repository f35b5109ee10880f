"""The interface vector: its size, the order of its fields, and their activations."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from states import (
    SEEDS,
    SMALL_SIZES,
    arrays,
    assert_backward_equals_autograd,
    assert_close,
    random_interfaces,
)

from dnc_fast.interface import (
    STRENGTHS,
    Interface,
    interface_shapes,
    interface_size,
    oneplus,
    parse_interface,
    parse_interface_backward,
)
from dnc_fast.state import MemorySizes

# Size and order


@pytest.mark.parametrize(
    ("W", "R", "Hw", "size"),
    [
        # One write head: R W + 3 W + 5 R + 3.
        (1, 1, 1, 12),
        (32, 4, 1, 247),
        (64, 5, 1, 540),
        # R W + R + Hw (3 W + 3) + R + R (1 + 2 Hw).
        (2, 3, 2, 45),
        (5, 1, 4, 88),
    ],
)
def test_size(W: int, R: int, Hw: int, size: int) -> None:
    assert interface_size(W, R, Hw) == size
    assert sum(math.prod(shape) for shape in interface_shapes(W, R, Hw).values()) == size


def test_fields_are_cut_in_the_published_order() -> None:
    """W=2, R=2, Hw=1, each raw number its own place in the vector."""
    places = torch.arange(23, dtype=torch.float64).unsqueeze(0)
    interface = parse_interface(places, cell_size=2, num_read_heads=2)
    assert Interface._fields == tuple(interface_shapes(2, 2, 1))
    assert interface.read_keys.tolist() == [[[0, 1], [2, 3]]]
    assert_close(interface.read_strengths, 1 + np.logaddexp(0, [[4, 5]]), "float64")
    assert interface.write_keys.tolist() == [[[6, 7]]]
    assert_close(interface.write_strengths, 1 + np.logaddexp(0, [[8]]), "float64")
    assert_close(interface.erase_vectors, torch.sigmoid(places[:, None, 9:11]), "float64")
    assert interface.write_vectors.tolist() == [[[11, 12]]]
    assert_close(interface.free_gates, torch.sigmoid(places[:, 13:15]), "float64")
    assert_close(interface.allocation_gates, torch.sigmoid(places[:, 15:16]), "float64")
    assert_close(interface.write_gates, torch.sigmoid(places[:, 16:17]), "float64")
    # Six numbers in rows of three: softmax sees only that each is one more than the last.
    ascending = oracle.softmax([0.0, 1.0, 2.0])
    assert_close(interface.read_modes, np.stack([ascending, ascending])[None], "float64")


def test_heads_are_inside_their_field() -> None:
    """With Hw=2 both write keys come before both write strengths."""
    raw = torch.arange(interface_size(3, 1, 2), dtype=torch.float64).unsqueeze(0)
    interface = parse_interface(raw, 3, 1, 2)
    assert interface.write_keys.tolist() == [[[4, 5, 6], [7, 8, 9]]]
    assert interface.write_vectors.tolist() == [[[18, 19, 20], [21, 22, 23]]]
    assert interface.read_modes.shape == (1, 1, 5)


@given(SMALL_SIZES, SEEDS)
def test_equals_the_oracle(sizes: MemorySizes, seed: int) -> None:
    (raw,) = random_interfaces(1, sizes, seed, scale=5.0)
    heads = sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads
    expected = oracle.batched(lambda vector: oracle.split_interface(vector, *heads), arrays(raw))
    assert_close(parse_interface(raw, *heads), expected, "float64")


# Activations

# Across the threshold of torch's softplus (20), that of ours (40), and where e^x overflows.
WIDE = np.concatenate([np.linspace(-800, 800, 1601), np.linspace(-45, 45, 1801)])


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float64, 2.3e-16), (torch.float32, 1.2e-7)])
@pytest.mark.parametrize("least", STRENGTHS.values(), ids=STRENGTHS)
def test_strengths_are_accurate(least: float, dtype: torch.dtype, ulp: float) -> None:
    """Within two units in the last place of 1 + log(1 + e^x), or without the 1, everywhere."""
    x = torch.tensor(WIDE, dtype=dtype)
    exact = torch.from_numpy(least + np.logaddexp(0, x.double().numpy()))
    smallest = torch.finfo(dtype).tiny  # numbers below it lose digits
    torch.testing.assert_close(oneplus(x, least).double(), exact, rtol=2 * ulp, atol=smallest)


def test_oneplus_does_not_fall_below_one() -> None:
    x = torch.tensor([-800.0, -40.0, 0.0, 800.0])
    values = oneplus(x)
    assert (values >= 1).all()
    assert values[[0, 3]].tolist() == [1.0, 801.0]


def test_gradient_of_oneplus_is_the_sigmoid() -> None:
    x = torch.tensor(WIDE, requires_grad=True)
    oneplus(x).sum().backward()
    # Beyond x = 40 the line's slope of 1 takes the place of a sigmoid within 4e-18 of it.
    assert_close(x.grad, 1 / (1 + np.exp(-np.maximum(WIDE, -700))), "float64")


@pytest.mark.parametrize("strengths", STRENGTHS)
@pytest.mark.parametrize("scale", [1.0, 100.0])
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_backward_equals_autograd(
    scale: float, strengths: str, sizes: MemorySizes, seed: int
) -> None:
    heads = sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads, strengths

    def backward(*gradients_and_raw: torch.Tensor) -> torch.Tensor:
        *gradients, raw = gradients_and_raw
        told = parse_interface(raw, *heads)
        return parse_interface_backward(Interface(*gradients), told, strengths)

    (raw,) = random_interfaces(1, sizes, seed, scale)
    assert_backward_equals_autograd(backward, lambda raw: parse_interface(raw, *heads), [raw])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_values_stay_in_their_ranges(dtype: torch.dtype) -> None:
    for value in (-800.0, 800.0):
        raw = torch.full((1, interface_size(2, 1)), value, dtype=dtype)
        interface = parse_interface(raw, 2, 1)
        assert all(part.isfinite().all() for part in interface)
        gates = (interface.erase_vectors, interface.free_gates, interface.write_gates)
        for gate in (*gates, interface.allocation_gates):
            assert (gate == float(value > 0)).all()
        assert interface.read_modes.sum(-1).allclose(torch.ones((), dtype=dtype))
