"""The controller's GPU kernels: each against torch's autograd, and whole models with them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from gpu import DEVICE, assert_as_good_as_torch
from states import (
    assert_close,
    assert_near,
    lively_dnc,
    lively_state,
    normal,
    require_grad,
    run,
)
from test_gpu_lstm import Room
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

from dnc_fast.controllers import CONTROLLERS
from dnc_fast.engine import control
from dnc_fast.state import map_tensors, tensors

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.kernels.arrays import GATES, GRU, LSTM, PLAIN, LayerGradient, LayerStep
from dnc_fast.kernels.gpu import controller as kernels

KINDS = {"lstm": (LSTM, True), "gru": (GRU, True), "rnn": (PLAIN, True), "plain": (PLAIN, False)}
every_kind = pytest.mark.parametrize("kind", KINDS)
CONTROLLERS_WITH_KERNELS = [
    name for name, kind in CONTROLLERS.items() if kind.tape.kernel is not None
]
every_controller = pytest.mark.parametrize("controller", CONTROLLERS_WITH_KERNELS)

RW = 7


# Each kernel


class Given(NamedTuple):
    """What a layer's step and the interface layer are given; None where a kind has none."""

    reads: Tensor
    below: Tensor | None
    hidden0: Tensor | None
    c0: Tensor | None
    x_part: Tensor
    weight: Tensor
    interface: Tensor
    bias: Tensor | None
    d_vectors: Tensor
    d_hidden: Tensor
    d_last: Tensor | None
    d_c: Tensor | None
    d_reads: Tensor
    d_below: Tensor | None
    kept: Tensor | None

    def to(self, dtype: torch.dtype) -> Given:
        return Given(*(part if part is None else part.to(dtype) for part in self))


def given(
    kind: str,
    b: int,
    H: int,
    full: torch.dtype,
    half: torch.dtype,
    below: bool = True,
    S: int = 23,
) -> Given:
    """Random numbers; what products are formed of in `half`."""
    code, own = KINDS[kind]
    gates, seen = GATES[code] * H, RW + H * (below + own)
    lstm, matrix = code == LSTM, seen**-0.5

    def draw(*shape: int, dtype: torch.dtype = full, scale: float = 1.0) -> Tensor:
        return (scale * normal(*shape)).to(DEVICE, dtype)

    def state(there: bool, dtype: torch.dtype = full) -> Tensor | None:
        return draw(b, H, dtype=dtype) if there else None

    kept = 2.0 * (normal(b, H) > 0) if below else None
    return Given(
        *(draw(b, RW), state(below, half), state(own, half), state(lstm)),
        draw(b, gates, dtype=half),
        draw(gates, seen, dtype=half, scale=matrix),
        draw(S, H, dtype=half, scale=H**-0.5),
        draw(S, dtype=half) if below else None,
        *(draw(b, S), draw(b, H), state(own), state(lstm), draw(b, RW), state(below)),
        None if kept is None else kept.to(DEVICE, half),
    )


def by_kernels(
    kind: str, one: Given, clip: float | None, c_clip: float | None = None
) -> dict[str, Tensor]:
    """All four, in rooms of their own; nothing that is given changes but the gradients."""
    code, (b, H), room = KINDS[kind][0], one.d_hidden.shape, Room()
    full, half, gates = one.reads.dtype, one.weight.dtype, GATES[code] * one.d_hidden.shape[1]
    placed = Given(*(
        part if part is None or part.dim() == 1 else room.put(part) for part in one
    ))  # fmt: skip

    def new(there: bool, size: int = H, dtype: torch.dtype = full) -> Tensor | None:
        return room.empty(b, size, dtype) if there else None

    lstm = code == LSTM
    layer = LayerStep(
        placed.x_part, placed.c0 if lstm else placed.hidden0, new(code != PLAIN, gates),
        new(lstm), new(lstm), room.empty(b, H, half),
    )  # fmt: skip
    vectors, d_active = room.empty(*one.d_vectors.shape, full), room.empty(b, gates, half)
    gradient = LayerGradient(placed.d_hidden, placed.d_last, placed.d_c, d_active)
    seen = placed.reads, placed.below, placed.hidden0, placed.weight
    kernels.gates(code, *seen, layer, c_clip)
    kernels.interface(layer.hidden, placed.interface, placed.bias, vectors)
    kernels.units_backward(code, placed.d_vectors, placed.interface, layer, gradient, clip, c_clip)
    kernels.gates_backward(
        code, d_active, placed.weight, placed.d_reads, placed.d_below, placed.kept, placed.d_last
    )
    room.assert_filled()
    changing = {"d_last", "d_c", "d_reads", "d_below"}
    for name in set(Given._fields) - changing:
        if getattr(one, name) is not None:
            assert torch.equal(getattr(placed, name), getattr(one, name)), name
    found = {"hidden": layer.hidden, "c": layer.c, "vectors": vectors, "d_active": d_active}
    found |= {name: getattr(placed, name) for name in changing}
    return {name: part for name, part in found.items() if part is not None}


