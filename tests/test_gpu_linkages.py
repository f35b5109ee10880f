"""The GPU kernels of composed steps: their parts by themselves, and whole sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu import DEVICE, assert_as_good_as_torch, poisoned
from states import (
    assert_close,
    assert_near,
    lively_dnc,
    lively_state,
    normal,
    random_weighting,
    run,
    separated_usage,
    uniform,
)
from test_gpu_step import last_programs_only, zeros  # noqa: F401
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from dnc_fast import DNC, reference
from dnc_fast.interface import Interface
from dnc_fast.kernels.arrays import Step
from dnc_fast.linkages import LINKAGES, SeparableLink, SparseLink
from dnc_fast.linkages import selection as plain_selection
from dnc_fast.linkages.sparse import link_write, touched_rows, update_sparse_link
from dnc_fast.state import map_tensors
from dnc_fast.step_options import USAGE_ORDERS, StepOptions

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.backends import Backend, load_backend
from dnc_fast.kernels.gpu import allocation_in_order, selection, sparse_linkage


class Parts:
    """A backend, and its runs of links, whose passes take any link."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        nothing = torch.zeros(1, 1, 1, 1)
        for name, link in (
            ("sparse", SparseLink(nothing, -torch.ones(1, 1, 1, 1).int())),
            ("separable", SeparableLink(nothing, nothing)),
        ):
            run = LINKAGES[name].run(link, StepOptions(), 1, False, backend.link_runs)
            setattr(self, name, run)

    def call(self, part: str, *given: Any) -> Any:
        """A part by its name, such as "sparse.products"."""
        for name in part.split("."):
            self = getattr(self, name)
        return self(*given)


TRITON, PLAIN = Parts(load_backend("triton")), Parts(Backend())

DTYPES = (torch.float64, torch.float32)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# B, Hw, R, N, K: some fit in one tile, some need several, K divides none of them.
SIZES = ((1, 1, 1, 1, 1), (1, 1, 2, 5, 8), (2, 2, 3, 19, 3), (1, 1, 1, 70, 4))
every_size = pytest.mark.parametrize("sizes", SIZES, ids=str)


@pytest.fixture
def small_tiles(tiles: Callable[..., None]) -> None:
    """Many programs and blocks, as only large memories have."""
    tiles(TILE_NUMBERS=16, SCAN_CELLS=4, PICK_CELLS=16, LINK_CELLS=4, WRITE_CELLS=4)


@pytest.fixture(params=["usual tiles", "small tiles"])
def tiles_of_any_size(request: pytest.FixtureRequest) -> None:
    if request.param == "small tiles":
        request.getfixturevalue("small_tiles")


def rounded(tree: Any, dtype: torch.dtype) -> Any:
    """Where the kernels are, floats in a dtype."""

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(DEVICE, dtype if tensor.is_floating_point() else tensor.dtype)

    return map_tensors(move, tree)


def compare(function: str | Callable[..., Any], given: tuple[Any, ...], dtype: torch.dtype) -> None:
    """A part by the kernels against plain torch, see `gpu`: its name, or a function of `Parts`."""
    call = function if callable(function) else lambda parts, *given: parts.call(function, *given)
    given = rounded(given, dtype)
    with poisoned():
        actual = call(TRITON, *given)
    exact = call(PLAIN, *rounded(given, torch.float64))
    if dtype == torch.float64:
        assert_close(actual, exact, "float64", str(function))
    else:
        assert_as_good_as_torch(actual, call(PLAIN, *given), exact, str(function))


def sparse_link(sizes: tuple[int, ...], filled: float = 0.5) -> SparseLink:
    """Rows with a share of their places filled, the first empty, the last full, many values tied.

    Negative ones too: a state may be any.
    """
    B, Hw, _, N, K = sizes
    link = uniform(B, Hw, N, N).mul(8).round() / 8 * (uniform(B, Hw, N, N) < filled * K / N)
    link[:, :, -1] = 0.25
    link[:, :, 0] = 0
    if N > 3:
        link[:, :, 1, :3] = torch.tensor([0.5, 0.5, -0.5])
    diagonal = torch.eye(N, dtype=torch.bool)
    return SparseLink.from_dense(link.masked_fill(diagonal, 0).double(), K)


