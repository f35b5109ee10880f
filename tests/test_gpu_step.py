"""The whole memory step by the GPU kernels: values, gradients, torch's machinery, sequences."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gpu import DEVICE, SMALL_ORDER, assert_as_good_as_torch, poisoned
from states import (
    assert_close,
    make_cotangents,
    named_parts,
    normal,
    random_interfaces,
    run_step,
    separated_state,
)
from test_memory_step import STATES, make_inputs, order_is_safe
from torch import Tensor
from torch.autograd import forward_ad

from dnc_fast import DNC, MemoryState, memory_step
from dnc_fast.interface import interface_size
from dnc_fast.state import MemorySizes, map_tensors, tensors
from dnc_fast.step_options import PAPER, USAGE_ORDERS
from dnc_fast.tasks import CopyTask

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.kernels.arrays import Adjoint, Step
from dnc_fast.kernels.gpu import launch, linkage, small_step
from dnc_fast.kernels.gpu import step as kernels

SMALL_CELLS = (1, 2, 5, 16, 17, 33, 63, 64)
CELLS = (*SMALL_CELLS, 100, 128, 257, 512)
CELL_SIZES, READ_HEADS, WRITE_HEADS = (1, 5, 16, 32, 64), (1, 2, 3, 4, 5, 16), (1, 2, 3)
SIZES = MemorySizes(2, 4, 3, 2, 1)
TIED = ("tied", "zero")

Inputs = tuple[Tensor, MemoryState, list[Tensor]]


@pytest.fixture(params=["strips", "tiles"])
def way(request: pytest.FixtureRequest, tiles: Callable[..., None]) -> None:
    """Both implementations for a small memory; a large one always uses tiles."""
    if request.param == "tiles":
        tiles(SMALL_CELLS=0)


both_ways = pytest.mark.usefixtures("way")


def results(backend: str, order: str, *given: Any) -> dict[str, Tensor]:
    return run_step(*given, backend=backend, usage_order=order)


# Values and gradients


class Case(NamedTuple):
    kind: str
    sizes: MemorySizes
    order: str
    tiled: bool

    def __str__(self) -> str:
        sizes = (f"{letter}{size}" for letter, size in zip("BNWRH", self.sizes, strict=True))
        return "-".join((self.kind, *sizes, self.order, "tiled" if self.tiled else "strips"))


def covering(N: int, tiled: bool) -> list[Case]:
    """Every cell size with most numbers of read heads, each of them with every kind of state.

    With ties, rounding decides the exact order of a second write head.
    """
    chance, found = random.Random(N), []
    for (w, W), (r, R) in itertools.product(enumerate(CELL_SIZES), enumerate(READ_HEADS)):
        if (w + r + N) % 3 == 0 or (R == 16 and N > 64):
            continue
        kind, order = STATES[(w + r) % len(STATES)], chance.choice(USAGE_ORDERS)
        Hw = chance.choice(WRITE_HEADS)
        if Hw > 1 and kind in TIED:
            order = "robust"
        found.append(Case(kind, MemorySizes(2 if N < 33 else 1, N, W, R, Hw), order, tiled))
    return found


def some_cases() -> list[tuple[Case, torch.dtype]]:
    """Two for each small number of cells, with both implementations; few of the large ones."""
    chance, found = random.Random(0), []
    for N in SMALL_CELLS:
        for i, case in enumerate(chance.sample(covering(N, False), 2)):
            dtypes = (torch.float64, torch.float32)
            found.append((case, dtypes[i]))
            if (i + N) % 2:
                found.append((case._replace(tiled=True), dtypes[1 - i]))
    for kind, *sizes in (
        ("random", 100, 5, 1, 2),
        ("zero", 128, 64, 2, 1),
        ("tied", 257, 32, 1, 1),
        ("saturated", 130, 1, 1, 1),
    ):
        found.append((Case(kind, MemorySizes(1, *sizes), "exact", tiled=True), torch.float32))
    return found


def round_to(dtype: torch.dtype, tree: Any) -> Any:
    return map_tensors(lambda tensor: tensor.to(DEVICE, dtype), tree)


def assert_equals_the_reference(order: str, given: Inputs, name: str) -> None:
    """float64: equal. Other dtypes: as good as plain torch on the same numbers."""
    with poisoned():
        actual = results("triton", order, *given)
    exact = results("reference", order, *round_to(torch.float64, given))
    if given[1].memory.dtype == torch.float64:
        assert_close(actual, exact, "float64", name)
    else:
        plain = results("reference", order, *given)
        assert_as_good_as_torch(actual, plain, exact, name)


def compare(case: Case, dtype: torch.dtype) -> None:
    vector, state = make_inputs(case[:3])
    given = round_to(dtype, (vector, state, make_cotangents(vector, state)))
    with pytest.MonkeyPatch.context() as patch:
        if case.tiled:
            patch.setattr(launch, "SMALL_CELLS", 0)
        assert_equals_the_reference(case.order, given, str(case))


@pytest.mark.parametrize(("case", "dtype"), some_cases(), ids=str)
def test_equals_the_reference(case: Case, dtype: torch.dtype) -> None:
    compare(case, dtype)


@pytest.mark.full
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("N", "tiled"), [(N, tiled) for N in CELLS for tiled in (False, True) if tiled or N <= 64]
)
def test_equals_the_reference_at_all_sizes(N: int, tiled: bool, dtype: torch.dtype) -> None:
    """On a GPU every kind of state and both orders; interpreted, half of what takes longest."""
    for place, case in enumerate(covering(N, tiled)):
        if DEVICE == "cuda":
            for kind, order in itertools.product(STATES, USAGE_ORDERS):
                if order == "robust" or case.sizes.num_write_heads == 1 or kind not in TIED:
                    compare(case._replace(kind=kind, order=order), dtype)
        elif N < 257 or (place % 2 == 0) == (dtype == torch.float64):
            compare(case, dtype)


@pytest.fixture
def several_tiles(
    monkeypatch: pytest.MonkeyPatch, tiles: Callable[..., None]
) -> Callable[..., None]:
    """Of everything, as only memories of hundreds of cells have."""
    tiles(STEP_NUMBERS=8, READ_NUMBERS=1, READ_GROUP=2, **SMALL_ORDER)
    sizes = {"SLOTS": 2, "BM": 2, "BN": 32, "num_warps": 2}
    return lambda **tiling: monkeypatch.setattr(
        linkage, "tiling", lambda N, dtype: {**sizes, **tiling}
    )


def test_strips_of_several_blocks(several_tiles: Callable[..., None]) -> None:
    """A program takes several blocks of rows of the link matrix where there are thousands."""
    several_tiles(STRIPS=5, CHUNKS=2, BLOCKS=2)
    compare(Case("random", MemorySizes(1, 35, 3, 1, 2), "exact", tiled=True), torch.float64)


@both_ways
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_strong_keys_opposite_to_all_cells(dtype: torch.dtype) -> None:
    """Scores so low that e^-score is infinite, which is what cells that are none would have."""
    sizes = MemorySizes(1, 3, 2, 1, 1)
    vector, state, cotangents = inputs_of(sizes, dtype)
    keys = torch.tensor([1.0, 2.0, 800.0])  # of the read head, and of the write head
    vector[0, :6] = torch.cat([keys, keys])
    state = state._replace(memory=-keys[:2].expand(1, 3, 2).to(vector))
    assert_equals_the_reference("exact", (vector, state, cotangents), "opposite")


HALVES = (torch.bfloat16, torch.float16)


@both_ways
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["vector", "vector and state"])
def test_half_precision(whole: bool, dtype: torch.dtype) -> None:
    """Of the vector alone, as under autocast, or of the state too; calculated in float32."""
    sizes = MemorySizes(2, 12, 5, 2, 2)
    for seed in itertools.count():
        vector, state = random_interfaces(1, sizes, seed)[0], separated_state(sizes, seed)
        given = vector, state, make_cotangents(vector, state)
        given = round_to(torch.float32, round_to(dtype, given))
        if order_is_safe(*round_to(torch.float64, given[:2]), "exact"):
            break
    given = round_to(dtype, given) if whole else (given[0].to(dtype), *given[1:])
    assert_equals_the_reference("exact", given, str(dtype))


# Which numbers, where, and how often


def inputs_of(sizes: MemorySizes = SIZES, dtype: torch.dtype = torch.float32) -> Inputs:
    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    return round_to(dtype, (vector, state, make_cotangents(vector, state)))


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert_close(actual, expected, "equal")


@both_ways
def test_each_element_of_a_batch_is_as_if_alone(several_tiles: Callable[..., None]) -> None:
    several_tiles(STRIPS=2, CHUNKS=1, BLOCKS=1)
    given = inputs_of(MemorySizes(3, 5, 3, 2, 2))
    batch = results("triton", "exact", *given)
    last, expected = map_tensors(lambda tensor: tensor[2:], (given, batch))
    assert_same_bits(results("triton", "exact", *last), expected)


# Torch's machinery


@both_ways
def test_passes_opcheck() -> None:
    vector, state, cotangents = inputs_of(MemorySizes(1, 2, 1, 1, 1))
    inputs = [tensor.requires_grad_() for tensor in (vector, *state)]
    torch.library.opcheck(kernels.memory_step, (*inputs, False))
    saved = [tensor.detach() for tensor in (*inputs, *kernels.memory_step(*inputs, False)[1:])]
    del saved[9:11]  # neither the new precedence nor the new link matrix
    torch.library.opcheck(kernels.memory_step_backward, (*cotangents, *saved, False))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_in_one_graph(dynamic: bool) -> None:
    """With what is around it, and at another batch size too."""

    def function(vector: Tensor, *fields: Tensor) -> tuple[Tensor, ...]:
        reads, new = memory_step(2 * vector, MemoryState(*fields), backend="triton")
        return 2 * reads, *new

    def outcome(function: Callable[..., Any], given: Inputs) -> Any:
        leaves = [part.detach().requires_grad_() for part in (given[0], *given[1])]
        outputs = function(*leaves)
        return outputs, torch.autograd.grad(outputs, leaves, given[2])

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch_size in (2, 3) if dynamic else (2,):
        given = inputs_of(MemorySizes(batch_size, 2, 1, 1, 1))
        assert_same_bits(outcome(compiled, given), outcome(function, given))


def reads_and_link(vector: Tensor, state: MemoryState, backend: str) -> Tensor:
    """Of which each transform finds something."""
    reads, new = memory_step(vector, state, backend=backend)
    return reads.square().sum() + new.link.square().sum()


def dual(function: Callable[[Tensor], Tensor], vector: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(vector, vector)))


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda function, vector: torch.func.grad(function)(vector),
    "vjp": lambda function, vector: torch.func.vjp(function, vector)[0],
    "vmap": lambda function, vector: torch.func.vmap(function)(torch.stack([vector, -vector])),
    "jvp": lambda function, vector: torch.func.jvp(function, (vector,), (vector,)),
    "forward mode": dual,
    "second gradient": lambda function, vector: torch.func.grad(
        lambda inner: torch.func.grad(function)(inner).sum()
    )(vector),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_need_the_reference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Other backends refuse; "auto" chooses the reference."""
    monkeypatch.delenv("DNC_FAST_BACKEND", raising=False)
    vector, state, _ = inputs_of(dtype=torch.float64)

    def transformed(backend: str) -> Any:
        return TRANSFORMS[name](lambda vector: reads_and_link(vector, state, backend), vector)

    for backend in ("triton", "eager"):
        with pytest.raises(RuntimeError, match=rf"'{backend}'.*backend=\"reference\" can do that"):
            transformed(backend)
    expected = transformed("reference")
    assert all(part.any() for _, part in named_parts(expected, name))
    # Not bit for bit: on a GPU, torch adds up float64 gradients of gathers in any order.
    assert_close(transformed("auto"), expected, "float64")