def by_autograd(
    kind: str, one: Given, clip: float | None, half: torch.dtype, c_clip: float | None = None
) -> dict[str, Tensor]:
    """By torch: products of what is rounded to `half`, all else in the dtype of the reads."""
    full = one.reads.dtype
    leaves = Given(*(part if part is None else require_grad(part) for part in one))
    parts = [part for part in (leaves.reads, leaves.below, leaves.hidden0) if part is not None]
    if leaves.below is not None and one.kept is not None:
        parts[1] = Kept.apply(leaves.below, one.kept)
    seen = torch.cat([part.to(half) for part in parts], dim=1)
    x_part = require_grad(one.x_part.to(full))
    hidden, c = cell(kind, (seen @ leaves.weight.T).to(full) + x_part, leaves)
    vectors = (hidden.to(half) @ leaves.interface.T).to(full)
    if one.bias is not None:
        vectors = vectors + one.bias.to(full)
    end = None if c is None else c.clamp(-math.inf if c_clip is None else -c_clip, c_clip)
    if clip is not None:
        hidden.register_hook(lambda d: d.clamp(-clip, clip))
        if end is not None:
            end.register_hook(lambda d: d.clamp(-clip, clip))
    d_hidden = one.d_hidden if one.d_last is None else one.d_hidden + one.d_last
    ends = [(vectors, one.d_vectors), (hidden, d_hidden)]
    ends += [] if end is None else [(end, one.d_c)]
    torch.autograd.backward(*zip(*ends, strict=True))
    found = {
        "hidden": hidden.to(half), "c": end, "vectors": vectors, "d_active": x_part.grad.to(half),
        "d_reads": one.d_reads + leaves.reads.grad,
    }  # fmt: skip
    if leaves.hidden0 is not None:
        found["d_last"] = leaves.hidden0.grad.to(full)
    if leaves.below is not None:
        found["d_below"] = one.d_below + leaves.below.grad
    if leaves.c0 is not None:
        found["d_c"] = leaves.c0.grad
    return {name: part.detach() for name, part in found.items() if part is not None}