# The sparse link


@every_dtype
@pytest.mark.parametrize("filled", [0.0, 0.5, 2.0])
@every_size
def test_sparse_products(sizes: tuple[int, ...], filled: float, dtype: torch.dtype) -> None:
    B, _, R, N, _ = sizes
    compare("sparse.products", (sparse_link(sizes, filled), normal(B, R, N)), dtype)


@pytest.mark.usefixtures("small_tiles")
def test_sparse_products_of_many_tiles() -> None:
    sizes = (2, 2, 3, 37, 3)
    compare("sparse.products", (sparse_link(sizes), normal(2, 3, 37)), torch.float64)


@every_dtype
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_sparse_products_of_any_size(size: float, dtype: torch.dtype) -> None:
    """Their sums are whole numbers of a unit that is 2^-100 at the least."""
    sizes = (1, 1, 2, 37, 3)
    link, vectors = rounded((sparse_link(sizes), normal(1, 2, 37)), dtype)
    for large, small in ((link.values * size, vectors), (link.values, vectors * size)):
        actual = TRITON.sparse.products(link._replace(values=large), small)
        exact = PLAIN.sparse.products(*rounded((link, vectors), torch.float64))
        for product, expected in zip(actual, exact, strict=True):
            error = (product.double() / size - expected).abs().max().item()
            assert error <= (1e-12 if dtype == torch.float64 else 1e-5) + 37 * 2.0**-100 / size


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_sparse_products_of_what_is_not_finite(bad: float) -> None:
    """No whole number stands for it, so all of the vector is NaN, and nothing of the others."""
    sizes = (2, 1, 2, 9, 3)
    link, vectors = rounded((sparse_link(sizes), normal(2, 2, 9)), torch.float32)
    expected = TRITON.sparse.products(link, vectors)[1]
    vectors[1, 0, 3] = bad
    found = TRITON.sparse.products(link, vectors)[1]
    assert found[1, 0, 0].isnan().all()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1, 0, 1], expected[1, 0, 1])


def test_sparse_products_repeat_their_bits_in_any_order() -> None:
    """A permutation of the cells only permutes the product, which no sum of floats would do."""
    sizes = (1, 1, 1, 150, 4)
    B, _, R, N, _ = sizes
    link, vectors = rounded((sparse_link(sizes, 2.0), normal(B, R, N)), torch.float32)
    order = torch.randperm(N, device=DEVICE)
    place = order.argsort().to(torch.int32)
    columns = torch.where(link.columns < 0, -1, place[link.columns.clamp(min=0).long()])
    moved = SparseLink(link.values[:, :, order].contiguous(), columns[:, :, order].contiguous())
    _, behind = TRITON.sparse.products(link, vectors)
    _, behind_moved = TRITON.sparse.products(moved, vectors[..., order])
    assert torch.equal(behind_moved, behind[..., order])


def test_sparse_products_of_a_batch_are_those_of_its_elements() -> None:
    sizes = (3, 2, 2, 37, 3)
    link, vectors = rounded((sparse_link(sizes), normal(3, 2, 37)), torch.float32)
    alone = TRITON.sparse.products(map_tensors(lambda part: part[1:2], link), vectors[1:2])
    assert_close(alone, [part[1:2] for part in TRITON.sparse.products(link, vectors)], "equal")


