"""The equations of a step, one function each: against the oracle, by hand, and their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    normal,
    random_weighting,
    require_grad,
    separated_usage,
    uniform,
    weighed_sum,
)
from torch import Tensor

from dnc_fast import DNC
from dnc_fast.linkages.dense import directional_weightings, update_link
from dnc_fast.reference import (
    SIMILARITY_FUNCTIONS,
    allocate,
    allocate_backward,
    allocation_weighting,
    allocation_weighting_backward,
    content_weighting,
    content_weighting_backward,
    deallocate,
    deallocate_backward,
    look_up,
    read_memory,
    read_memory_backward,
    retention,
    retention_backward,
    sharpen,
    sharpen_backward,
    update_precedence,
    update_precedence_backward,
    update_usage,
    update_usage_backward,
    usage_order,
    write_memory,
    write_memory_backward,
)
from dnc_fast.state import MemorySizes
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES, USAGE_ORDERS, StepOptions

# No two sizes alike, so that an axis of N cells is known by its length.
SIZES = MemorySizes(batch_size=2, num_cells=5, cell_size=3, num_read_heads=1, num_write_heads=4)

E = 1e-6  # of u' = E + (1 - E) u

every_order = pytest.mark.parametrize("order", USAGE_ORDERS)


class Part(NamedTuple):
    """An equation, the oracle's for one sequence, and how inputs are drawn, at random or at edges.

    `backward` is of (gradients of the results, inputs); None where it is not a function of its own.
    """

    function: Callable[..., Any]
    oracle: Callable[..., Any]
    inputs: Callable[[MemorySizes, bool], tuple[Tensor, ...]]
    backward: Callable[..., Any] | None = None


def content_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    """Keys (B, R, W), strengths (B, R) from 1 up, and memory (B, N, W); edges: strengths of 1."""
    B, N, W, R, _ = sizes
    return normal(B, R, W), 1 + (0 if edges else 5) * normal(B, R).abs(), normal(B, N, W)


def content(similarity: str) -> Part:
    def of_all_heads(keys: np.ndarray, strengths: np.ndarray, memory: np.ndarray) -> np.ndarray:
        heads = zip(keys, strengths, strict=True)
        return np.array(
            [oracle.content_weighting(*head, memory, similarity=similarity) for head in heads]
        )

    def backward(d_weights: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = look_up(*inputs, similarity=similarity)
        return content_weighting_backward(d_weights, found, *inputs, similarity=similarity)[:3]

    function = partial(content_weighting, similarity=similarity)
    return Part(function, of_all_heads, content_inputs, backward)


def masked_content(similarity: str) -> Part:
    def inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
        keys, strengths, memory = content_inputs(sizes, edges)
        masks = uniform(*keys.shape)
        if edges:  # one hides all of the first key, one nothing
            masks[:, 0], masks[:, -1] = 0, 1
        return keys, strengths, memory, masks

    def of_all_heads(
        keys: np.ndarray, strengths: np.ndarray, memory: np.ndarray, masks: np.ndarray
    ) -> np.ndarray:
        heads = zip(keys, strengths, masks, strict=True)
        return np.array(
            [
                oracle.content_weighting(key, beta, memory, mask, similarity)
                for key, beta, mask in heads
            ]
        )

    def backward(d_weights: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = look_up(*inputs, similarity=similarity)
        return content_weighting_backward(d_weights, found, *inputs, similarity=similarity)

    function = partial(content_weighting, similarity=similarity)
    return Part(function, of_all_heads, inputs, backward)


# At edges a factor of a product is zero, or several are: nothing may be divided by it.


def retention_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    B, N, _, R, _ = sizes
    gates, read_weights = uniform(B, R), random_weighting(B, R, N)
    if edges:
        gates[0] = read_weights[0, :, 0] = 1
    return gates, read_weights


def usage_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    B, N, _, _, Hw = sizes
    write_weights = random_weighting(B, Hw, N)
    if edges:
        write_weights[0, :, 0] = 1
    return uniform(B, N), write_weights, uniform(B, N)


def write_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    B, N, W, _, Hw = sizes
    weights, erase = random_weighting(B, Hw, N), uniform(B, Hw, W)
    if edges:
        weights[0, :, 0] = erase[0] = 1
    return normal(B, N, W), weights, erase, normal(B, Hw, W)


def allocation_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    """Edges: ties, usages of 0 and 1 among them, and usages within three steps of the grid."""
    usage = uniform(sizes.batch_size, sizes.num_cells)
    if edges:
        usage = torch.cat([(4 * usage).round() / 4, 0.5 + 3 / 256 * usage])
    return (usage,)


def weightings(*fields: str) -> Callable[..., tuple[Tensor, ...]]:
    """A link matrix and weightings, by name."""

    def inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
        B, N, W, R, Hw = sizes
        link = random_weighting(B, Hw, N, N)
        shapes = {"write": (B, Hw, N), "read": (B, R, N), "memory": (B, N, W)}
        drawn = {name: random_weighting(*shape) for name, shape in shapes.items()}
        drawn["link"] = link.masked_fill(torch.eye(N, dtype=torch.bool), 0)
        drawn["precedence"] = random_weighting(B, Hw, N)
        return tuple(drawn[name] for name in fields)

    return inputs


def allocation(order: str) -> Part:
    return Part(
        lambda usage: allocation_weighting(usage, order),
        lambda usage: oracle.allocation_weighting(usage, order),
        allocation_inputs,
        lambda d_weights, usage: allocation_weighting_backward(d_weights, usage, order),
    )


def smooth_allocation(kind: str, name: str, parameter: float) -> Part:
    options = StepOptions(allocation=kind, **{name: parameter})
    return Part(
        partial(allocate, options=options),
        lambda usage: oracle.smooth_allocation_weighting(usage, kind, parameter),
        allocation_inputs,
        lambda d_weights, usage: allocate_backward(d_weights, usage, options),
    )


def sharp_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    """Weightings (B, R, N) and a sharpness of each from 1 up; edges: of 1, and weights below 0."""
    B, N, _, R, _ = sizes
    weights = random_weighting(B, R, N)
    if edges:
        weights[0, :, 0] = -0.01
    return weights, 1 + (0 if edges else 3) * uniform(B, R)


def sharp_by_loops(weights: np.ndarray, sharpness: np.ndarray) -> np.ndarray:
    rows = []
    for row, power in zip(weights, sharpness, strict=True):
        powers = [(max(weight, 0) + E) ** power for weight in row]
        rows.append([part / sum(powers) for part in powers])
    return np.array(rows)


def sharp_backward(d_sharpened: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return sharpen_backward(d_sharpened, sharpen(*inputs), *inputs)


def freed_inputs(sizes: MemorySizes, edges: bool = False) -> tuple[Tensor, ...]:
    memory, retained = normal(*sizes[:3]), uniform(*sizes[:2])
    if edges:
        retained[0, 0], retained[-1] = 0, 1
    return memory, retained


PARTS = {
    **{f"{kind} content": content(kind) for kind in SIMILARITIES},
    **{f"masked {kind} content": masked_content(kind) for kind in SIMILARITIES},
    "retention": Part(retention, oracle.retention, retention_inputs, retention_backward),
    "usage": Part(update_usage, oracle.update_usage, usage_inputs, update_usage_backward),
    "exact allocation": allocation("exact"),
    "robust allocation": allocation("robust"),
    "proportional allocation": smooth_allocation("proportional", "allocation_power", 1.0),
    "allocation in proportion to a power": smooth_allocation(
        "proportional", "allocation_power", 2.5
    ),
    "softmax allocation": smooth_allocation("softmax", "allocation_temperature", 0.2),
    "deallocation": Part(
        deallocate, lambda memory, psi: memory * psi[:, None], freed_inputs, deallocate_backward
    ),
    "sharpness": Part(sharpen, sharp_by_loops, sharp_inputs, sharp_backward),
    "write": Part(write_memory, oracle.write_memory, write_inputs, write_memory_backward),
    "read": Part(
        read_memory, oracle.read_memory, weightings("memory", "read"), read_memory_backward
    ),
    "link": Part(update_link, oracle.update_link, weightings("link", "precedence", "write")),
    "precedence": Part(
        update_precedence,
        oracle.update_precedence,
        weightings("precedence", "write"),
        update_precedence_backward,
    ),
    "directional": Part(
        directional_weightings, oracle.directional_weightings, weightings("link", "read")
    ),
}
SMOOTH_PARTS = (
    *("proportional allocation", "softmax allocation"),
    "allocation in proportion to a power",
)
every_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
at_edges = pytest.mark.parametrize("edges", [False, True], ids=["random", "edges"])


def smooth_inputs(part: Part, edges: bool = False) -> tuple[Tensor, ...]:
    """Inputs of `SIZES` where difference quotients reach no other order of the cells."""
    if part.inputs is allocation_inputs:
        return (separated_usage(SIZES.batch_size, SIZES.num_cells),)
    return part.inputs(SIZES, edges)


def as_tuple(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)


@every_part
@at_edges
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_equals_the_oracle(part: Part, edges: bool, sizes: MemorySizes, seed: int) -> None:
    torch.manual_seed(seed)
    inputs = part.inputs(sizes, edges)
    assert_close(part.function(*inputs), oracle.batched(part.oracle, *arrays(inputs)), "float64")


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.backward])
@at_edges
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_backward_equals_autograd(name: str, edges: bool, sizes: MemorySizes, seed: int) -> None:
    """The backward of the linkage is tested in test_functional.py."""
    torch.manual_seed(seed)
    part = PARTS[name]
    assert_backward_equals_autograd(part.backward, part.function, part.inputs(sizes, edges))


@every_part
@at_edges
def test_gradients(part: Part, edges: bool) -> None:
    assert torch.autograd.gradcheck(part.function, require_grad(smooth_inputs(part, edges)))


@every_part
def test_float32_is_close_to_float64(part: Part) -> None:
    inputs = smooth_inputs(part)
    single = part.function(*(tensor.float() for tensor in inputs))
    assert all(tensor.dtype == torch.float32 for tensor in as_tuple(single))
    assert_close(single, part.function(*inputs), "float32")


@every_part
def test_leaves_its_inputs_alone(part: Part) -> None:
    inputs = smooth_inputs(part)
    copies = [tensor.clone() for tensor in inputs]
    part.function(*inputs)
    assert_close(list(inputs), copies, "equal")


@pytest.mark.parametrize("name", [name for name in PARTS if name not in SMOOTH_PARTS])
def test_follows_a_permutation_of_the_cells_where_no_two_tie(name: str) -> None:
    """Unlike smooth allocation, where the first cells count more."""
    part = PARTS[name]
    order = torch.randperm(SIZES.num_cells)

    def permuted(tensor: Tensor) -> Tensor:
        for axis in range(tensor.dim()):
            if tensor.shape[axis] == SIZES.num_cells:
                tensor = tensor.index_select(axis, order)
        return tensor

    inputs = smooth_inputs(part)
    expected = [permuted(tensor) for tensor in as_tuple(part.function(*inputs))]
    found = as_tuple(part.function(*map(permuted, inputs)))
    assert_close(list(found), expected, "float64")


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Content


def test_cosine_by_hand() -> None:
    keys = torch.tensor([[[3.0, 4.0], [-6.0, -8.0]]], dtype=torch.float64)
    memory = torch.tensor([[[3.0, 4.0], [4.0, -3.0], [0.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    similarities, *_ = SIMILARITY_FUNCTIONS["cosine"].forward(keys, memory, None)
    # The epsilons take 6e-8 off a similarity of these lengths: not the float64 tolerance's matter.
    by_hand = torch.tensor([[[1, 0, 0, 0.8], [-1, 0, 0, -0.8]]], dtype=torch.float64)
    torch.testing.assert_close(similarities, by_hand, rtol=0, atol=1e-6)
    norms = math.sqrt(25 + 1e-6) * math.sqrt(25 + 1e-6)
    assert similarities[0, 0, 0].item() == pytest.approx(25 / (norms + 1e-6), rel=1e-15)


def test_other_similarities_by_hand() -> None:
    keys = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    memory = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [4.0, 2.0]]], dtype=torch.float64)
    masks = torch.tensor([[[1.0, 0.5]]], dtype=torch.float64)
    by_hand = {
        "euclidean": ([0, -5, -math.sqrt(5)], [0, -math.sqrt(13), -math.sqrt(2)]),
        "manhattan": ([0, -7, -3], [0, -5, -2]),
        "dot": ([25, 0, 20], [13, 0, 14]),
    }
    for kind, expected in by_hand.items():
        for mask, values in zip((None, masks), expected, strict=True):
            found, *_ = SIMILARITY_FUNCTIONS[kind].forward(keys, memory, mask)
            # sqrt(0 + 1e-6) is the least distance.
            torch.testing.assert_close(found, double([[values]]), rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", SIMILARITIES)
def test_gradients_are_finite_where_key_and_cell_are_equal(kind: str, dtype: torch.dtype) -> None:
    """Or both zero, or hidden by a mask; by autograd and by hand, which agree."""
    keys, strengths, memory = (part.to(dtype) for part in content_inputs(SIZES))
    keys[0, 0], keys[1], memory[1, 0] = memory[0, 2], 0, 0
    for masks in (None, torch.zeros_like(keys), torch.ones_like(keys)):
        given = [keys, strengths, memory, *([] if masks is None else [masks])]
        leaves = require_grad(given)
        weights = content_weighting(*leaves, similarity=kind)
        weighed_sum(weights).backward()
        assert weights.isfinite().all() and all(part.grad.isfinite().all() for part in leaves)
        part = content(kind) if masks is None else masked_content(kind)
        if dtype == torch.float64:
            assert_backward_equals_autograd(part.backward, part.function, given)


def test_an_open_mask_changes_nothing_and_a_shut_one_hides_everything() -> None:
    keys, strengths, memory = content_inputs(SIZES)
    for kind in SIMILARITIES:
        plain, opened, shut = (
            content_weighting(keys, strengths, memory, masks, kind)
            for masks in (None, torch.ones_like(keys), torch.zeros_like(keys))
        )
        assert_close(opened, plain, "float64")
        assert_close(shut, torch.full_like(shut, 1 / SIZES.num_cells), "float64")


def test_a_mask_hides_what_it_hides() -> None:
    """What a mask leaves out of a key may be anything, in the key and in the cells."""
    keys, strengths, memory = content_inputs(SIZES)
    masks = torch.ones_like(keys)
    masks[..., 0] = 0
    other_keys, other_memory = keys.clone(), memory.clone()
    other_keys[..., 0], other_memory[..., 0] = 9, normal(*memory.shape[:-1])
    for kind in SIMILARITIES:
        found = content_weighting(keys, strengths, memory, masks, kind)
        same = content_weighting(other_keys, strengths, other_memory, masks, kind)
        assert_close(same, found, "float64")


@pytest.mark.parametrize("kind", ["cosine", "euclidean", "manhattan"])
def test_sums_to_one_and_prefers_the_nearest(kind: str) -> None:
    keys, _, memory = content_inputs(SIZES._replace(num_read_heads=2))
    keys[:, 0] = 2 * memory[:, 3] if kind == "cosine" else memory[:, 3]
    strengths = torch.full((2, 2), 200.0, dtype=torch.float64)
    weights = content_weighting(keys, strengths, memory, similarity=kind)
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(2, 2, dtype=torch.float64), "float64")
    assert (weights[:, 0].argmax(-1) == 3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeroed", [(0,), (2,), (0, 2)], ids=["key", "memory", "both"])
def test_zeros_weigh_all_cells_alike(dtype: torch.dtype, zeroed: tuple[int, ...]) -> None:
    inputs = [part.to(dtype) for part in content_inputs(SIZES._replace(num_read_heads=2))]
    for index in zeroed:
        inputs[index].zero_()
    inputs = require_grad(inputs)
    weights = content_weighting(*inputs)
    assert_close(weights, torch.full_like(weights, 1 / SIZES.num_cells), "float64")
    weighed_sum(weights).backward()
    assert all(part.grad.isfinite().all() for part in inputs)


# Sharpness


def test_sharpness_by_hand() -> None:
    weights = double([[0.3, 0.6, 0.0], [0.0, 0.0, 0.0]])
    found = sharpen(weights, double([2.0, 5.0]))
    expected = double([[0.2, 0.8, 0.0], [1 / 3] * 3])  # squares; and nothing to prefer
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert_close(found.sum(-1), torch.ones(2).double(), "float64")
    sharp = sharpen(double([0.3, 0.31, 0.39]), double(1000.0))
    torch.testing.assert_close(sharp, double([0.0, 0.0, 1.0]), rtol=0, atol=1e-12)


# Retention and usage


def test_usage_by_hand() -> None:
    """A read head frees half of cell 0 and all of cell 1; two heads write to cell 2."""
    psi = retention(double([[1.0, 0.5]]), double([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]]))
    assert psi.tolist() == [[0.5, 0.0, 1.0]]
    usage = update_usage(
        double([[0.8, 0.9, 0.5]]), double([[[0.5, 0.0, 0.5], [0.0, 0.0, 0.5]]]), psi
    )
    # (0.8 + 0.2 * 0.5) * 0.5;  0;  0.5 + 0.5 * (1 - 0.5 * 0.5)
    assert_close(usage, double([[0.45, 0.0, 0.875]]), "float64")


# The free list and allocation


@every_order
def test_free_list_breaks_ties_by_index(order: str) -> None:
    """Long enough that torch's unstable sorts do not keep the order by luck."""
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