class Kept(torch.autograd.Function):
    """Multiplies the gradient alone: forward, kernels are given what is already multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor) -> Tensor:
        ctx.kept = kept
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return d * ctx.kept, None


def cell(kind: str, a: Tensor, one: Given) -> tuple[Tensor, Tensor | None]:
    """h_t, and c_t of an LSTM, from the pre-activations."""
    if KINDS[kind][0] == PLAIN:
        return a.tanh(), None
    first, second, third, fourth = a.chunk(4, dim=1)
    if kind == "gru":
        new, update = (third + first.sigmoid() * fourth).tanh(), second.sigmoid()
        return (1 - update) * new + update * one.hidden0.to(a.dtype), None
    c = second.sigmoid() * one.c0 + first.sigmoid() * third.tanh()
    return fourth.sigmoid() * c.tanh(), c


def check(kind: str, one: Given, clip: float | None, c_clip: float | None = None) -> None:
    half, full = one.weight.dtype, one.reads.dtype
    actual = by_kernels(kind, one, clip, c_clip)
    exact = by_autograd(kind, one.to(torch.float64), clip, torch.float64, c_clip)
    if full == torch.float64:
        return assert_close(actual, exact, "float64")
    return assert_as_good_as_torch(actual, by_autograd(kind, one, clip, half, c_clip), exact)


@every_kind
@pytest.mark.parametrize(
    "b, half, below",
    [
        (1, torch.float64, True),
        (3, torch.float64, False),
        (1, torch.float32, True),
        (2, torch.float32, False),
        (17, torch.float32, True),
        (1, torch.float16, False),
        (17, torch.float16, True),
        pytest.param(
            *(17, torch.bfloat16, True),
            marks=pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter cuts off bfloat16"),
        ),
    ],
    ids=str,
)
def test_as_good_as_torch(kind: str, b: int, half: torch.dtype, below: bool) -> None:
    full = torch.promote_types(half, torch.float32)
    check(kind, given(kind, b, 20 if below else 5, full, half, below), None)


@every_kind
def test_gradients_of_the_state_are_clipped(kind: str) -> None:
    check(kind, given(kind, 3, 5, torch.float32, torch.float32), 0.3)


@pytest.mark.parametrize("c_clip", [0.3, 20])
@pytest.mark.parametrize("b, dtype", [(1, torch.float32), (17, torch.float32), (3, torch.float64)])
def test_c_is_clipped(b: int, dtype: torch.dtype, c_clip: float) -> None:
    """And its gradient stopped, but not that of h, which sees c before."""
    one = given("lstm", b, 20, dtype, dtype)
    c = by_kernels("lstm", one, None)["c"]
    assert (c.abs() > c_clip).any() == (c_clip == 0.3)
    assert (c.abs() < c_clip).any()
    check("lstm", one, 0.5, c_clip)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_c_at_its_bound_has_a_gradient(dtype: torch.dtype) -> None:
    """Where gates that are shut hold it for long."""
    one = given("lstm", 3, 5, dtype, dtype, below=False)
    one.x_part[:] = torch.tensor([-60.0, 60.0, 0.0, 0.0], dtype=dtype).repeat_interleave(5)
    one.c0[:] = 0.25
    assert (by_kernels("lstm", one, None)["c"] == 0.25).all()
    check("lstm", one, None, 0.25)


@pytest.mark.parametrize("kind, b, H, S", [("lstm", 3, 68, 23), ("rnn", 17, 130, 139)])
def test_several_blocks_of_the_inner_dimension(
    kind: str, b: int, H: int, S: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the tiles of many hidden units, and of many programs."""
    monkeypatch.setattr(kernels, "SMALL_HIDDEN", 0)
    monkeypatch.setattr(kernels, "PROGRAMS", 1)
    check(kind, given(kind, b, H, torch.float32, torch.float32, S=S), 0.3)


@every_kind
def test_several_blocks_of_a_row(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "ROW_WEIGHTS", 128)
    check(kind, given(kind, 1, 20, torch.float32, torch.float32), None)


@every_kind
def test_a_memory_in_float64_with_weights_in_half(kind: str) -> None:
    one = given(kind, 2, 5, torch.float64, torch.float16)
    rounded = one._replace(reads=one.reads.half().double())
    exact = by_autograd(kind, rounded.to(torch.float64), None, torch.float64)
    found = by_kernels(kind, rounded, None)
    assert_close(found["vectors"], exact["vectors"], "float16")
    if kind == "lstm":
        assert_close(found["c"], exact["c"], "float64")


def test_which_product() -> None:
    """Tensor cores where they are, and are exact enough; one row by itself."""
    single, double, half = (
        torch.empty(0, dtype=dtype, device="meta")
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
    )
    full = torch.float32
    assert kernels.multiplies_as(single, 2, full) == "tf32x3"
    assert kernels.multiplies_as(half, 2, full) == "half"
    assert kernels.multiplies_as(single, 1, full) == "row"
    assert kernels.multiplies_as(double, 2, torch.float64) == "row"
    assert kernels.multiplies_as(half, 2, torch.float64) == "row"