@every_dtype
@every_size
def test_sparse_backward_adds(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    B, Hw, R, N, _ = sizes
    link = sparse_link(sizes)
    given = (normal(B, R, N), random_weighting(B, R, N), uniform(B, R, Hw), uniform(B, R, Hw))
    start = normal(*link.values.shape).masked_fill(link.columns < 0, 0)

    def add(parts: Parts, start: Tensor, *given: Any) -> Tensor:
        d_values = start.clone()
        parts.sparse.add_gradient(d_values, *given)
        return d_values

    compare(add, (start, link, *given), dtype)


def weighting(*shape: int) -> Tensor:
    """Non-negative, its sum below one, with many ties and zeros."""
    weights = normal(*shape).clamp(min=0).mul(4).round()
    return weights / (weights.sum(-1, keepdim=True) + 1)


def assert_update_equals_the_reference(
    sizes: tuple[int, ...], threshold: float | None, dtype: torch.dtype, unit_sums: bool = False
) -> None:
    B, Hw, _, N, K = sizes
    before = rounded(sparse_link(sizes), dtype)
    link = map_tensors(Tensor.clone, before)
    for _ in range(2):
        given = rounded((weighting(B, Hw, N), weighting(B, Hw, N)), dtype)
        entry = link_write(*given, K, unit_sums, TRITON.sparse.keep_largest)
        assert_close(entry, link_write(*given, K, unit_sums), "equal")
        expected = update_sparse_link(link, entry, threshold)
        changed = (expected.values != link.values) | (expected.columns != link.columns)
        old = map_tensors(Tensor.clone, link)
        with poisoned():
            rows, was = TRITON.sparse.update(link, entry, 1 / K if threshold is None else threshold)
        assert_close(link, expected, "equal")
        assert link.columns.dtype == torch.int32
        places = tuple(rows.T)
        untouched = changed.any(-1)
        untouched[places] = False
        assert not untouched.any()
        undone = map_tensors(Tensor.clone, link)
        for tensor, part in zip(undone, was, strict=True):
            tensor[places] = part
        assert_close(undone, old, "equal")


@every_dtype
@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 0.9], ids=str)
@every_size
def test_sparse_update(sizes: tuple[int, ...], threshold: float | None, dtype: torch.dtype) -> None:
    """Equal to the bit, and what is returned brings it back.

    The link that is given has entries below the threshold, which go even where nothing is written.
    """
    assert_update_equals_the_reference(sizes, threshold, dtype)


@pytest.mark.usefixtures("small_tiles")
def test_sparse_update_of_many_tiles() -> None:
    assert_update_equals_the_reference((2, 2, 1, 37, 3), None, torch.float64, unit_sums=True)


@pytest.mark.parametrize("K", [1, 2, 32])
def test_sparse_update_of_any_fan_out(K: int) -> None:
    """That one program merges; also one that holds nearly all of a row."""
    assert_update_equals_the_reference((1, 1, 1, 40, K), 0.0, torch.float64)


def test_sparse_update_touches_few_rows() -> None:
    """Those that it changes: the rest of a link of a million cells must not be copied."""
    sizes = (2, 2, 1, 37, 3)
    link = rounded(sparse_link(sizes), torch.float32)
    entry = link_write(*rounded((weighting(2, 2, 37), weighting(2, 2, 37)), torch.float32), 3)
    expected = touched_rows(link, entry, 0.0)
    rows, _ = TRITON.sparse.update(link, entry, 0.0)
    assert torch.equal(rows, expected)


def test_fan_out_beyond_one_program_is_that_of_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_linkage, "MOST_ENTRIES", 2)
    monkeypatch.setattr(sparse_linkage, "merge", None)
    link = rounded(sparse_link((1, 1, 1, 9, 3)), torch.float32)
    given = rounded((weighting(1, 1, 9), weighting(1, 1, 9)), torch.float32)
    entry = link_write(*given, 3)
    expected = update_sparse_link(link, entry, 0.0)
    TRITON.sparse.update(link, entry, 0.0)
    assert_close(link, expected, "equal")


# The separable link


def history(sizes: tuple[int, ...], writes: int) -> SeparableLink:
    """A view of a longer one, as the engine has it."""
    B, Hw, _, N, _ = sizes
    longer = (random_weighting(writes + 2, B + 1, Hw, N) for _ in range(2))
    return SeparableLink(*(part[:writes, :B].permute(1, 2, 0, 3) for part in longer))


@every_dtype
@pytest.mark.parametrize("writes", [1, 2, 7])
@every_size
def test_separable_products(sizes: tuple[int, ...], writes: int, dtype: torch.dtype) -> None:
    B, _, R, N, _ = sizes
    compare("separable.products", (history(sizes, writes), normal(B, R, N)), dtype)


@every_dtype
@pytest.mark.parametrize("writes", [1, 2, 7])
@every_size
def test_separable_backward(sizes: tuple[int, ...], writes: int, dtype: torch.dtype) -> None:
    B, Hw, R, N, _ = sizes
    ways = normal(B, R, Hw, N), normal(B, R, Hw, N)
    compare("separable.products_backward", (*ways, history(sizes, writes), normal(B, R, N)), dtype)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("whole", [False, True])