@every_order
def test_empty_memory_gives_its_first_cell(order: str) -> None:
    """u = 0 everywhere: a_i = (1 - E) E^i."""
    allocation = allocation_weighting(torch.zeros(2, 4, dtype=torch.float64), order)
    assert_close(allocation, double([[(1 - E) * E**i for i in range(4)]] * 2), "float64")
    assert (allocation.argmax(-1) == 0).all()


SMOOTH = ALLOCATIONS[1:]
every_smooth = pytest.mark.parametrize("kind", SMOOTH)


def sharp(kind: str, sharpness: float) -> StepOptions:
    """An allocation whose parameter grows, or shrinks, with the sharpness."""
    values = {"allocation_power": sharpness, "allocation_temperature": 1 / sharpness}
    return StepOptions(allocation=kind, **values)


@every_smooth
def test_smooth_allocation_gives_as_much_as_the_sorted_one(kind: str) -> None:
    for usage in (uniform(3, 5), 0.999 + 0.001 * uniform(3, 5), torch.zeros(3, 5).double()):
        given = allocate(usage, StepOptions(allocation=kind))
        assert (given >= 0).all()
        assert_close(given.sum(-1), allocation_weighting(usage).sum(-1), "float64")


@every_smooth
def test_smooth_allocation_in_a_full_and_in_an_empty_memory(kind: str) -> None:
    full, empty = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    assert not allocate(full, StepOptions(allocation=kind)).any()
    given = allocate(empty, sharp(kind, 2.0))
    free = double([8, 7, 6, 5]) / 8
    shares = free**2 if kind == "proportional" else (2 * free).exp()
    torch.testing.assert_close(given, (shares / shares.sum()).unsqueeze(0), rtol=0, atol=1e-5)