@pytest.mark.parametrize("b", [1, 2])
def test_nan_goes_through(b: int) -> None:
    """And stays in its row."""
    one = given("lstm", b, 5, torch.float32, torch.float32, below=False)
    code, new = LSTM, one.d_hidden.new_empty
    reads = one.reads.clone()
    reads[0, 0] = torch.nan
    layer = LayerStep(one.x_part, one.c0, new(b, 20), new(b, 5), new(b, 5), new(b, 5))
    kernels.gates(code, reads, None, one.hidden0, one.weight, layer)
    for part in (layer.active, layer.c, layer.tanh_c, layer.hidden):
        assert part[0].isnan().all() and part[1:].isfinite().all()
    one.d_vectors[0, 0] = torch.nan
    gradient = LayerGradient(one.d_hidden, one.d_last, one.d_c, new(b, 20))
    kernels.units_backward(code, one.d_vectors, one.interface, layer, gradient, 1.0)
    assert gradient.active[0].isnan().all() and gradient.active[1:].isfinite().all()


def test_rows_may_be_far_apart() -> None:
    """Further than 32 bits count: the third row begins 2^31 numbers after the first."""
    one = given("rnn", 3, 4, torch.float32, torch.float16, below=False)
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    hidden = far.as_strided((3, 4), (2**30, 1))
    near = torch.empty_like(one.hidden0)
    for out in (near, hidden):
        layer = LayerStep(one.x_part, None, None, None, None, out)
        kernels.gates(PLAIN, one.reads, None, one.hidden0, one.weight, layer)
    assert_close(hidden, near, "equal")


# Whole models