def test_separable_link_of_many_tiles_and_full_overwrites(whole: bool) -> None:
    """A write of weight one erases earlier writes: nothing may be divided by what is left."""
    sizes = (2, 2, 3, 37, 3)
    link, ways = history(sizes, 5), (normal(2, 3, 2, 37), normal(2, 3, 2, 37))
    link.write_weights[:, :, 3, 4:] = 0
    link.write_weights[:, :, 3, 4] = 1
    if whole:
        link = map_tensors(Tensor.contiguous, link)
    compare("separable.products", (link, normal(2, 3, 37)), torch.float64)
    compare("separable.products_backward", (*ways, link, normal(2, 3, 37)), torch.float64)


# Look-up, write, allocation, largest entries


@every_dtype
@pytest.mark.usefixtures("tiles_of_any_size")
def test_look_up_and_its_gradient_added(dtype: torch.dtype) -> None:
    B, H, N, W = 2, 3, 37, 5
    given = normal(B, H, W), 1 + 4 * uniform(B, H), normal(B, N, W)

    def look_up(parts: Parts, change: Tensor, start: Tensor, *given: Tensor) -> Any:
        found, d_memory = parts.backend.look_up(*given), start.clone()
        gradients = parts.backend.look_up_backward(change, found, d_memory, *given)
        return found.weights, *gradients, d_memory

    compare(look_up, (normal(B, H, N), normal(B, N, W), *given), dtype)


def write_step(B: int, N: int, W: int, Hw: int) -> tuple[Step, Interface]:
    """What a write needs; all other fields are None."""
    step = Step(*[None] * len(Step._fields))._replace(
        memory0=normal(B, N, W), memory1=normal(B, N, W), write1=random_weighting(B, Hw, N)
    )
    interface = Interface(*[None] * len(Interface._fields))._replace(
        erase_vectors=uniform(B, Hw, W),
        write_vectors=normal(B, Hw, W),
        allocation_gates=uniform(B, Hw),
        write_gates=uniform(B, Hw),
    )
    return rounded((step, interface), torch.float64)


@pytest.mark.parametrize("sizes", [(2, 9, 3, 2), (1, 70, 64, 1), (2, 1, 1, 1)], ids=str)
def test_write_and_its_gradient_in_place(sizes: tuple[int, ...]) -> None:
    step, interface = write_step(*sizes)
    start, found = rounded(normal(*step.memory0.shape), torch.float64), []
    written = step.memory0, step.write1, interface.erase_vectors, interface.write_vectors
    for parts in (TRITON, PLAIN):
        step.memory1.zero_()
        parts.backend.write(*written, step.memory1)
        d_memory = start.clone()
        gradients = parts.backend.write_backward(d_memory, *written)
        found.append([step.memory1.clone(), *gradients, d_memory])
    assert_close(*found, "float64")


@pytest.mark.parametrize("order", USAGE_ORDERS)
@pytest.mark.parametrize("Hw", [1, 3])
def test_write_weighting(Hw: int, order: str) -> None:
    _, interface = write_step(2, 9, 3, Hw)
    given = rounded(
        (separated_usage(2, 9), random_weighting(2, Hw, 9), normal(2, Hw, 9)), torch.float64
    )
    usage, content, change = given
    options = StepOptions(usage_order=order)
    found = [
        [
            parts.backend.write_weighting(interface, usage, content, options),
            parts.backend.write_weighting_backward(change, interface, usage, content, options),
        ]
        for parts in (TRITON, PLAIN)
    ]
    assert_close(*found, "float64")


def usages(kind: str, B: int, N: int) -> Tensor:
    if kind == "tied":
        return torch.tensor([0, 0.25, 1, 0.5 / 256]).double()[torch.randint(4, (B, N))]
    if kind == "full":
        return 1 - 3 * uniform(B, N) / N
    return torch.zeros(B, N).double() if kind == "zero" else separated_usage(B, N)