def test_gradients_of_many_at_once() -> None:
    """torch.autograd.functional's older vmap only goes through the backward pass."""
    vector, state, _ = inputs_of(dtype=torch.float64)
    cotangents, found = normal(2, 2, 2, 3).to(DEVICE), []
    for backend in ("triton", "reference"):
        leaf = vector.clone().requires_grad_()
        reads, _ = memory_step(leaf, state, backend=backend)
        found += torch.autograd.grad(reads, leaf, cotangents, is_grads_batched=True)
    assert_close(*found, "float64")


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
@both_ways
def test_in_a_cuda_graph() -> None:
    """Forward and backward, replayed with other numbers."""
    given = inputs_of()
    place = map_tensors(torch.zeros_like, given)
    results("triton", "exact", *place)  # compiles, before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = results("triton", "exact", *place)
    for old, new in zip(tensors(place), tensors(given), strict=True):
        old.copy_(new)
    graph.replay()
    assert_same_bits(found, results("triton", "exact", *given))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@both_ways
def test_on_another_device_than_the_current_one() -> None:
    given = inputs_of()
    expected = results("triton", "exact", *given)
    found = results("triton", "exact", *map_tensors(lambda part: part.to("cuda:1"), given))
    assert_same_bits(map_tensors(Tensor.cpu, found), map_tensors(Tensor.cpu, expected))


