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
    Extras,
    Interface,
    interface_shapes,
    interface_size,
    oneplus,
    parse_interface,
    parse_interface_backward,
)
from dnc_fast.state import MemorySizes
from dnc_fast.step_options import StepOptions

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
    for extras, more in (
        ((False, False), 0),
        ((True, False), (R + Hw) * W),
        ((False, True), 2 * R * Hw),
        ((True, True), (R + Hw) * W + 2 * R * Hw),
    ):
        shapes = interface_shapes(W, R, Hw, *extras).values()
        assert sum(math.prod(shape) for shape in shapes) == size + more
        assert interface_size(W, R, Hw, *extras) == size + more


def test_fields_are_cut_in_the_published_order() -> None:
    """W=2, R=2, Hw=1, each raw number its own place in the vector."""
    places = torch.arange(23, dtype=torch.float64).unsqueeze(0)
    interface = parse_interface(places, cell_size=2, num_read_heads=2)
    assert Interface._fields == tuple(interface_shapes(2, 2, 1, masks=True, sharpness=True))
    assert Interface._fields[:10] == tuple(interface_shapes(2, 2, 1))
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


def test_what_variants_add_comes_last() -> None:
    """W=2, R=2, Hw=1: 6 numbers of masks, then 2 and 2 of sharpness."""
    places = torch.arange(33, dtype=torch.float64).unsqueeze(0) - 27
    interface = parse_interface(places, 2, 2, 1, extras=Extras(0.25, True))
    paper = parse_interface(places[:, :23], 2, 2)
    assert_close(list(interface[:10]), list(paper[:10]), "equal")
    masks = 0.25 + 0.75 * torch.sigmoid(places[:, 23:29])
    assert_close(interface.read_masks.flatten(1), masks[:, :4], "float64")
    assert_close(interface.write_masks.flatten(1), masks[:, 4:], "float64")
    assert_close(interface.forward_sharpness.flatten(1), oneplus(places[:, 29:31]), "float64")
    assert_close(interface.backward_sharpness.flatten(1), oneplus(places[:, 31:]), "float64")
    for extras, count in ((Extras(0.25), 29), (Extras(None, True), 27)):
        some = parse_interface(places[:, :count], 2, 2, 1, extras=extras)
        assert (some.read_masks is None, some.forward_sharpness is None) == (
            extras.mask_floor is None,
            not extras.sharpness,
        )


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
@pytest.mark.parametrize(
    "options", [{}, {"masked_lookup": True}, {"link_sharpness": True, "masked_lookup": True}]
)
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_backward_equals_autograd(
    options: dict, scale: float, strengths: str, sizes: MemorySizes, seed: int
) -> None:
    extras = StepOptions(**options).extras
    heads = sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads, strengths, extras

    def parse(raw: torch.Tensor) -> list[torch.Tensor]:
        return [part for part in parse_interface(raw, *heads) if part is not None]

    def backward(*gradients_and_raw: torch.Tensor) -> torch.Tensor:
        *gradients, raw = gradients_and_raw
        told = parse_interface(raw, *heads)
        return parse_interface_backward(Interface(*gradients), told, strengths, extras)

    (raw,) = random_interfaces(1, sizes, seed, scale, **options)
    assert_backward_equals_autograd(backward, parse, [raw])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_values_stay_in_their_ranges(dtype: torch.dtype) -> None:
    for value in (-800.0, 800.0):
        raw = torch.full((1, interface_size(2, 1, 1, True, True)), value, dtype=dtype)
        interface = parse_interface(raw, 2, 1, 1, extras=Extras(0.1, True))
        assert all(part.isfinite().all() for part in interface)
        gates = (interface.erase_vectors, interface.free_gates, interface.write_gates)
        for gate in (*gates, interface.allocation_gates):
            assert (gate == float(value > 0)).all()
        least = torch.tensor(1.0 if value > 0 else 0.1, dtype=dtype)
        for mask in (interface.read_masks, interface.write_masks):
            torch.testing.assert_close(mask, least.expand_as(mask), rtol=0, atol=1e-7)
        assert interface.read_modes.sum(-1).allclose(torch.ones((), dtype=dtype))
