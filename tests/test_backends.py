"""Which backend runs, and the hand-derived memory step of each against autograd in float64."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from states import (
    HAS_NUMBA,
    assert_close,
    normal,
    random_interfaces,
    require_grad,
    separated_state,
    zero_state,
)
from torch import Tensor

from dnc_fast import MemoryState, memory_step
from dnc_fast.backends import VARIABLE, backend_problem, choice, resolve_backend
from dnc_fast.options import USAGE_ORDERS
from dnc_fast.state import MemorySizes, map_tensors

CPU, CUDA, META = map(torch.device, ("cpu", "cuda", "meta"))

needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
every_backend = pytest.mark.parametrize(
    "backend", ["eager", pytest.param("cpu", marks=needs_numba)]
)
every_order = pytest.mark.parametrize("order", USAGE_ORDERS)
SIZES = MemorySizes(2, 7, 3, 2, 2)

# On a CPU; Triton's interpreter only where it is switched on.
RUNNABLE = ["reference", "eager"] + [
    name for name in ("cpu", "triton") if backend_problem(name, CPU, torch.float32) is None
]


# Which one runs


@pytest.fixture
def without_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture(params=[True, False], ids=["numba", "no numba"])
def numba(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, without_variable: None
) -> bool:
    """With Numba and without it."""
    if request.param and not HAS_NUMBA:
        pytest.skip("needs numba")
    if not request.param:
        remove(monkeypatch, "numba")
    return request.param


def remove(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if a package could not be imported, and no backend had been loaded yet."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(choice, "_found", {})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, without_variable: None) -> Iterator[Callable[..., None]]:
    """Makes this a machine with a GPU, as far as the choice of a backend can see."""

    def build(version: str | None = "3.6.0", capability: tuple[int, int] = (8, 0)) -> None:
        if version is None:
            monkeypatch.setitem(sys.modules, "triton", None)
        else:
            monkeypatch.setattr(pytest.importorskip("triton"), "__version__", version)
        monkeypatch.setattr(choice, "_found", {})
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        choice._warn_once.cache_clear()

    yield build
    choice._warn_once.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_takes_the_fastest_that_can_run(numba: bool, dtype: torch.dtype) -> None:
    assert resolve_backend("auto", CPU, dtype) == ("cpu" if numba else "eager")
    assert resolve_backend("auto", META, dtype) == "reference"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_auto_is_the_reference_in_half_precision(
    numba: bool, device: torch.device, dtype: torch.dtype
) -> None:
    assert resolve_backend("auto", device, dtype) == "reference"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", ["3.6.0", "3.9.1+git", "3.10.0", "4.0"])
def test_auto_on_a_gpu_is_triton(
    gpu: Callable[..., None], version: str, dtype: torch.dtype
) -> None:
    gpu(version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_backend("auto", CUDA, dtype) == "triton"
        assert resolve_backend("triton", CUDA, dtype) == "triton"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"version": None}, ModuleNotFoundError, "needs Triton, which cannot .*pip install triton"),
        ({"version": "3.5.1"}, RuntimeError, "needs Triton 3.6 or newer, got 3.5.1.*newer torch"),
        ({"version": "2.9"}, RuntimeError, "needs Triton 3.6 or newer, got 2.9"),
        ({"capability": (7, 5)}, RuntimeError, "capability 8.0 or newer, got a GPU"),
    ],
)
def test_where_triton_cannot_run_auto_says_so_once_and_the_name_raises(
    gpu: Callable[..., None], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    gpu(**given)
    with pytest.warns(UserWarning, match=message):
        assert resolve_backend("auto", CUDA, torch.float32) == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_backend("auto", CUDA, torch.float32) == "eager"
        assert resolve_backend("auto", CUDA, torch.bfloat16) == "reference"
    with pytest.raises(error, match=message):
        resolve_backend("triton", CUDA, torch.float32)


@pytest.mark.parametrize("device", [CPU, META], ids=str)
def test_triton_takes_nothing_that_is_elsewhere(
    gpu: Callable[..., None], device: torch.device
) -> None:
    gpu()
    message = f'backend "triton" needs tensors on a CUDA or ROCm device, got {device}; use "auto"'
    with pytest.raises(ValueError, match=message):
        resolve_backend("triton", device, torch.float32)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_name_is_taken_at_its_word(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also against the environment, which only says what `auto` is."""
    for variable in RUNNABLE:
        monkeypatch.setenv(VARIABLE, variable)
        assert resolve_backend(name, CPU, torch.float32) == name


