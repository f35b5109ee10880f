"""What only compiled kernels can get wrong: sorting, threads, processes, uninitialised memory."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gpu import poisoned
from hypothesis import given
from hypothesis import strategies as st
from states import (
    assert_close,
    lively_dnc,
    lively_state,
    make_cotangents,
    normal,
    python,
    random_interfaces,
    run,
    run_step,
    separated_state,
)
from torch import Tensor

from dnc_fast import DNC, MemoryState, memory_step
from dnc_fast.state import MemorySizes, map_tensors
from dnc_fast.step_options import USAGE_ORDERS

pytest.importorskip("numba")

from dnc_fast.backends.cpu import fused, thread_team
from dnc_fast.kernels.cpu import allocation, elementary, product
from dnc_fast.kernels.cpu.compile import kernel

every_order = pytest.mark.parametrize("order", USAGE_ORDERS)
DTYPES = (np.float32, np.float64)

# By strips of rows where there are more threads than batch elements, by batch elements elsewhere.
FEW, MANY = MemorySizes(1, 300, 5, 3, 2), MemorySizes(4, 300, 5, 3, 2)


def step_and_gradients(
    sizes: MemorySizes,
    order: str = "exact",
    dtype: torch.dtype = torch.float64,
    backend: str = "cpu",
) -> dict[str, Tensor]:
    """Results of one memory step, and the gradients of everything that went in."""
    given = random_interfaces(1, sizes)[0], separated_state(sizes)
    given = map_tensors(lambda tensor: tensor.to(dtype), (*given, make_cotangents(*given)))
    return run_step(*given, backend=backend, usage_order=order)


def dnc_and_gradients(model: DNC, seed: int = 0, batch_size: int = 2) -> dict[str, Tensor]:
    """Results of a whole DNC, and the gradients of all parameters, of input and state."""
    x = normal(5, batch_size, 3, generator=torch.Generator().manual_seed(seed))
    return run(model, x, lively_state(model, batch_size, seed))


# Elementary functions and products


@kernel
def every_function(x, exponentials, sigmoids, tangents):
    for index in range(x.shape[0]):
        exponentials[index] = elementary.exp(x[index])
        sigmoids[index] = elementary.sigmoid(x[index])
        tangents[index] = elementary.tanh(x[index])


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementary_functions(dtype: Any) -> None:
    """Within two units in the last place, near zero too, wherever e^x is a normal number."""
    chance = np.random.default_rng(0)
    most = 87 if dtype is np.float32 else 708
    near_zero = chance.normal(size=20_000) * 10.0 ** chance.uniform(-12, 0, 20_000)
    x = np.concatenate([np.linspace(-most, most, 20_001), near_zero]).astype(dtype)
    results = [np.empty_like(x) for _ in range(3)]
    every_function(x, *results)
    wide = x.astype(np.longdouble)
    for result, true in zip(
        results, (np.exp(wide), 1 / (1 + np.exp(-wide)), np.tanh(wide)), strict=True
    ):
        size = np.maximum(np.abs(true), np.finfo(dtype).tiny)
        assert (np.abs(result - true) / size).max() < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_elementary_functions_where_numbers_end(dtype: Any) -> None:
    x = np.array([np.nan, np.inf, 1e30, -np.inf, -1e30, 0.0, -0.0], dtype)
    exponentials, sigmoids, tangents = results = [np.empty_like(x) for _ in range(3)]
    every_function(x, *results)
    assert all(np.isnan(result[0]) and np.isfinite(result[1:]).all() for result in results)
    assert (exponentials[1:3] > np.finfo(dtype).max / 4).all()
    assert (exponentials[3:5] < np.finfo(dtype).tiny * 2).all()
    np.testing.assert_allclose(sigmoids[1:], [1, 1, 0, 0, 0.5, 0.5], atol=1e-37)
    np.testing.assert_array_equal(tangents[1:], [1, 1, -1, -1, 0, 0])
    assert np.signbit(tangents[6]) and not np.signbit(tangents[5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [0, 1, 7, 8, 9, 40])
@pytest.mark.parametrize("columns", [1, 3, 255, 1024, 1025, 2100])
def test_product_adds_to_some_rows(columns: int, K: int, dtype: Any) -> None:
    chance = np.random.default_rng(0)
    rows, matrix = chance.normal(size=(6, K + 2)), chance.normal(size=(K, columns))
    out = chance.normal(size=(7, columns))
    rows[0] = rows[4:] = rows[:, K:] = np.nan  # not looked at
    expected = out.copy()
    expected[2:5] += rows[1:4, :K] @ matrix
    arrays = rows.astype(dtype), matrix.astype(dtype), out.astype(dtype)
    product.add_product(arrays[0], 1, arrays[1], arrays[2], 2, 3)
    np.testing.assert_allclose(
        arrays[2],
        expected,
        rtol=1e-5 if dtype is np.float32 else 1e-13,
        atol=1e-5 if dtype is np.float32 else 1e-13,
    )
    alone = out.astype(dtype)
    product.add_product(arrays[0], 2, arrays[1], alone, 3, 1)
    np.testing.assert_array_equal(alone[3], arrays[2][3])  # whatever rows there are besides


# The free list


def assert_sorted(lifted: np.ndarray, robust: bool) -> None:
    N = len(lifted)
    order = np.full(N, -1, np.int64)
    before = lifted.copy()
    keys, wide_keys = np.full(N, np.nan, lifted.dtype), np.full(N, np.nan)
    room = keys, wide_keys, np.full(N, -1), np.full(allocation.COUNTS, -1)
    allocation.free_list(lifted, robust, order, *room)
    keys = np.rint(lifted * lifted.dtype.type(256)) if robust else lifted
    np.testing.assert_array_equal(order, np.argsort(keys, kind="stable"))
    np.testing.assert_array_equal(lifted, before)


def usages(kind: str, N: int, seed: int = 0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    if kind == "random":
        return chance.random(N)
    if kind == "small":  # over all exponents
        return 10.0 ** chance.uniform(-30, 0, N)
    if kind == "tied":
        return chance.integers(0, 5, N) / 4
    if kind == "near-tied":  # neighbours in floating point, both ways from one number
        single = np.nextafter(np.float32(0.7), np.float32(chance.integers(0, 2)))
        steps = chance.integers(-3, 4, N)
        return single * (1 + steps * 2.0**-24)
    if kind == "grid":  # on the edges of the robust grid, where rint rounds to even
        return (chance.integers(0, 256, N) + 0.5) / 256
    if kind == "signed":  # what rounding may leave of a usage that is zero
        return chance.normal(size=N) * 10.0 ** chance.uniform(-9, 0, N)
    if kind == "falling":
        return np.linspace(1, 0, N)
    return np.full(N, {"zero": 0.0, "one": 1.0}[kind])


@pytest.mark.parametrize("robust", [False, True], ids=["exact", "robust"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 2, 255, 256, 257, 2047, 2048, 5000])
@pytest.mark.parametrize(
    "kind", ["random", "small", "tied", "near-tied", "grid", "signed", "falling", "zero", "one"]
)
def test_free_list_is_a_stable_sort(kind: str, N: int, dtype: Any, robust: bool) -> None:
    """N on both sides of where the sorting algorithm changes."""
    usage = usages(kind, N).astype(dtype)
    assert_sorted(usage, robust)
    lifted = np.full_like(usage, np.nan)
    allocation.lifted_usage(usage, lifted)
    expected = 1e-6 + (1 - 1e-6) * usage
    np.testing.assert_allclose(lifted, expected, rtol=2 * np.finfo(dtype).eps, atol=1e-12)
    assert_sorted(lifted, robust)


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=130),
    copies=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    robust=st.booleans(),
)
def test_free_list_of_any_numbers(values: list, copies: int, dtype: Any, robust: bool) -> None:
    assert_sorted(np.array(values * copies, dtype), robust)


@pytest.mark.parametrize("dtype", DTYPES)
def test_near_ties_are_near(dtype: Any) -> None:
    """In both dtypes there are several keys, and most of them more than once."""
    distinct = len(set(usages("near-tied", 257).astype(dtype).tolist()))
    assert 1 < distinct < 10


# Threads


@pytest.fixture
def torch_threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["strips", "batch"])
def test_number_of_threads_does_not_matter(
    every_team: None,
    shared_out: list[int],
    torch_threads: Any,
    sizes: MemorySizes,
    dtype: torch.dtype,
    order: str,
) -> None:
    """Bit for bit, and without torch's own work, which is outside the kernels."""
    B, N, _, _, Hw = sizes
    assert B * Hw * N * N >= fused.PARALLEL_FROM
    expected = step_and_gradients(sizes, order, dtype)
    for count in (2, 3):
        torch_threads(count)
        actual = step_and_gradients(sizes, order, dtype)
        assert_close(actual, expected, "equal", f"{count} threads")
        assert max(shared_out) >= 2  # or else this compared one thread with itself