@every_smooth
def test_smooth_allocation_tells_the_cells_of_an_empty_memory_apart(kind: str) -> None:
    """Otherwise all would hold the same for ever, since nothing else tells them apart."""
    _, state = DNC(3, 4, num_cells=5, allocation=kind)(normal(4, 1, 3).float())
    cells = state.memory.memory[0]
    assert torch.pdist(cells).min() > 1e-6 * cells.norm()


@every_smooth
def test_sharp_smooth_allocation_fills_the_freest_cells(kind: str) -> None:
    """In the limit all of it, however much that is; of cells that tie, the first."""
    usage = double([[0.9, 0.2, 0.5, 0.2], [1.0, 1.0, 0.6, 1.0]])
    found = allocate(usage, sharp(kind, 1000.0))
    total = allocation_weighting(usage).sum(-1)
    expected = double([[0, 1, 0, 0], [0, 0, 1, 0]]) * total.unsqueeze(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@every_smooth
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_smooth_allocation_are_finite_and_small(kind: str, dtype: torch.dtype) -> None:
    """Full, nearly full, empty, and far more cells than the product of usages can count."""
    for usage in (
        torch.ones(1, 5),
        1 - 1e-6 * torch.rand(1, 5),
        torch.zeros(1, 5),
        torch.rand(1, 5000),
    ):
        leaf = usage.to(dtype).requires_grad_()
        (allocate(leaf, StepOptions(allocation=kind)) * torch.randn_like(leaf)).sum().backward()
        assert leaf.grad.isfinite().all() and leaf.grad.abs().max() < 100


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


def test_allocation_takes_at_most_what_there_is() -> None:
    """The sum over cells is 1 - prod u', the rest being in use already."""
    usage = uniform(4, 9)
    allocation = allocation_weighting(usage)
    in_use = (E + (1 - E) * usage).prod(-1)
    assert (allocation >= 0).all()
    assert_close(allocation.sum(-1), 1 - in_use, "float64")


# Writing and reading


def test_write_and_read_by_hand() -> None:
    """Head 0 wipes and fills cell 0; head 1 halves the first number of cells 0 and 1."""
    memory = torch.tensor([[[4.0, 8.0], [4.0, 8.0], [4.0, 8.0]]])
    new = write_memory(
        memory,
        write_weights=torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]]),
        erase_vectors=torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]),
        write_vectors=torch.tensor([[[1.0, 2.0], [0.0, 10.0]]]),
    )
    assert new.tolist() == [[[1.0, 7.0], [2.0, 13.0], [4.0, 8.0]]]
    read_weights = torch.tensor([[[0.0, 0.0, 1.0], [0.5, 0.25, 0.0]]])
    assert read_memory(new, read_weights).tolist() == [[[4.0, 8.0], [1.0, 6.75]]]