# Launches


def new_step(
    sizes: MemorySizes, new: Callable[..., Tensor]
) -> tuple[Step, Adjoint, kernels.Scratch]:
    """The arrays of a step, each made by a function of its shape."""
    B, _, W, R, Hw = sizes
    shapes = [tuple(part.shape) for part in MemoryState.zeros(*sizes, device="meta")]
    vector, reads = (B, interface_size(W, R, Hw)), (B, R, W)
    step = Step(new(vector), *(new(shape) for shape in shapes for _ in range(2)), new(reads))
    adjoint = Adjoint(new(vector), *map(new, shapes))
    device = step.vector.device
    return step, adjoint, kernels.make_scratch(*sizes, torch.float32, device)


@pytest.mark.parametrize(
    ("sizes", "forward", "backward"),
    [
        (MemorySizes(3, 1, 1, 1, 1), 1, 2),
        (MemorySizes(16, 64, 64, 4, 3), 2, 2),
        (MemorySizes(3, 65, 32, 1, 1), 4, 4),
        (MemorySizes(3, 65, 32, 1, 3), 4, 4),
        (MemorySizes(8, 1024, 64, 4, 1), 5, 4),
        (MemorySizes(8, 1024, 64, 4, 2), 7, 4),
        (MemorySizes(1, 4096, 64, 4, 1), 5, 6),
    ],
    ids=str,
)
def test_few_launches(sizes: MemorySizes, forward: int, backward: int) -> None:
    """More cells than a program can sort take launches of their own to allocate."""
    step, adjoint, scratch = new_step(sizes, lambda shape: torch.empty(shape, device="meta"))
    kept = kernels.make_kept(step)
    with launch.recorded() as launches:
        kernels.forward(step, scratch, False, kept)
        assert len(launches) == forward
        launches.clear()
        kernels.backward(step, adjoint, scratch, False, kept)
        assert len(launches) == backward