@pytest.fixture
def controls(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """How the steps of models were driven: names of classes."""
    found = set()
    begin = control.begin_control

    def watched(*arguments: Any) -> Any:
        one = begin(*arguments)
        found.add(type(one).__name__)
        return one

    monkeypatch.setattr("dnc_fast.engine.recording.begin_control", watched)
    return found


def measure(backend: str, x: Any, dtype: torch.dtype, **options: Any) -> dict[str, Tensor]:
    sizes = {"num_cells": 3, "cell_size": 3, "num_read_heads": 1, "usage_order": "robust"}
    model = lively_dnc(backend=backend, **sizes | options)
    b = len(x.unsorted_indices) if hasattr(x, "unsorted_indices") else x.shape[1]
    state = lively_state(model, b).to(dtype)
    state = state._replace(controller=move(state.controller, dtype))
    x = x.to(DEVICE, dtype)
    return run(model.to(DEVICE, dtype), x, move(state, None))


def move(tree: Any, dtype: torch.dtype | None) -> Any:
    """A nest of tensors on the device, in a dtype or their own."""
    return map_tensors(lambda part: part.to(DEVICE, dtype or part.dtype), tree)


SHAPES = [
    {"num_layers": 1, "hidden_size": 20},
    {"num_layers": 3, "hidden_size": 5, "bias": False, "activation_clip": 0.05},
]


@every_controller
@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_models_equal_the_reference(
    controller: str, options: dict[str, Any], controls: set[str]
) -> None:
    """In a batch that shrinks to one sequence, from a given state; a segment is rebuilt."""
    x = pack_sequence([normal(length, 3) for length in (1, 4, 2)], enforce_sorted=False)
    options = {"controller": controller, "checkpoint_interval": 2, **options}
    actual, expected = (
        measure(backend, x, torch.float64, **options) for backend in ("triton", "reference")
    )
    assert_near(actual, expected, 1e-12)
    assert controls == {"FusedControl"}


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("value_clip", [1, 20.0])
def test_models_that_clip_equal_the_reference(
    value_clip: float, num_layers: int, controls: set[str]
) -> None:
    """As those of the official code do: an LSTM's c, and the outputs."""
    x = pack_sequence([8 * normal(length, 3) for length in (2, 4)], enforce_sorted=False)
    options = {"num_layers": num_layers, "value_clip": value_clip, "checkpoint_interval": 2}
    actual, expected = (
        measure(backend, x, torch.float64, **options) for backend in ("triton", "reference")
    )
    assert_near(actual, expected, 1e-12)
    for layer in range(num_layers):
        most = expected[f"final.controller.{layer}.1"].abs().max()
        assert (most == value_clip) == (value_clip == 1)
    assert controls == {"FusedControl"}


@every_controller
def test_models_in_float32_are_as_good_as_the_reference(controller: str) -> None:
    x, options = normal(2, 17, 3), {"controller": controller, "num_layers": 2, "hidden_size": 9}
    exact = measure("reference", x, torch.float64, **options)
    actual, plain = (
        measure(backend, x, torch.float32, **options) for backend in ("triton", "reference")
    )
    assert_as_good_as_torch(actual, plain, exact)


@pytest.mark.parametrize("controller", ["gru", "feedforward"])
def test_dropout_draws_the_masks_of_the_reference(controller: str, controls: set[str]) -> None:
    x, options = normal(3, 2, 3), {"controller": controller, "num_layers": 2, "dropout": 0.5}
    actual, expected = (
        measure(backend, x, torch.float64, **options) for backend in ("triton", "reference")
    )
    assert_near(actual, expected, 1e-12)
    assert controls == {"FusedControl"}


@pytest.mark.parametrize("controller", ["lstm", "gru"])
def test_large_batches_are_multiplied_by_torch(
    controller: str, controls: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, found = normal(2, 2, 3), []
    for most in (kernels.MOST_MULTIPLICATIONS, 1):
        monkeypatch.setattr(kernels, "MOST_MULTIPLICATIONS", most)
        found.append(measure("triton", x, torch.float64, controller=controller))
    assert_near(*found, 1e-12)
    assert controls == {"FusedControl", "ComposedControl"}


@pytest.mark.parametrize(
    "controller, form",
    [*((name, "autocast") for name in CONTROLLERS_WITH_KERNELS), ("lstm", "model")],
)
def test_half_precision_is_as_near_to_the_truth_as_torch_is(controller: str, form: str) -> None:
    """As in test_precision.py; float16, because the interpreter cuts off bfloat16.

    Sums that are not rounded to half precision between steps make up for how roundings add up by
    chance: up to 1.5 times torch's error in the worst part, 1.1 on the average.
    """
    options = {"controller": controller, "num_layers": 2, "usage_order": "robust"}
    x = normal(3, 3, 3)

    def train(backend: str, half: torch.dtype | None) -> dict[str, Tensor]:
        model = lively_dnc(backend=backend, **options)
        state, inputs, context = move(lively_state(model, 3), None), x.to(DEVICE), None
        if half is not None and form == "autocast":
            model, inputs, state = model.float(), inputs.float(), state.to(torch.float32)
            context = torch.autocast(DEVICE, half)
        elif half is not None:
            state = state.to(torch.float32)
            state = state._replace(controller=move(state.controller, half))
            model, inputs = model.to(half), inputs.to(half)
        return run(model.to(DEVICE), inputs, state, squares, context)

    def squares(output: Tensor, final: Any) -> Tensor:
        wide = torch.promote_types(output.dtype, torch.float32)
        return sum(part.to(wide).square().sum() for part in tensors((output, final)))

    exact = train("reference", None)
    ours, torchs = (
        [
            ((found[name].double() - part).norm() / (part.norm() + 1e-6)).item()
            for name, part in exact.items()
        ]
        for found in (train(backend, torch.float16) for backend in ("triton", "reference"))
    )
    assert max(ours) <= 1.5 * max(torchs)
    assert sum(ours) <= 1.1 * sum(torchs)


def test_weights_may_lie_in_any_order() -> None:
    """Transposed parameters, and states with rows that are not side by side."""
    found = []
    for transposed in (False, True):
        model = lively_dnc(backend="triton", controller="feedforward").to(DEVICE)
        if transposed:
            for module in (model.cell.interface, *model.cell.controller.layers):
                module.weight.data = module.weight.data.T.contiguous().T
        state = lively_state(model.cpu(), 2)
        reads = state.read_vectors
        if transposed:
            reads = reads.transpose(0, 2).contiguous().transpose(0, 2)
        model, state = model.to(DEVICE), move(state._replace(read_vectors=reads), None)
        leaf = state.read_vectors.requires_grad_()
        output, _ = model(
            normal(2, 2, 3, generator=torch.Generator().manual_seed(1)).to(DEVICE), state
        )
        output.square().sum().backward()
        found.append((output.detach(), leaf.grad, model.cell.interface.weight.grad))
    assert_close(*found, "float64")