@pytest.mark.parametrize("name", RUNNABLE)
def test_variable_says_what_auto_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(VARIABLE, name)
    assert resolve_backend("auto", CPU, torch.float64) == name


@pytest.mark.parametrize("value", ["auto", ""])
def test_variable_may_say_auto_or_nothing(
    monkeypatch: pytest.MonkeyPatch, numba: bool, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert resolve_backend("auto", CPU, torch.float32) == ("cpu" if numba else "eager")


def test_variable_reaches_the_memory_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second gradient is what tells the backends apart from outside."""
    vector, state = random_interfaces(1, SIZES)[0].requires_grad_(), separated_state(SIZES)

    def second_gradient() -> None:
        reads, _ = memory_step(vector, state)
        torch.autograd.grad(reads.sum(), vector, create_graph=True)

    monkeypatch.setenv(VARIABLE, "reference")
    second_gradient()
    monkeypatch.setenv(VARIABLE, "eager")
    with pytest.raises(RuntimeError, match="create_graph"):
        second_gradient()


@pytest.mark.parametrize("name", ["gpu", "CPU"])
def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"^backend must be.*'reference'.*got " + repr(name)):
        resolve_backend(name, CPU, torch.float32)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ValueError, match=rf"^{VARIABLE} must be.*'reference'.*got {name!r}"):
        resolve_backend("auto", CPU, torch.float32)


def test_kernels_without_numba_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit name never falls back, nor does the variable."""
    remove(monkeypatch, "numba")
    message = r'backend "cpu" needs Numba, which cannot be imported.*`pip install numba`'
    with pytest.raises(ModuleNotFoundError, match=message):
        resolve_backend("cpu", CPU, torch.float32)
    with pytest.raises(ModuleNotFoundError, match=message):
        memory_step(random_interfaces(1, SIZES)[0], separated_state(SIZES), backend="cpu")
    monkeypatch.setenv(VARIABLE, "cpu")
    with pytest.raises(ModuleNotFoundError, match=message):
        resolve_backend("auto", CPU, torch.float32)


@needs_numba
@pytest.mark.parametrize("device", [CUDA, META], ids=str)
def test_kernels_take_nothing_that_is_elsewhere(device: torch.device) -> None:
    with pytest.raises(ValueError, match=rf'backend "cpu" needs tensors on the cpu, got {device}'):
        resolve_backend("cpu", device, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["eager", pytest.param("cpu", marks=needs_numba)])
def test_half_precision_is_refused_by_name(name: str, dtype: torch.dtype) -> None:
    message = rf"backend '{name}' needs a state in float32 or float64, got {dtype}; \"reference\""
    with pytest.raises(ValueError, match=message):
        resolve_backend(name, CPU, dtype)
    with pytest.raises(ValueError, match=message):
        memory_step(random_interfaces(1, SIZES)[0], separated_state(SIZES).to(dtype), backend=name)


WITHOUT_NUMBA = """
import sys
sys.modules["numba"] = None  # whoever imports it fails
import torch
from dnc_fast import DNC
assert torch.isfinite(DNC(2, 3, num_cells=4, cell_size=2)(torch.zeros(3, 1, 2))[0]).all()
try:
    DNC(2, 3, backend="cpu")(torch.zeros(3, 1, 2))
except ModuleNotFoundError as error:
    print(error)
"""


def test_works_where_numba_cannot_be_imported(without_variable: None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "pip install numba" in done.stdout


@every_backend
def test_autocast_changes_nothing(backend: str) -> None:
    found = []
    for enabled in (False, True):
        inputs = random_interfaces(1, SIZES)[0].float(), separated_state(SIZES).to(torch.float32)
        inputs = require_grad(inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            reads, state = memory_step(*inputs, backend=backend)
            total = reads.sum() + state.memory.square().sum()
            found.append([reads, *torch.autograd.grad(total, [inputs[0], *inputs[1]])])
    assert_close(*found, "equal")


# Their results and gradients


STATES = ("random", "saturated", "tied", "zero")
CELLS = (1, 3, 16, 33, 64, 100, 257, 300, 520)
CELL_SIZES, READ_HEADS, WRITE_HEADS = (1, 5, 32), (1, 2, 4, 5), (1, 2, 3)

Case = tuple[str, MemorySizes, str]


def every_case(kind: str, N: int) -> list[Case]:
    """All sizes and orders of a kind of state and a number of cells.

    From ties, the exact order of the second write head hangs on the last bits of what the first
    allocates to the last cells; see semantics.md on near-ties.
    """
    return [
        (kind, MemorySizes(2, N, W, R, Hw), order)
        for W, R, Hw, order in itertools.product(CELL_SIZES, READ_HEADS, WRITE_HEADS, USAGE_ORDERS)
        if order == "robust" or Hw == 1 or kind in ("random", "saturated")
    ]


def make_inputs(case: Case) -> tuple[Tensor, MemoryState]:
    """Raw vector and state in float64, of numbers that float32 has too.

    Where the order of cells is rounding's choice, another seed is taken.
    """
    kind, sizes, order = case
    for seed in range(1000):
        (vector,) = random_interfaces(1, sizes, seed, scale=30.0 if kind == "saturated" else 1.0)
        state = separated_state(sizes, seed)
        if kind == "zero":
            state = zero_state(sizes)
        if kind == "tied":  # what was neither written nor read keeps its usage
            none = zero_state(sizes)
            state = state._replace(
                usage=torch.full_like(state.usage, 0.3),
                write_weights=none.write_weights,
                read_weights=none.read_weights,
            )
        vector, state = map_tensors(lambda tensor: tensor.float().double(), (vector, state))
        if kind in ("tied", "zero") or order_is_safe(vector, state, order):
            return vector, state
    raise AssertionError("no seed gives usages that are apart")


def order_is_safe(vector: Tensor, state: MemoryState, order: str) -> bool:
    """Whether float32 sees the cells that get anything in the order that float64 sees."""
    _, new = memory_step(vector, state, backend="reference", usage_order=order)
    least = new.usage.sort(-1).values[:, :30]
    if order == "robust":
        least = least * 256 % 1
        return bool(((least - 0.5).abs() > 1e-3).all())
    return bool((least.diff() > 1e-5).all())


def results(
    backend: str,
    order: str,
    vector: Tensor,
    state: MemoryState,
    cotangents: Sequence[Tensor],
) -> dict[str, Tensor]:
    """By name: read vectors, new state, and the gradients of the vector and the state."""
    inputs = vector, *state = [tensor.detach().requires_grad_() for tensor in (vector, *state)]
    reads, new = memory_step(vector, MemoryState(*state), backend=backend, usage_order=order)
    gradients = torch.autograd.grad([reads, *new], inputs, cotangents)
    fields = MemoryState._fields
    return {
        "read_vectors": reads.detach(),
        **{f"new {field}": part.detach() for field, part in zip(fields, new, strict=True)},
        "gradient of interface": gradients[0],
        **{f"gradient of {f}": part for f, part in zip(fields, gradients[1:], strict=True)},
    }


def rms(tensor: Tensor) -> float:
    return tensor.double().square().mean().sqrt().item()


def make_cotangents(vector: Tensor, state: MemoryState, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    B, _, W, R, _ = state.sizes
    return [
        normal(*shape, generator=generator)
        for shape in [(B, R, W), *(part.shape for part in state)]
    ]


# Relative and absolute RMS error. Cotangents are of size one: what is smaller than the absolute is
# the rounding of sums that cancel, such as a similarity's gradient to a key of one number.
FLOAT64, FLOAT32 = (1e-12, 1e-13), (2e-6, 2e-7)


def errors(backend: str, dtype: torch.dtype, case: Case) -> dict[str, float]:
    """RMS error of each result and gradient over what is allowed.

    In float32 twice the error of plain float32 autograd on the same numbers is allowed too.
    """
    vector, state = make_inputs(case)
    inputs = vector, state, make_cotangents(vector, state)
    expected = results("reference", case[2], *inputs)
    inputs = map_tensors(lambda tensor: tensor.to(dtype), inputs)
    actual = results(backend, case[2], *inputs)
    assert {part.dtype for part in actual.values()} == {dtype}
    plain = results("reference", case[2], *inputs)
    relative, absolute = FLOAT64 if dtype == torch.float64 else FLOAT32
    found = {}
    for name, value in expected.items():
        allowed = relative * rms(value) + absolute
        if dtype == torch.float32:
            allowed = max(allowed, 2 * rms(plain[name] - value))
        found[name] = rms(actual[name] - value) / allowed
    return found


def some_cases() -> list[Case]:
    """One of each kind of state and number of cells."""
    chance = random.Random(0)
    return [chance.choice(every_case(kind, N)) for kind in STATES for N in CELLS]


@every_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "case",
    some_cases(),
    ids=lambda case: "-".join(map(str, (case[0], *case[1][1:], case[2]))),
)
def test_step_equals_the_reference(backend: str, dtype: torch.dtype, case: Case) -> None:
    for name, error in errors(backend, dtype, case).items():
        assert error <= 1, name


@pytest.mark.full
@every_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("N", CELLS)
@pytest.mark.parametrize("kind", STATES)
def test_every_step_equals_the_reference(
    kind: str, N: int, dtype: torch.dtype, backend: str
) -> None:
    """Of thousands of float32 errors, some are larger by chance: their RMS over all sizes is not.

    A mistake at one size only would be far larger than what one may exceed the limit by.
    """
    cases = every_case(kind, N)
    found = [errors(backend, dtype, case) for case in cases]
    for name in found[0]:
        ratios = [case[name] for case in found]
        worst = max(ratios)
        assert worst <= (1 if dtype == torch.float64 else 6), (name, cases[ratios.index(worst)])
        assert math.sqrt(sum(ratio**2 for ratio in ratios) / len(ratios)) <= 1, name


def step_inputs(
    sizes: MemorySizes = SIZES, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, MemoryState, list[Tensor]]:
    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    inputs = vector, state, make_cotangents(vector, state)
    return map_tensors(lambda tensor: tensor.to(dtype), inputs)


def strided(tensor: Tensor) -> Tensor:
    """The same numbers with the axes the other way round in memory, and gaps between them."""
    axes = list(reversed(range(tensor.dim())))
    wide = tensor.permute(axes).contiguous().repeat_interleave(2, -1)
    return wide[..., ::2].permute(axes)


@every_backend
@every_order
def test_strides_do_not_matter(backend: str, order: str) -> None:
    inputs = step_inputs()
    views = map_tensors(strided, inputs)
    assert not any(part.is_contiguous() for part in (views[0], *views[1], *views[2]))
    assert_close(results(backend, order, *views), results(backend, order, *inputs), "equal")


@every_backend
def test_expanded_state_collects_the_sum_of_gradients(backend: str) -> None:
    """One row for the whole batch, as a learned initial state is."""
    vector, state, _ = step_inputs()
    gradients = []
    for name in (backend, "reference"):
        row = require_grad(state.slice_batch(slice(1)))
        batch = map_tensors(lambda tensor: tensor.expand(2, *tensor.shape[1:]), row)
        reads, new = memory_step(vector, batch, backend=name)
        # The gradients of sums are expanded too.
        total = sum((part.sum() for part in new), start=(reads**2).sum())
        gradients.append(torch.autograd.grad(total, list(row)))
    assert_close(*gradients, "float64")


@every_backend
@every_order
def test_what_is_given_is_not_modified(backend: str, order: str) -> None:
    """Neither the vector and the state, nor the gradients of the results."""
    inputs = step_inputs()
    before = map_tensors(torch.clone, inputs)
    results(backend, order, *inputs)
    assert_close(inputs, before, "equal")


@every_backend
def test_results_share_no_memory_with_what_is_given(backend: str) -> None:
    vector, state, _ = step_inputs()
    given = {part.untyped_storage().data_ptr() for part in (vector, *state)}
    reads, new = memory_step(vector, state, backend=backend)
    found = [part.untyped_storage().data_ptr() for part in (reads, *new)]
    assert len(set(found)) == len(found)
    assert not given & set(found)


@every_backend
def test_second_gradients_are_refused(backend: str) -> None:
    vector, state, _ = step_inputs()
    reads, _ = memory_step(vector.requires_grad_(), state, backend=backend)
    with pytest.raises(RuntimeError, match=r'create_graph=True.*backend="reference" can do that'):
        torch.autograd.grad(reads.sum(), vector, create_graph=True)
    reads, _ = memory_step(vector, state, backend="reference")
    (gradient,) = torch.autograd.grad((reads**2).sum(), vector, create_graph=True)
    assert torch.autograd.grad(gradient.sum(), vector)[0].any()


@every_backend
@every_order
def test_backward_twice_gives_the_same(backend: str, order: str) -> None:
    vector, state, cotangents = step_inputs()
    inputs = require_grad((vector, state))
    reads, new = memory_step(*inputs, backend=backend, usage_order=order)
    leaves = [inputs[0], *inputs[1]]
    first = torch.autograd.grad([reads, *new], leaves, cotangents, retain_graph=True)
    second = torch.autograd.grad([reads, *new], leaves, cotangents)
    assert_close(second, first, "equal")
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad([reads, *new], leaves, cotangents)


@every_backend
@pytest.mark.parametrize("index", range(7))
def test_gradients_of_one_result_alone(backend: str, index: int) -> None:
    """The others' gradients are then not given at all."""
    vector, state, cotangents = step_inputs()
    gradients = []
    for name in (backend, "reference"):
        inputs = require_grad((vector, state))
        reads, new = memory_step(*inputs, backend=name)
        gradients.append(
            torch.autograd.grad(
                (reads, *new)[index],
                [inputs[0], *inputs[1]],
                cotangents[index],
                materialize_grads=True,
            )
        )
    assert any(part.any() for part in gradients[1])
    assert_close(*gradients, "float64")


@every_backend
@pytest.mark.parametrize("index", range(7))
def test_gradient_of_one_input_alone(backend: str, index: int) -> None:
    vector, state, cotangents = step_inputs()
    gradients = []
    for name in (backend, "reference"):
        inputs = [tensor.clone() for tensor in (vector, *state)]
        inputs[index].requires_grad_()
        reads, new = memory_step(inputs[0], MemoryState(*inputs[1:]), backend=name)
        results = [part for part in (reads, *new) if part.requires_grad]
        wanted = [
            c for part, c in zip((reads, *new), cotangents, strict=True) if part.requires_grad
        ]
        gradients.append(torch.autograd.grad(results, inputs[index], wanted)[0])
    assert gradients[1].any()
    assert_close(*gradients, "float64")


@every_backend
def test_changes_in_place_are_noticed(backend: str) -> None:
    """As by torch's own functions: better an error than gradients of other numbers."""
    vector, state, _ = step_inputs()
    reads, new = memory_step(vector.requires_grad_(), state, backend=backend)
    with torch.no_grad():
        new.memory.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        reads.sum().backward()


@every_backend
def test_without_gradients_nothing_is_kept(backend: str) -> None:
    vector, state, _ = step_inputs()
    with torch.no_grad():
        reads, new = memory_step(vector.requires_grad_(), state, backend=backend)
    assert all(part.grad_fn is None for part in (reads, *new))


@every_backend
def test_interface_may_be_of_another_dtype(backend: str) -> None:
    """It is cast to the state's, and its gradient back."""
    vector, state, _ = step_inputs()
    single = vector.float().requires_grad_()
    reads, new = memory_step(single, state, backend=backend)
    assert {part.dtype for part in (reads, *new)} == {torch.float64}
    double = single.detach().double().requires_grad_()
    expected = memory_step(double, state, backend=backend)
    assert_close((reads, new), expected, "equal")
    reads.sum().backward()
    expected[0].sum().backward()
    assert single.grad.dtype == torch.float32
    assert torch.equal(single.grad, double.grad.float())


@every_backend
@every_order
def test_steps_in_a_row_equal_the_reference(backend: str, order: str) -> None:
    """Gradients through three steps, each result and gradient handed on by autograd."""
    vectors, state = random_interfaces(3, SIZES), separated_state(SIZES)
    found = []
    for name in (backend, "reference"):
        inputs = require_grad((vectors, state))
        current, reads = inputs[1], []
        for vector in inputs[0]:
            step_reads, current = memory_step(vector, current, backend=name, usage_order=order)
            reads.append(step_reads)
        total = torch.stack(reads).square().sum() + sum(part.square().sum() for part in current)
        found.append((reads, current, torch.autograd.grad(total, [inputs[0], *inputs[1]])))
    assert_close(*found, "float64")