def test_after_a_failed_backward_pass_the_next_begins_at_the_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As when a GPU's memory runs out while a backward pass is recorded, which is then launched."""
    from dnc_fast.backends.triton.backend import TritonFusedRun

    step, adjoint, _ = new_step(SIZES, lambda shape: torch.empty(shape, device="meta"))
    run = TritonFusedRun(SIZES, torch.float32, step.vector.device, PAPER, keep=True)
    for _ in range(3):
        run.forward(step)
    used: list[Tensor] = []
    monkeypatch.setattr(kernels, "backward", lambda *given: used.append(given[-1]))
    for steps in (1, 3, 2, 3):
        used.clear()
        run.begin_backward([None])
        for _ in range(steps):
            run.backward(step, adjoint)
        assert [id(kept) for kept in used] == [id(kept) for kept in run._kept[::-1][:steps]]


# Beyond 2^31 numbers


def zeros(shape: Any) -> Tensor:
    """Of any size: with NumPy, pages are allocated only when they are written to."""
    if DEVICE == "cuda":
        return torch.zeros(shape, device=DEVICE)
    try:
        return torch.from_numpy(np.zeros(tuple(shape), np.float32))
    except MemoryError:
        pytest.skip("this machine does not promise so much memory")


@pytest.fixture
def last_programs_only(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """In the interpreter, of each launch only programs that are last along some axes run."""
    axes: list[int] = []
    if DEVICE == "cuda":
        return axes
    from triton.runtime.interpreter import interpreter_builder

    run, set_dim, set_index = (
        launch.run,
        interpreter_builder.set_grid_dim,
        interpreter_builder.set_grid_idx,
    )

    def run_last(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        skipped = [size - 1 if axis in axes else 0 for axis, size in enumerate((*grid, 1, 1)[:3])]
        if kernel.fn.__module__ == linkage.link_pass.__name__:  # has all three axes in one
            parts = constants["STRIPS"], constants["CHUNKS"]
            sizes = (grid[0] // math.prod(parts), *parts)
            last = math.prod(size for axis, size in enumerate(sizes) if axis not in axes)
            skipped = [grid[0] - last, 0, 0]
        monkeypatch.setattr(
            interpreter_builder, "set_grid_dim", lambda *_: set_dim(*(*grid, 1, 1)[:3])
        )
        monkeypatch.setattr(
            interpreter_builder,
            "set_grid_idx",
            lambda *index: set_index(*map(sum, zip(index, skipped, strict=True))),
        )
        shorter = tuple(size - skip for size, skip in zip(grid, skipped, strict=False))
        run(kernel, shorter, *arguments, **constants)

    monkeypatch.setattr(launch, "run", run_last)
    return axes


def in_last_row(tensor: Tensor, rows: int) -> Tensor:
    """(rows, ...) zeros, but the last row."""
    whole = zeros((rows, *tensor.shape[1:]))
    whole[-1] = tensor[0]
    return whole


takes_40_gib = pytest.mark.skipif(
    DEVICE == "cuda" and torch.cuda.mem_get_info()[0] < 40 * 2**30, reason="takes 40 GiB"
)


@takes_40_gib
@pytest.mark.parametrize("N", [64, 128])
def test_batches_of_more_than_2_31_links(
    monkeypatch: pytest.MonkeyPatch, last_programs_only: list[int], N: int
) -> None:
    monkeypatch.setattr(small_step, "PROGRAMS", math.inf)  # strips as low as in a batch of one
    sizes = MemorySizes(1, N, 1, 1, 1)
    vector, state, (d_reads, *d_state) = inputs_of(sizes)

    def outcome(rows: int) -> list[Tensor]:
        """Of the last row of a batch."""
        given = [in_last_row(part, rows) for part in (vector, *state)]
        step, adjoint, scratch = new_step(sizes._replace(batch_size=rows), zeros)
        old = dict(zip((f for f in Step._fields if f[-1] == "0"), given[1:], strict=True))
        step = step._replace(vector=given[0], **old)
        kept = kernels.make_kept(step)
        kernels.forward(step, scratch, False, kept)
        found = [getattr(step, f)[-1].clone() for f in Step._fields if f[-1] != "0"]
        step.reads[-1] = d_reads[0]
        for part, gradient in zip(adjoint[1:], d_state, strict=True):
            part[-1] = gradient[0]
        kernels.begin_backward(scratch)
        kernels.backward(step, adjoint, scratch, False, kept)
        kernels.finish_backward(step.memory0, adjoint.memory, scratch)
        return found + [part[-1].clone() for part in adjoint]

    expected = outcome(1)
    last_programs_only.append(0)
    assert_same_bits(outcome(2**31 // N**2 + 2), expected)


@takes_40_gib
def test_link_matrix_of_more_than_2_31_numbers(last_programs_only: list[int]) -> None:
    """Of which a program is asked for the last tiles, in both passes."""
    N, last = 46400, slice(46400 - 64, 46400)
    last_programs_only += [1, 2]
    weights, precedence, read, change = (zeros((1, 1, N)) for _ in range(4))
    for part in (weights, precedence, read, change):
        part[..., last] = normal(64).to(part) / 64
    link, new_link, d_link = (zeros((1, 1, N, N)) for _ in range(3))
    link[..., last, last] = normal(64, 64).to(link)
    d_link[..., last, last] = normal(64, 64).to(link)
    rows, columns = linkage.partials(link, 1, N, 1, 1)
    linkage.launch_pass(
        weights, precedence, read, link, new_link, torch.empty_like(weights), rows, columns
    )
    w, p, r, c = (part[0, 0, last] for part in (weights, precedence, read, change))
    off_diagonal = 1 - torch.eye(64, device=DEVICE)
    old = link[0, 0, last, last]
    kept = 1 - w[:, None] - w[None, :]
    expected = (kept * old + w[:, None] * p[None, :]) * off_diagonal
    assert_close(new_link[0, 0, last, last], expected, "float32")
    gradient = d_link[0, 0, last, last] + c[:, None] * r[None, :] + r[:, None] * c[None, :]
    expected = kept * gradient * off_diagonal
    linkage.launch_pass_backward(
        weights, precedence, read, link, d_link, change[0], change[0], None, rows, columns
    )
    assert_close(d_link[0, 0, last, last], expected, "float32")


# Sequences


@pytest.mark.parametrize("updates", [8, pytest.param(200, marks=pytest.mark.full)])
def test_training_follows_the_reference(updates: int) -> None:
    """The copy task in float32. In an untouched memory, rounding would decide the exact order, so
    cells are ordered robustly.
    """
    task, curves = CopyTask(1, 2, num_bits=3), []
    for backend in ("triton", "reference"):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model = DNC(
            task.input_size,
            8,
            output_size=task.output_size,
            num_cells=4,
            cell_size=4,
            num_read_heads=1,
            usage_order="robust",
            backend=backend,
        ).to(DEVICE)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        curve = []
        for _ in range(updates):
            batch = task.batch(2, generator).to(DEVICE)
            loss = task.loss(model(batch.inputs)[0], batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.detach())
        curves.append(torch.stack(curve))
    torch.testing.assert_close(*curves, rtol=0, atol=1e-4)
    assert updates < 200 or curves[1][-50:].mean() < 0.9 * curves[1][:50].mean()