@pytest.mark.parametrize("count", [2, 3, 5, 16])
@pytest.mark.parametrize(
    "sizes",
    [
        MemorySizes(1, 1, 1, 1, 1),
        MemorySizes(3, 5, 2, 2, 1),
        MemorySizes(1, 257, 2, 1, 1),
        MemorySizes(2, 520, 3, 2, 2),
    ],
    ids=str,
)
def test_threads_with_too_little_to_do(
    threads: Callable[[int], None], sizes: MemorySizes, count: int
) -> None:
    """More of them than strips, elements, or both; and numbers that do not divide."""
    expected = step_and_gradients(sizes)
    threads(count)
    assert_close(step_and_gradients(sizes), expected, "equal")


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("controller", ["lstm", "gru"])
def test_whole_dnc_does_not_depend_on_threads(
    every_team: None,
    shared_out: list[int],
    threads: Callable[[int], None],
    controller: str,
    batch_size: int,
    interval: int,
) -> None:
    """By sequences or by strips; matrices are rebuilt by the threads too."""
    options = {"controller": controller, "checkpoint_interval": interval}
    model = lively_dnc(num_cells=259, backend="cpu", **options)
    expected = dnc_and_gradients(model, batch_size=batch_size)
    for count in (2, 3):
        threads(count)
        assert_close(dnc_and_gradients(model, batch_size=batch_size), expected, "equal")
        assert max(shared_out) >= 2