@every_dtype
@pytest.mark.parametrize("N", [1, 37, 1500])
@pytest.mark.parametrize("kind", ["separated", "tied", "full", "zero"])
@pytest.mark.parametrize("order", USAGE_ORDERS)
def test_allocation_in_order(order: str, kind: str, N: int, dtype: torch.dtype) -> None:
    assert_allocation_equals_the_reference(usages(kind, 2, N), order, dtype)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("kind", ["full", "tied"])
def test_allocation_in_order_of_many_blocks(kind: str) -> None:
    """More than one program adds up what they bring at once."""
    assert_allocation_equals_the_reference(usages(kind, 2, 37), "exact", torch.float64)


def assert_allocation_equals_the_reference(usage: Tensor, order: str, dtype: torch.dtype) -> None:
    usage, change = rounded((usage, normal(*usage.shape)), dtype)

    def expected(usage: Tensor, change: Tensor) -> list[Tensor]:
        return [
            reference.allocation_weighting(usage, order),
            reference.allocation_weighting_backward(change, usage, order),
        ]

    with poisoned():
        weights, *kept = allocation_in_order.allocate(usage, order == "robust")
        d_usage = allocation_in_order.allocate_backward(change, usage, *kept)
    actual, exact = [weights, d_usage], expected(usage.double(), change.double())
    if dtype == torch.float64:
        assert_close(actual, exact, "float64")
    else:
        assert_as_good_as_torch(actual, expected(usage, change), exact)


def assert_same_cells(weights: Tensor, count: int) -> None:
    found = selection.largest_cells(weights.flatten(0, -2), count)
    expected = plain_selection.largest_cells(weights.flatten(0, -2), count)
    assert found.dtype == torch.int64 and torch.equal(found, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20, 40])
@pytest.mark.usefixtures("tiles_of_any_size")
def test_largest_cells(count: int) -> None:
    """Ties by index, also between blocks; negative entries, both zeros, all alike."""
    weights = normal(2, 3, 37).float().to(DEVICE)
    weights[1] = weights[1].mul(2).round()
    weights[0, 1] = torch.where(weights[0, 1] > 0, 0.0, -0.0)
    weights[0, 2] = -1e-40
    weights[1, 2, ::2] = torch.inf
    assert_same_cells(weights, count)
    assert_same_cells(weights.abs(), count)


@every_dtype
@pytest.mark.parametrize("unit_sums", [False, True])
def test_keep_largest(unit_sums: bool, dtype: torch.dtype) -> None:
    weights = weighting(2, 2, 37).to(DEVICE, dtype)
    for count in (3, 37, 50):
        found = TRITON.sparse.keep_largest(weights, count, unit_sums)
        assert_close(found, plain_selection.keep_largest(weights, count, unit_sums), "equal")


# Beyond 2^31 numbers


