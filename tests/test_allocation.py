"""Dynamic memory allocation: retention, usage, the free list and the allocation weighting."""

from __future__ import annotations

import itertools

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
    random_weighting,
    require_grad,
    separated_usage,
    uniform,
    weighed_sum,
)

from dnc_fast.options import USAGE_ORDERS
from dnc_fast.reference import (
    allocation_weighting,
    retention,
    update_usage,
    usage_order,
)
from dnc_fast.reference.allocation import (
    allocation_weighting_backward,
    retention_backward,
    update_usage_backward,
)
from dnc_fast.state import MemorySizes

E = 1e-6  # of u' = E + (1 - E) u

every_order = pytest.mark.parametrize("order", USAGE_ORDERS)


def double(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Retention and usage


@given(SMALL_SIZES, SEEDS)
def test_retention_and_usage_equal_the_oracle(sizes: MemorySizes, seed: int) -> None:
    torch.manual_seed(seed)
    B, N, _, R, Hw = sizes
    gates, read_weights = uniform(B, R), random_weighting(B, R, N)
    usage, write_weights = uniform(B, N), random_weighting(B, Hw, N)
    psi = retention(gates, read_weights)
    assert_close(psi, oracle.batched(oracle.retention, *arrays((gates, read_weights))), "float64")
    expected = oracle.batched(oracle.update_usage, *arrays((usage, write_weights, psi)))
    assert_close(update_usage(usage, write_weights, psi), expected, "float64")


def test_usage_by_hand() -> None:
    """A read head frees half of cell 0 and all of cell 1; two heads write to cell 2."""
    psi = retention(double([[1.0, 0.5]]), double([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]))
    assert psi.tolist() == [[0.5, 0.0, 1.0]]
    usage = update_usage(
        double([[0.8, 0.9, 0.5]]), double([[[0.5, 0.0, 0.5], [0.0, 0.0, 0.5]]]), psi
    )
    # (0.8 + 0.2 * 0.5) * 0.5;  0;  0.5 + 0.5 * (1 - 0.5 * 0.5)
    assert_close(usage, double([[0.45, 0.0, 0.875]]), "float64")


def test_gradients_of_retention_and_usage() -> None:
    """Also where a factor of a product is zero, and where two are."""
    gates, read_weights = uniform(2, 3), random_weighting(2, 3, 4)
    gates[0, :2] = 1
    read_weights[0, 0] = double([1.0, 0.0, 0.0, 0.0])
    read_weights[0, 1] = double([1.0, 0.0, 0.0, 0.0])
    usage, write_weights = uniform(2, 4), random_weighting(2, 2, 4)
    write_weights[1, 0] = double([0.0, 1.0, 0.0, 0.0])
    assert torch.autograd.gradcheck(retention, require_grad((gates, read_weights)))
    psi = uniform(2, 4)
    assert torch.autograd.gradcheck(update_usage, require_grad((usage, write_weights, psi)))


@given(SMALL_SIZES, SEEDS)
def test_backward_of_retention_and_usage_equals_autograd(sizes: MemorySizes, seed: int) -> None:
    """Also where a factor of a product is zero, so that nothing may be divided by it."""
    torch.manual_seed(seed)
    B, N, _, R, Hw = sizes
    gates, read_weights, write_weights = uniform(B, R), uniform(B, R, N), uniform(B, Hw, N)
    gates[0] = read_weights[0, :, 0] = write_weights[0, :, 0] = 1
    assert_backward_equals_autograd(retention_backward, retention, (gates, read_weights))
    inputs = (uniform(B, N), write_weights, uniform(B, N))
    assert_backward_equals_autograd(update_usage_backward, update_usage, inputs)


# The free list


@every_order
def test_free_list_breaks_ties_by_index(order: str) -> None:
    """Longer than torch's unstable sorts leave in order by luck."""
    cells = 100
    assert usage_order(torch.zeros(1, cells), order).tolist() == [list(range(cells))]
    two_levels = torch.arange(cells).remainder(2).unsqueeze(0) / 2
    expected = [*range(0, cells, 2), *range(1, cells, 2)]
    assert usage_order(two_levels, order).tolist() == [expected]


def test_robust_order_does_not_see_differences_below_its_grid() -> None:
    usage = double([[0.501, 0.5, 0.1, 0.5 - 1e-12]])
    assert usage_order(usage, "exact").tolist() == [[2, 3, 1, 0]]
    assert usage_order(usage, "robust").tolist() == [[2, 0, 1, 3]]


def test_robust_order_rounds_half_to_even() -> None:
    grid_points = double([[128.5, 127.5, 128.0, 129.5]])
    assert usage_order(grid_points / 256, "robust").tolist() == [[0, 1, 2, 3]]
    assert usage_order(grid_points / 256, "exact").tolist() == [[1, 2, 0, 3]]


# The allocation weighting


@every_order
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_allocation_equals_the_oracle(order: str, sizes: MemorySizes, seed: int) -> None:
    torch.manual_seed(seed)
    usage = uniform(sizes.batch_size, sizes.num_cells)
    expected = oracle.batched(oracle.allocation_weighting, arrays(usage), order=order)
    assert_close(allocation_weighting(usage, order), expected, "float64")


@given(seed=SEEDS)
def test_robust_allocation_equals_the_oracle_where_most_usages_tie(seed: int) -> None:
    """Usages within three steps of the grid, where the exact order is another one."""
    torch.manual_seed(seed)
    usage = 0.5 + 3 / 256 * uniform(2, 6)
    expected = oracle.batched(oracle.allocation_weighting, arrays(usage), order="robust")
    assert_close(allocation_weighting(usage, "robust"), expected, "float64")


@every_order
def test_empty_memory_gives_its_first_cell(order: str) -> None:
    """u = 0 everywhere: a_i = (1 - E) E^i."""
    allocation = allocation_weighting(torch.zeros(2, 4, dtype=torch.float64), order)
    assert_close(allocation, double([[(1 - E) * E**i for i in range(4)]] * 2), "float64")
    assert (allocation.argmax(-1) == 0).all()


@every_order
def test_allocation_by_hand(order: str) -> None:
    usage = double([[0.5, 0.25, 1.0, 0.25, 0.0]])
    lifted = [E + (1 - E) * u for u in usage[0].tolist()]
    expected = {}
    before = 1.0
    for cell in (4, 1, 3, 0, 2):
        expected[cell] = (1 - lifted[cell]) * before
        before *= lifted[cell]
    allocation = allocation_weighting(usage, order)
    assert_close(allocation, double([[expected[cell] for cell in range(5)]]), "float64")
    # A free cell takes all, and a full one nothing, exactly.
    assert allocation[0, 4] == 1 - E
    assert allocation[0, 2] == 0


@every_order
def test_full_memory_allocates_nothing(order: str) -> None:
    assert allocation_weighting(torch.ones(1, 3, dtype=torch.float64), order).tolist() == [[0] * 3]


def test_robust_order_leaves_values_and_gradients_unrounded() -> None:
    usage = double([[0.501, 0.5, 0.1]]).requires_grad_()
    allocation = allocation_weighting(usage, "robust")
    first, second, third = (E + (1 - E) * u for u in (0.1, 0.501, 0.5))
    by_hand = [(1 - second) * first, (1 - third) * first * second, 1 - first]
    assert_close(allocation, double([by_hand]), "float64")
    (gradient,) = torch.autograd.grad(allocation[0, 0], usage)
    slopes = [-(1 - E) * first, 0.0, (1 - E) * (1 - second)]
    assert_close(gradient, double([slopes]), "float64")


@every_order
def test_gradients_at_separated_usages(order: str) -> None:
    usage = separated_usage(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: allocation_weighting(u, order), usage)


@every_order
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_backward_equals_autograd(order: str, sizes: MemorySizes, seed: int) -> None:
    """At ties, with usages of 0 and 1 among them, and at ties of the robust order alone."""
    torch.manual_seed(seed)
    drawn = uniform(sizes.batch_size, sizes.num_cells)
    for usage in ((4 * drawn).round() / 4, 0.5 + 3 / 256 * drawn):
        assert_backward_equals_autograd(
            lambda d_weights, usage: allocation_weighting_backward(d_weights, usage, order),
            lambda usage: allocation_weighting(usage, order),
            [usage],
        )


@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_finite_at_ties(order: str, dtype: torch.dtype, value: float) -> None:
    usage = torch.full((2, 20), value, dtype=dtype, requires_grad=True)
    weighed_sum(allocation_weighting(usage, order)).backward()
    assert usage.grad.isfinite().all()
    assert usage.grad.any()


@pytest.mark.parametrize("cells", [1, 3])
def test_every_mix_of_full_and_empty_cells(cells: int) -> None:
    usage = double(list(itertools.product([0.0, 1.0], repeat=cells)))
    expected = oracle.batched(oracle.allocation_weighting, arrays(usage))
    allocation = allocation_weighting(usage)
    assert_close(allocation, expected, "float64")
    assert (allocation[usage == 1] == 0).all()


def test_follows_a_permutation_of_the_cells_where_no_two_tie() -> None:
    usage, order = separated_usage(3, 7), torch.randperm(7)
    expected = allocation_weighting(usage)[:, order]
    assert_close(allocation_weighting(usage[:, order]), expected, "float64")


def test_allocation_takes_at_most_what_there_is() -> None:
    """The sum over cells is 1 - prod u', the rest being in use already."""
    usage = uniform(4, 9)
    allocation = allocation_weighting(usage)
    in_use = (E + (1 - E) * usage).prod(-1)
    assert (allocation >= 0).all()
    assert_close(allocation.sum(-1), 1 - in_use, "float64")


def test_float32_is_close_to_float64() -> None:
    usage = separated_usage(3, 8)
    single = allocation_weighting(usage.float())
    assert single.dtype == torch.float32
    assert_close(single, allocation_weighting(usage), "float32")