@pytest.mark.parametrize("count", [1, 3])
def test_two_python_threads_train_at_once(
    every_team: None, threads: Callable[[int], None], count: int
) -> None:
    """Kernels run without the GIL: nothing they write to may be shared between calls."""
    models = [lively_dnc(seed, num_cells=70, backend="cpu") for seed in (0, 1, 2)]
    expected = [dnc_and_gradients(model, seed) for seed, model in enumerate(models)]
    threads(count)
    failures: list[BaseException] = []
    start = threading.Barrier(len(models))

    def train(seed: int) -> None:
        try:
            start.wait(timeout=30)
            for _ in range(10):
                assert_close(dnc_and_gradients(models[seed], seed), expected[seed], "equal")
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=train, args=(s,), daemon=True) for s in range(len(models))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers), "they wait for each other"
    assert not failures, failures[0]


def test_an_error_in_a_helper_reaches_the_caller(every_team: None) -> None:
    def fail(first: int, last: int) -> None:
        if first:
            raise ArithmeticError(f"in [{first}, {last})")

    with pytest.raises(ArithmeticError, match=r"in \[2, 4\)"):
        thread_team.run_ranges([(0, 2), (2, 4)], fail)


def test_an_error_is_raised_when_all_threads_have_finished(every_team: None) -> None:
    """Arrays may be freed once the caller has the error."""
    finished = []

    def work(first: int, last: int) -> None:
        if not first:
            raise KeyboardInterrupt
        time.sleep(0.2)
        finished.append(first)

    with pytest.raises(KeyboardInterrupt):
        thread_team.run_ranges([(0, 1), (1, 2)], work)
    assert finished == [1]


def test_default_device_of_torch_does_not_matter() -> None:
    model = lively_dnc(backend="cpu")
    x, state = normal(4, 2, 3), lively_state(model, 2)
    expected = model(x, state)[0]
    with torch.device("meta"):
        output = model(x, state)[0]
        output.sum().backward()
    assert torch.equal(output, expected)


@given(threads=st.integers(1, 9), count=st.integers(1, 40))
def test_work_is_shared_out_once(threads: int, count: int) -> None:
    done = np.zeros(count, int)

    def work(first: int, last: int) -> None:
        assert first < last
        done[first:last] += 1

    thread_team.run_ranges(thread_team.ranges_of(count, threads), work)
    assert (done == 1).all()


@pytest.mark.skipif(thread_team._team is None, reason="no GNU OpenMP in this torch")
def test_a_team_that_is_smaller_than_asked_for() -> None:
    """With a thread limit in OpenMP, work that its threads did not take is still done."""
    code = """
from dnc_fast.backends.cpu import thread_team
done = []
thread_team.run_ranges([(0, 1), (1, 2), (2, 3)], lambda first, last: done.append((first, last)))
assert sorted(done) == [(0, 1), (1, 2), (2, 3)], done
"""
    python(code, OMP_THREAD_LIMIT="2")


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), threads=st.integers(1, 9))
def test_sequences_are_shared_out_fairly(lengths: list[int], threads: int) -> None:
    """Each once; no thread gets more steps than its share plus one sequence."""
    lengths = sorted(lengths, reverse=True)
    batch_sizes = np.array([sum(n > t for n in lengths) for t in range(lengths[0])])
    ranges = fused.fair_ranges(batch_sizes, threads)
    assert [b for first, last in ranges for b in range(first, last)] == list(range(len(lengths)))
    assert len(ranges) <= threads
    most = max(sum(lengths[first:last]) for first, last in ranges)
    assert most <= sum(lengths) / threads + lengths[0]


# Processes


