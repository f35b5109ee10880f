"""The single ops of the GPU kernels against the reference: values, gradients, torch's machinery."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from gpu import DEVICE, SMALL_ORDER, error_ratios, guarded, poisoned, strided
from states import assert_close, normal, outcome, random_weighting, rms, separated_usage, uniform
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dnc_fast import functional, reference
from dnc_fast.state import map_tensors

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.kernels.gpu.allocation import allocation_weighting
from dnc_fast.kernels.gpu.content import content_weighting
from dnc_fast.kernels.gpu.linkage import linkage
from dnc_fast.kernels.gpu.memory import read_memory, write_memory

KINDS = ("random", "saturated", "tied", "zero")
CELLS = (1, 2, 3, 16, 33, 64, 100, 128, 257, 512)
CELL_SIZES, READ_HEADS, WRITE_HEADS = (1, 5, 32, 64), (1, 2, 4, 5), (1, 2)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Op(NamedTuple):
    """An op, what it must equal, how its inputs are made, and the letters of its sizes."""

    kernels: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[[Case], tuple[Tensor, ...]]
    letters: str


class Case(NamedTuple):
    """What an op is tested with: the kind of numbers, and sizes, of which it has some."""

    op: str
    kind: str
    B: int
    N: int
    W: int = 1
    R: int = 1
    H: int = 1

    def __str__(self) -> str:
        sizes = (f"{letter}{getattr(self, letter)}" for letter in "B" + OPS[self.op].letters)
        return "-".join((self.op, self.kind, *sizes))


# Inputs


def rows(kind: str, *shape: int) -> Tensor:
    """Cells, keys, or vectors to write (..., rows, W)."""
    if kind == "zero":
        return torch.zeros(shape, dtype=torch.float64)
    if kind == "tied":  # all rows alike
        return normal(*shape[:-2], 1, shape[-1]).expand(shape)
    return normal(*shape) * (10 if kind == "saturated" else 1)


def weighting(kind: str, *shape: int) -> Tensor:
    """(..., N): of some cells; all on one; the same on all; nothing."""
    if kind == "zero":
        return torch.zeros(shape, dtype=torch.float64)
    if kind == "tied":
        return torch.full(shape, 1 / shape[-1], dtype=torch.float64)
    if kind == "saturated":
        return torch.eye(shape[-1], dtype=torch.float64)[torch.randint(shape[-1], shape[:-1])]
    return random_weighting(*shape)


def gates(kind: str, *shape: int) -> Tensor:
    """In [0, 1]; saturated: 0 or 1."""
    if kind in ("zero", "tied"):
        return torch.full(shape, 0.5 if kind == "tied" else 0.0, dtype=torch.float64)
    return uniform(*shape).round() if kind == "saturated" else uniform(*shape)


def content_inputs(case: Case) -> tuple[Tensor, ...]:
    _, kind, B, N, W, R, _ = case
    above = {"random": 5, "saturated": 100, "tied": 5, "zero": 0}[kind]
    return rows(kind, B, R, W), 1 + above * normal(B, R).abs(), rows(kind, B, N, W)


def allocation_inputs(case: Case) -> tuple[Tensor, ...]:
    """Usages: well apart; nearly 1, so that every cell gets something; on few levels; 0.

    Some of the levels lie where the robust order's rounding changes.
    """
    _, kind, B, N, *_ = case
    if kind == "zero":
        return (torch.zeros(B, N, dtype=torch.float64),)
    if kind == "tied":
        levels = torch.tensor([0, 0.5 / 256, 1 / 256, 1.5 / 256, 0.25, 0.5, 1], dtype=torch.float64)
        return (levels[torch.randint(len(levels), (B, N))],)
    if kind == "saturated":
        return ((1 - 3 * uniform(B, N) / N).clamp(0, 1),)
    return (separated_usage(B, N),)


def linkage_inputs(case: Case) -> tuple[Tensor, ...]:
    _, kind, B, N, _, R, Hw = case
    link = weighting(kind, B, Hw, N, N).masked_fill(torch.eye(N, dtype=torch.bool), 0)
    weights = weighting(kind, B, Hw, N), weighting(kind, B, Hw, N), weighting(kind, B, R, N)
    return link, *weights


def write_inputs(case: Case) -> tuple[Tensor, ...]:
    _, kind, B, N, W, _, Hw = case
    heads = weighting(kind, B, Hw, N), gates(kind, B, Hw, W), rows(kind, B, Hw, W)
    return rows(kind, B, N, W), *heads


def read_inputs(case: Case) -> tuple[Tensor, ...]:
    _, kind, B, N, W, R, _ = case
    return rows(kind, B, N, W), weighting(kind, B, R, N)


# Ops


def linkage_reference(
    link: Tensor, precedence: Tensor, write_weights: Tensor, read_weights: Tensor
) -> tuple[Tensor, ...]:
    return functional.linkage(link, precedence, write_weights, read_weights, backend="reference")


def allocation(order: str) -> Op:
    return Op(
        lambda usage: allocation_weighting(usage, order == "robust"),
        lambda usage: reference.allocation_weighting(usage, order),
        allocation_inputs,
        "N",
    )


OPS = {
    "content": Op(content_weighting, reference.content_weighting, content_inputs, "NWR"),
    "exact allocation": allocation("exact"),
    "robust allocation": allocation("robust"),
    "linkage": Op(linkage, linkage_reference, linkage_inputs, "NRH"),
    "write": Op(write_memory, reference.write_memory, write_inputs, "NWH"),
    "read": Op(read_memory, reference.read_memory, read_inputs, "NWR"),
}
every_op = pytest.mark.parametrize("op", OPS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def make(case: Case, dtype: torch.dtype = torch.float32) -> tuple[tuple[Tensor, ...], ...]:
    """Inputs, and cotangents of what comes out."""
    inputs = OPS[case.op].inputs(case)
    outputs = OPS[case.op].reference(*inputs)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    cotangents = tuple(normal(*output.shape) for output in outputs)
    return map_tensors(lambda tensor: tensor.to(DEVICE, dtype), (inputs, cotangents))


def results(
    function: Callable[..., Any], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> dict[str, Tensor]:
    """What a function returns, and the gradients of all its inputs."""
    inputs = map_tensors(lambda tensor: tensor.detach().requires_grad_(), tuple(inputs))
    return outcome({"outputs": function(*inputs)}, {"input": inputs}, cotangents=cotangents)


def assert_same_bits(actual: Any, expected: Any) -> None:
    assert_close(actual, expected, "equal")


# Values and gradients


def error_of(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """The error of each result and gradient, divided by what is allowed; float64 must be equal."""
    op, given = OPS[case.op], make(case, dtype)
    with poisoned():
        actual = results(op.kernels, *map_tensors(guarded, given))
    exact = results(op.reference, *map_tensors(Tensor.double, given))
    if dtype == torch.float64:
        assert_close(actual, exact, "float64", str(case))
        return {}
    return error_ratios(actual, results(op.reference, *given), exact)


def every_case(op: str, N: int) -> list[Case]:
    """All kinds of numbers and sizes at a number of cells; zeros need not be many."""
    letters = OPS[op].letters
    return [
        Case(op, kind, 2 if N < 100 else 1, N, W, R, H)
        for kind in (KINDS if N < 100 else KINDS[:-1])
        for W in (CELL_SIZES if "W" in letters else (1,))
        for R in (READ_HEADS if "R" in letters else (1,))
        for H in (WRITE_HEADS if "H" in letters else (1,))
    ]


def some_cases(op: str, dtype: torch.dtype) -> list[Case]:
    """One for every number of cells, the kinds of numbers in turn.

    Few cells in float64, float32 and a half precision; of many, which take long, in one of two.
    """
    chance, kinds, found = random.Random(op), itertools.cycle(KINDS), []
    for N in CELLS:
        kind, cases = next(kinds), every_case(op, N)
        case = chance.choice([case for case in cases if case.kind == kind] or cases)
        dtypes = [chance.choice(DTYPES[:2])]
        if N < 100:
            dtypes = [*DTYPES[:2], chance.choice(DTYPES[2:])]
        if op == "linkage" and N > 128 and DEVICE == "cpu":
            continue  # N^2 numbers take the interpreter half a minute; with -m full they are there
        found += [case] if dtype in dtypes else []
    return found


def assert_equal_the_reference(cases: Sequence[Case], dtype: torch.dtype) -> None:
    """Of many errors some are larger by chance: their RMS over all cases is not.

    A mistake in one case only would be far larger than what one may exceed the limit by.
    """
    found = [error_of(case, dtype) for case in cases]
    for name in found[0]:
        ratios = [case[name] for case in found]
        worst = max(ratios)
        assert worst <= 6, f"{name}: {worst:.3g} in {cases[ratios.index(worst)]}"
        assert rms(torch.tensor(ratios)) <= 1, name


@every_dtype
@every_op
def test_op_equals_the_reference(op: str, dtype: torch.dtype) -> None:
    assert_equal_the_reference(some_cases(op, dtype), dtype)


@pytest.mark.full
@every_dtype
@pytest.mark.parametrize("N", CELLS)
@every_op
def test_op_equals_the_reference_at_all_sizes(op: str, N: int, dtype: torch.dtype) -> None:
    assert_equal_the_reference(every_case(op, N), dtype)


@every_op
def test_tiles_may_be_of_any_size(tiles: Callable[..., None], op: str) -> None:
    """Many programs, of which each goes through many tiles, as only large memories have them."""
    tiles(TILE_NUMBERS=64, **SMALL_ORDER)
    error_of(Case(op, "random", 1, N=47, W=20), torch.float64)


# Which numbers, where, and how often


def case_of(op: str) -> Case:
    return Case(op, "random", 2, 9, 5, 3, 2)


@every_op
def test_strides_do_not_matter(op: str) -> None:
    inputs, cotangents = make(case_of(op))
    expected = results(OPS[op].kernels, inputs, cotangents)
    given = map_tensors(strided, (inputs, cotangents))
    assert not any(part.is_contiguous() for part in given[0])
    assert_same_bits(results(OPS[op].kernels, *given), expected)


@every_op
def test_takes_the_gradient_of_a_sum(op: str) -> None:
    """All numbers of that are one number in memory."""
    inputs, cotangents = make(case_of(op))
    ones = map_tensors(torch.ones_like, cotangents)
    expected = results(OPS[op].kernels, inputs, ones)
    ones = tuple(torch.ones((), device=DEVICE).expand(part.shape) for part in cotangents)
    assert_same_bits(results(OPS[op].kernels, inputs, ones), expected)


@every_op
def test_leaves_its_inputs_alone_and_repeats_its_bits(op: str) -> None:
    given = make(Case(op, "random", 2, 300 if DEVICE == "cuda" else 20, 5, 3, 2))
    copies = map_tensors(Tensor.clone, given)
    expected = results(OPS[op].kernels, *given)
    assert_same_bits(given, copies)
    assert_same_bits(results(OPS[op].kernels, *given), expected)


@pytest.mark.parametrize("used", range(4))
def test_linkage_passes_the_gradient_of_some_results(used: int) -> None:
    """To some of its inputs."""
    inputs, cotangents = make(case_of("linkage"), torch.float64)
    found = []
    for function in (linkage, linkage_reference):
        leaves = map_tensors(Tensor.clone, inputs)
        leaves[2].requires_grad_()
        found += torch.autograd.grad(function(*leaves)[used], leaves[2], cotangents[used])
    assert_close(*found, "float64")


# Torch's machinery


class Calls(TorchDispatchMode):
    """The calls of dnc_fast's ops made within: the op, and what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "dnc_fast":
            copy = [arg.detach().clone() if isinstance(arg, Tensor) else arg for arg in args]
            self.found.append((function, tuple(copy)))
        return function(*args, **(kwargs or {}))


@every_op
def test_passes_opcheck(op: str) -> None:
    """What runs forward as it is differentiated, what runs backward as it is."""
    with Calls() as calls:
        results(OPS[op].kernels, *make(case_of(op)))
    (forward, inputs), (backward, gradients) = calls.found
    inputs = [part.requires_grad_() if isinstance(part, Tensor) else part for part in inputs]
    torch.library.opcheck(forward, tuple(inputs))
    torch.library.opcheck(backward, gradients)


@every_op
def test_compiles(op: str) -> None:
    """In one graph, with the ops around it."""

    def function(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = OPS[op].kernels(*(2 * part for part in inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return tuple(part.square() for part in outputs)

    given = make(case_of(op))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_same_bits(results(compiled, *given), results(function, *given))


@every_op
def test_autocast_changes_nothing(op: str) -> None:
    given = make(case_of(op))
    expected = results(OPS[op].kernels, *given)
    with torch.autocast(DEVICE, torch.bfloat16):
        actual = results(OPS[op].kernels, *given)
    assert_same_bits(actual, expected)
    assert all(part.dtype == torch.float32 for part in actual.values())