def test_sparse_link_of_more_than_2_31_numbers(
    last_programs_only: list[int],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of which the last rows are looked at: those of the last batch element."""
    if DEVICE == "cuda":
        pytest.skip("the class below does it at full size")
    B, N, K, R = 3, 2**27, 8, 1
    last = slice(N - 64, N)
    values, d_values = zeros((B, 1, N, K)), zeros((B, 1, N, K))
    try:
        columns = torch.from_numpy(np.zeros((B, 1, N, K), np.int32))
    except MemoryError:
        pytest.skip("this machine does not promise so much memory")
    small = rounded(sparse_link((1, 1, R, 64, K)), torch.float32)
    values[-1, :, last] = small.values[0]
    columns[-1, :, last] = torch.where(small.columns[0] < 0, -1, small.columns[0] + N - 64)
    vectors, change = zeros((B, R, N)), zeros((B, R, N))
    vectors[-1, :, last], change[-1, :, last] = normal(R, 64).float(), normal(R, 64).float()
    modes = torch.ones(B, R, 1)
    last_programs_only.append(0)

    sparse_linkage.add_backward(d_values, columns, change, vectors, modes, modes)
    expected = torch.zeros_like(small.values)
    given = change[-1:, :, last], vectors[-1:, :, last], modes[:1], modes[:1]
    PLAIN.sparse.add_gradient(expected, small, *given)
    assert_close(d_values[-1:, :, last], expected, "float32")

    entry = sparse_linkage.Entry(
        vectors.transpose(1, 2).view(B, R, N)[:, :1],
        torch.from_numpy(np.zeros((B, 1, N), np.int8)),
        torch.zeros(B, 1, 1, dtype=torch.int64),
        torch.zeros(B, 1, 1),
        None,
    )
    entry.marked[-1, 0, N - 1] = 1
    empty = torch.from_numpy(np.zeros((B, 1, N), np.int8))
    monkeypatch.setattr(torch, "empty_like", lambda _: empty)
    found = sparse_linkage.touched(values, columns, entry)[-1, 0, last]
    monkeypatch.undo()
    with_last = (small.columns[0, 0] == 63).any(-1)
    with_last[63] = True
    assert torch.equal(found != 0, with_last)


# Sequences


CASES = [
    ((3, 1), {"linkage": "dense", "read_topk": 2}),
    ((3,), {"linkage": "dense", "num_write_heads": 2, "write_topk": 2}),
    ((3, 1), {"linkage": "none"}),
    ((3,), {"linkage": "none", "num_write_heads": 2, "read_topk": 2, "write_topk": 2}),
    ((3, 2), {"linkage": "sparse", "link_fan_out": 3}),
    ((3,), {"linkage": "sparse", "link_fan_out": 2, "link_threshold": 0.0, "num_write_heads": 2}),
    ((3, 1), {"linkage": "sparse", "link_fan_out": 2, "write_topk": 3, "link_unit_sums": True}),
    ((3,), {"linkage": "separable", "num_write_heads": 2, "read_topk": 3}),
    ((3, 2, 1), {"linkage": "separable", "usage_order": "robust"}),
    ((2, 1), {"linkage": "separable", "write_topk": 1}),
    ((3,), {"strengths": "softplus", "value_clip": 1.1}),
    ((2, 1), {"usage_gradient": False, "num_write_heads": 2}),
]


def assert_sequences_equal_the_reference(
    lengths: tuple[int, ...], options: dict[str, Any], seed: int = 0
) -> None:
    state = rounded(lively_state(lively_dnc(**options), len(lengths), seed), torch.float64)
    if options.get("usage_order") == "robust":  # usages that the other order would order otherwise
        close = state.memory.usage / 1000 + 0.5 / 256
        state = state._replace(memory=state.memory._replace(usage=close))
    x = pack_sequence([normal(length, 3) for length in lengths]).to(DEVICE)
    models = (lively_dnc(seed, backend=name, **options) for name in ("triton", "reference"))
    assert_near(*(run(model.to(DEVICE), x, state) for model in models))


@pytest.mark.parametrize(("lengths", "options"), CASES, ids=str)
def test_sequences_equal_the_reference(lengths: tuple[int, ...], options: dict[str, Any]) -> None:
    """Through the engine, with memories rebuilt in the backward pass, and batches that shrink."""
    assert_sequences_equal_the_reference(lengths, {"checkpoint_interval": 2, **options})


@pytest.mark.parametrize("small_cells", [64, 0], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ((4,), {"checkpoint_interval": 1}),
        ((4,), {"checkpoint_interval": 3, "num_write_heads": 2}),
        ((4, 2), {"checkpoint_interval": 3, "controller": "feedforward"}),
        ((4,), {"checkpoint_interval": 4, "usage_order": "robust", "num_cells": 9}),
    ],
    ids=str,
)
def test_fused_steps_in_sequences_equal_the_reference(
    lengths: tuple[int, ...],
    options: dict[str, Any],
    small_cells: int,
    tiles: Callable[..., None],
) -> None:
    tiles(SMALL_CELLS=small_cells)
    options = {"num_cells": 4, "num_read_heads": 1, **options}
    assert_sequences_equal_the_reference(lengths, options)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("lengths", "options"), CASES, ids=str)
def test_longer_sequences_equal_the_reference(
    lengths: tuple[int, ...], options: dict[str, Any], seed: int
) -> None:
    torch.manual_seed(seed)
    lengths = tuple(2 * length + 1 for length in lengths)
    sizes = {"num_cells": 23, "cell_size": 5, "num_read_heads": 3}
    assert_sequences_equal_the_reference(lengths, {**sizes, **options}, seed)


@pytest.mark.parametrize("linkage", ["sparse", "separable", "none"])
def test_sequences_in_float32(linkage: str) -> None:
    """As good as plain torch, on the same numbers, where no choice hangs on a rounding."""
    options = {"linkage": linkage, "num_cells": 9}
    x, state = normal(2, 2, 3).float(), lively_state(lively_dnc(**options), 2).to(torch.float32)
    found = []
    for backend, dtype in (
        ("triton", torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
    ):
        model = lively_dnc(backend=backend, **options).float().to(DEVICE, dtype)
        found.append(run(model, *(part.to(device=DEVICE, dtype=dtype) for part in (x, state))))
    columns = [results.pop("final.memory.link.columns", None) for results in found]
    assert_close(columns[0], columns[2], "equal")
    assert_as_good_as_torch(*found)


@pytest.mark.parametrize("options", [CASES[4][1], CASES[6][1]], ids=str)
def test_repeats_its_bits_from_the_empty_state(options: dict[str, Any]) -> None:
    x = pack_sequence([normal(2, 3), normal(1, 3)]).to(DEVICE)
    model = lively_dnc(backend="triton", **options).to(DEVICE)
    assert_close(run(model, x, model.zero_state(2)), run(model, x, model.zero_state(2)), "equal")


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@pytest.mark.parametrize("N", [2**14, 2**17, 2**20])
class TestLargeMemories:
    """Sizes that the interpreter cannot take."""

    def test_largest_cells(self, N: int) -> None:
        weights = torch.rand(2, 2, N, device=DEVICE).mul(2**12).round()
        for count in (1, 8, 64, 1000):
            assert_same_cells(weights, count)

    @every_dtype
    @pytest.mark.parametrize("kind", ["tied", "full", "zero"])
    def test_allocation(self, N: int, kind: str, dtype: torch.dtype) -> None:
        assert_allocation_equals_the_reference(usages(kind, 2, N), "exact", dtype)

    def test_look_up(self, N: int) -> None:
        given = normal(1, 4, 32), 1 + 4 * uniform(1, 4), normal(1, N, 32)
        compare(lambda parts, *given: parts.backend.look_up(*given).weights, given, torch.float32)

    def full_link(self, N: int) -> SparseLink:
        columns = torch.randint(N, (1, 2, N, 8), device=DEVICE, dtype=torch.int32).sort(-1).values
        return SparseLink(torch.rand(columns.shape, device=DEVICE) / 8, columns)

    def test_sparse_products(self, N: int) -> None:
        link, vectors = self.full_link(N), torch.randn(1, 4, N, device=DEVICE)
        compare("sparse.products", (link, vectors), torch.float32)
        found = [TRITON.sparse.products(link, vectors) for _ in range(2)]
        assert_close(*found, "equal")

    def test_sparse_update(self, N: int) -> None:
        link = self.full_link(N)
        distinct = link.columns.diff(dim=-1, prepend=link.columns[..., :1] - 1) != 0
        dense_rows = distinct.all(-1, keepdim=True)
        link = SparseLink(
            link.values.masked_fill(~dense_rows, 0), link.columns.masked_fill(~dense_rows, -1)
        )
        given = (torch.rand(1, 2, N, device=DEVICE) / N for _ in range(2))
        entry = link_write(*given, 8)
        expected = update_sparse_link(link, entry, 0.02)
        TRITON.sparse.update(link, entry, 0.02)
        assert_close(link, expected, "equal")

    @pytest.mark.parametrize("writes", [1, 50])
    def test_separable_link(self, N: int, writes: int) -> None:
        sizes = (1, 1, 4, N, 8)
        given = history(sizes, writes), normal(1, 4, N)
        compare("separable.products", given, torch.float32)
        given = (normal(1, 4, 1, N), normal(1, 4, 1, N), *given)
        compare("separable.products_backward", given, torch.float32)

    @pytest.mark.parametrize("linkage", ["sparse", "separable", "none"])
    def test_repeats_its_bits(self, N: int, linkage: str) -> None:
        """Forward; the backward pass has sums of torch around the parts."""
        model = DNC(4, 16, num_cells=N, linkage=linkage, backend="triton").to(DEVICE)
        x = torch.randn(5, 1, 4, device=DEVICE)
        found = [model(x)[0].detach() for _ in range(2)]
        assert torch.equal(*found)