def in_child(connection: Any, sizes: MemorySizes) -> None:
    connection.send(map_tensors(lambda tensor: tensor.numpy(), step_and_gradients(sizes)))
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("used_before", [False, True], ids=["fresh", "used before"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("sizes", [FEW._replace(num_cells=40), MANY._replace(num_cells=40)])
def test_forked_process_computes_the_same(
    threads: Callable[[int], None], sizes: MemorySizes, count: int, used_before: bool
) -> None:
    """A DataLoader's workers: a child has none of the parent's threads, but all its locks."""
    expected = step_and_gradients(sizes)
    threads(count)
    if used_before:
        step_and_gradients(sizes)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(theirs, sizes), daemon=True)
    child.start()
    theirs.close()
    try:
        assert ours.poll(30), "the child hangs"
        assert_close(ours.recv(), map_tensors(lambda t: t.numpy(), expected), "equal")
        child.join(timeout=30)
        assert child.exitcode == 0
        # And the parent goes on.
        assert_close(step_and_gradients(sizes), expected, "equal")
    finally:
        child.kill()


# Memory that was not set


def poison(scratch: Any) -> Any:
    for array in scratch:
        array.fill(-(10**9) if array.dtype == np.int64 else np.nan)
    return scratch


@pytest.fixture
def all_poisoned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """All that torch leaves uninitialised, and the kernels' scratch arrays, are full of NaN."""
    make_scratch = fused.kernels.make_scratch
    monkeypatch.setattr(fused.kernels, "make_scratch", lambda *args: poison(make_scratch(*args)))
    with poisoned():
        assert torch.empty(100).isnan().all()
        yield


POISONED_SIZES = (MemorySizes(2, 5, 3, 2, 2), MemorySizes(1, 1, 1, 1, 1), FEW)
EXPECTED = {
    (sizes, order): step_and_gradients(sizes, order)
    for sizes in POISONED_SIZES
    for order in USAGE_ORDERS
}


@pytest.mark.parametrize("count", [1, 3])
@every_order
@pytest.mark.parametrize("sizes", POISONED_SIZES, ids=str)
def test_all_results_of_a_step_are_set(
    all_poisoned: None, threads: Callable[[int], None], sizes: MemorySizes, order: str, count: int
) -> None:
    threads(count)
    assert_close(step_and_gradients(sizes, order), EXPECTED[sizes, order], "equal")


# NaN and infinity


FIELDS = MemoryState._fields


@every_order
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("N", [5, 100])
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_not_finite_shows(field: str, N: int, value: float, order: str) -> None:
    """Where the reference has NaN or infinity, so have the kernels, and nowhere in other rows.

    They are compiled to reorder sums, which must not take with it that NaN is like nothing. The
    order of cells whose usage is infinite or negative is anyone's, and so is where it shows but in
    what is read.
    """
    sizes = MemorySizes(2, N, 3, 2, 2)
    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    clean = memory_step(vector, state, backend="cpu", usage_order=order)
    part = getattr(state, field)
    part[0, ..., 1 % part.shape[-1]] = value
    results = memory_step(vector, state, backend="cpu", usage_order=order)
    expected = memory_step(vector, state, backend="reference", usage_order=order)
    assert not all(part.isfinite().all() for part in (expected[0], *expected[1]))
    for name, result, wanted, other in zip(
        ("read_vectors", *FIELDS),
        (results[0], *results[1]),
        (expected[0], *expected[1]),
        (clean[0], *clean[1]),
        strict=True,
    ):
        if np.isnan(value) or name == "read_vectors" or field in ("memory", "link", "precedence"):
            assert not result[0][~wanted[0].isfinite()].isfinite().any(), name
        assert torch.equal(result[1], other[1]), name


@pytest.mark.parametrize("N", [5, 100])
def test_gradients_that_are_not_finite_show(N: int) -> None:
    sizes = MemorySizes(2, N, 3, 2, 1)
    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    cotangents = make_cotangents(vector, state)
    cotangents[0][0, 0, 1] = torch.nan
    found, expected = (
        run_step(vector, state, cotangents, backend=name)["gradient of interface"].isnan()
        for name in ("cpu", "reference")
    )
    assert expected[0].any() and torch.equal(found, expected)


# Processes


@pytest.mark.full
def test_the_first_process_computes_the_same_bits_as_later_ones(tmp_path: Any) -> None:
    """Kernels compiled in this process may round differently from cached ones: none are used."""
    code = """
import sys
import torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from test_cpu_kernels import EXPECTED
torch.save(EXPECTED, {path!r})
"""
    results = []
    for number in range(2):
        path = str(tmp_path / str(number))
        python(
            code.format(tests=os.path.dirname(__file__), path=path), XDG_CACHE_HOME=str(tmp_path)
        )
        results.append(list(torch.load(path, weights_only=False).values()))
    assert_close(results[0], results[1], "equal")