def test_order_of_write_heads_does_not_matter() -> None:
    memory, *heads = write_inputs(SIZES)
    flipped = write_memory(memory, *(part.flip(1) for part in heads))
    assert_close(flipped, write_memory(memory, *heads), "float64")


@pytest.mark.parametrize(("name", "place"), [("write", 1), ("link", 2), ("precedence", 1)])
def test_writing_nothing_changes_nothing(name: str, place: int) -> None:
    inputs = list(PARTS[name].inputs(SIZES, False))
    inputs[place] = torch.zeros_like(inputs[place])
    assert torch.equal(PARTS[name].function(*inputs), inputs[0])


# The link matrix


def write_in_turn(cells: list[int], num_cells: int) -> tuple[Tensor, Tensor]:
    """Link and precedence (B = Hw = 1) after writing wholly to one cell after another."""
    link = torch.zeros(1, 1, num_cells, num_cells)
    precedence = torch.zeros(1, 1, num_cells)
    for cell in cells:
        write_weights = torch.eye(num_cells)[cell].expand(1, 1, -1)
        link = update_link(link, precedence, write_weights)
        precedence = update_precedence(precedence, write_weights)
    return link, precedence


def test_links_lead_along_the_order_of_writing() -> None:
    """Writing to 2, 0, 3 links 2 -> 0 -> 3: L[i, j] = 1 where i was written right after j."""
    link, precedence = write_in_turn([2, 0, 3], num_cells=4)
    expected = torch.zeros(4, 4)
    expected[0, 2] = expected[3, 0] = 1
    assert torch.equal(link[0, 0], expected)
    assert torch.equal(precedence[0, 0], torch.eye(4)[3])
    forward, backward = directional_weightings(link, torch.eye(4)[[0, 2]].unsqueeze(0))
    assert torch.equal(forward[0, :, 0], torch.eye(4)[[3, 0]])
    # Nothing was written before 2: backward leads nowhere, not everywhere.
    assert torch.equal(backward[0, :, 0], torch.stack([torch.eye(4)[2], torch.zeros(4)]))


def test_overwriting_a_cell_cuts_its_old_links() -> None:
    link, _ = write_in_turn([0, 1, 2, 1], num_cells=3)
    expected = torch.zeros(3, 3)
    expected[1, 2] = 1
    assert torch.equal(link[0, 0], expected)


def test_diagonal_is_zero_whatever_it_was() -> None:
    link, precedence, write_weights = PARTS["link"].inputs(SIZES, False)
    new = update_link(link + torch.eye(SIZES.num_cells), precedence, write_weights)
    assert not new.diagonal(dim1=-2, dim2=-1).any()


def test_empty_links_lead_nowhere() -> None:
    link, read_weights = PARTS["directional"].inputs(SIZES, False)
    for weights in directional_weightings(torch.zeros_like(link), read_weights):
        assert weights.shape == (2, 1, 4, 5)
        assert not weights.any()
