"""Whole sequences by the engine, against the reference step by step: values, gradients, memory."""

from __future__ import annotations

import gc
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from states import (
    HAS_NUMBA,
    assert_close,
    lively_dnc,
    lively_state,
    named_parts,
    normal,
    require_grad,
    separated_state,
    usage_gap,
    weighed_sum,
)
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from dnc_fast import DNC, DNCState, backends
from dnc_fast.backends import choice
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.engine.memory_tape import MemoryTape, checkpoint_interval
from dnc_fast.layout import Layout
from dnc_fast.state import MemorySizes, map_tensors, tensors

T, B = 9, 3
INTERVALS = (1, 3, 8, T, T + 4)

every_backend = pytest.mark.parametrize(
    "backend",
    [
        "eager",
        pytest.param("cpu", marks=pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")),
    ],
)
every_interval = pytest.mark.parametrize("interval", INTERVALS)
write_heads = pytest.mark.parametrize("num_write_heads", [1, 2])

Results = dict[str, Tensor]


# Two runs, part by part


def data(output: Any) -> Any:
    """A packed output's numbers; others as they are."""
    return output.data if isinstance(output, PackedSequence) else output


def run(
    model: DNC, x: Any, state: Any, loss: Callable[[Any, Any], Tensor] | None = None
) -> Results:
    """Outputs, final state, and the gradients of parameters, input and initial state, by name.

    `loss` of (outputs, final state) is by default a random linear function of all of them.
    """
    torch.manual_seed(7)  # what dropout draws
    state = require_grad(state)
    if isinstance(x, PackedSequence):
        leaf = x.data.detach().clone().requires_grad_()
        x = x._replace(data=leaf)
    else:
        leaf = x = require_grad(x)
    output, final = model(x, state)
    total = weighed_sum((data(output), final)) if loss is None else loss(data(output), final)
    parameters = {f"parameter.{k}": p for k, p in model.named_parameters() if p.requires_grad}
    leaves = {**parameters, "input": leaf, **dict(named_parts(state, "state"))}
    found = torch.autograd.grad(
        total, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return {
        **{name: part.detach() for name, part in named_parts(data(output), "output")},
        **{name: part.detach() for name, part in named_parts(final, "final")},
        **{f"gradient of {name}": part for name, part in zip(leaves, found, strict=True)},
    }


def assert_results_close(actual: Results, expected: Results, relative: float = 1e-10) -> None:
    """RMS of the difference over RMS of the expected; all things are of size one, or zero."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].double() - value).norm().item()
        size = value.double().norm().item()
        assert error <= relative * size + 1e-12, f"{name}: {error:.2g} of {size:.2g}"


def assert_engine_equals_the_reference(
    backend: str,
    x: Any,
    state: Any,
    loss: Callable[[Any, Any], Tensor] | None = None,
    *,
    prepare: Callable[[DNC], Any] = lambda model: None,
    interval: int | None = 3,
    **options: Any,
) -> Results:
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, checkpoint_interval=interval, **options)
        prepare(model)
        found.append(run(model, x, state, loss))
    assert_results_close(*found)
    return found[0]


def make_inputs(length: int = T, batch_size: int = B, **options: Any) -> tuple[Tensor, DNCState]:
    """An input and a state in the middle of a run."""
    generator = torch.Generator().manual_seed(1)
    model = lively_dnc(**options)
    return normal(length, batch_size, 3, generator=generator), lively_state(model, batch_size)


@cache
def expected_results(**options: Any) -> Results:
    """The reference's, from `make_inputs`, where no two usages come near each other."""
    model = lively_dnc(backend="reference", **options)
    x, state = make_inputs(**options)
    _, _, trace = model(x, state, return_trace=True)
    assert usage_gap(trace.usage.flatten(0, 1)) > 1e-9
    return run(model, x, state)


# Results and gradients


@every_backend
@every_interval
@write_heads
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_equals_the_reference(
    controller: str, num_write_heads: int, interval: int, backend: str
) -> None:
    options = {"controller": controller, "num_write_heads": num_write_heads}
    model = lively_dnc(backend=backend, checkpoint_interval=interval, **options)
    actual = run(model, *make_inputs(**options))
    assert_results_close(actual, expected_results(**options))


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {"num_layers": 2},
        {"num_layers": 3},
        {"bias": False},
        {"num_layers": 2, "bias": False},
        {"activation_clip": 0.05},
        {"num_layers": 2, "activation_clip": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_controllers_options(controller: str, options: dict, backend: str) -> None:
    options = {"controller": controller, **options}
    model = lively_dnc(backend=backend, checkpoint_interval=3, **options)
    actual = run(model, *make_inputs(**options))
    assert_results_close(actual, expected_results(**options))
    if "activation_clip" in options:
        free = options | {"activation_clip": None}
        name = "gradient of parameter.cell.interface.weight"
        others = "gradient of input"
        unclipped = expected_results(**free)
        assert not torch.allclose(actual[others], unclipped[others]), "nothing was clipped"
        assert actual[name].isfinite().all()


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {"num_read_heads": 1, "num_cells": 1, "cell_size": 1},
        {"num_read_heads": 5, "num_write_heads": 3, "num_cells": 7},
        {"num_cells": 70},
        {"output_size": 1},
        {"usage_order": "robust", "num_write_heads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("length", "batch_size"), [(1, 1), (2, 1), (5, 2)])
def test_sizes(length: int, batch_size: int, options: dict, backend: str) -> None:
    x, state = make_inputs(length, batch_size, **options)
    for interval in (None, 2):
        assert_engine_equals_the_reference(backend, x, state, interval=interval, **options)


@every_backend
@every_interval
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_dropout_draws_the_same_masks(controller: str, interval: int, backend: str) -> None:
    options = {"controller": controller, "num_layers": 2, "dropout": 0.5}
    x, state = make_inputs(**options)
    dropped = assert_engine_equals_the_reference(backend, x, state, interval=interval, **options)
    kept = run(lively_dnc(backend=backend, **options).eval(), x, state)
    assert not torch.allclose(dropped["output"], kept["output"])
    assert_results_close(kept, run(lively_dnc(backend="reference", **options).eval(), x, state))


@every_backend
@every_interval
@pytest.mark.parametrize("sorted_lengths", [True, False])
def test_packed_sequences(sorted_lengths: bool, interval: int, backend: str) -> None:
    lengths = (9, 9, 4, 1) if sorted_lengths else (4, 9, 1, 9)
    _, state = make_inputs(batch_size=4, num_layers=2)
    x = pack_sequence([normal(n, 3) for n in lengths], enforce_sorted=sorted_lengths)
    assert_engine_equals_the_reference(backend, x, state, interval=interval, num_layers=2)


@every_backend
@pytest.mark.parametrize("packed", [False, True])
def test_bidirectional(packed: bool, backend: str) -> None:
    x, state = make_inputs(5, 3)
    if packed:
        x = pack_sequence([normal(n, 3) for n in (2, 5, 3)], enforce_sorted=False)
    pair = state, lively_state(lively_dnc(), 3, seed=1)
    assert_engine_equals_the_reference(backend, x, pair, bidirectional=True)


@every_backend
def test_batch_first_and_unbatched(backend: str) -> None:
    x, state = make_inputs(5, 2)
    assert_engine_equals_the_reference(backend, x.transpose(0, 1), state, batch_first=True)
    one = map_tensors(lambda tensor: tensor[0], state)
    assert_engine_equals_the_reference(backend, x[:, 0], one)


@every_backend
def test_state_with_another_number_of_cells(backend: str) -> None:
    x, state = make_inputs()
    more = state._replace(memory=separated_state(MemorySizes(B, 8, 3, 2, 1)))
    actual = assert_engine_equals_the_reference(backend, x, more)
    assert actual["final.memory.link"].shape == (B, 1, 8, 8)


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
def test_learned_initial_state(interval: int, backend: str) -> None:
    """One row, expanded to the batch: not contiguous, and its gradient is the batch's sum."""
    x, _ = make_inputs()
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, checkpoint_interval=interval)
        row = require_grad(lively_state(model, 1))
        batch = map_tensors(lambda tensor: tensor.expand(B, *tensor.shape[1:]), row)
        total = weighed_sum(model(x, batch))
        grads = torch.autograd.grad(total, list(tensors(row)))
        found.append({str(index): part for index, part in enumerate(grads)})
    assert_results_close(*found)


@every_backend
def test_from_zero_in_the_robust_order(backend: str) -> None:
    x, _ = make_inputs()
    assert_engine_equals_the_reference(backend, x, None, usage_order="robust")


@every_backend
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "controller": "gru"}], ids=str)
def test_float32_is_as_close_to_float64_as_plain_autograd(options: dict, backend: str) -> None:
    x, state = make_inputs(**options)
    exact = expected_results(**options)
    single = map_tensors(Tensor.float, (x, state))
    engine = run(lively_dnc(backend=backend, checkpoint_interval=3, **options).float(), *single)
    plain = run(lively_dnc(backend="reference", **options).float(), *single)
    for name, value in exact.items():
        assert engine[name].dtype == torch.float32
        error, allowed = (engine[name] - value).norm(), 2 * (plain[name] - value).norm()
        assert error <= torch.maximum(allowed, 2e-6 * value.norm()), name


def test_public_results_are_equal_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    x, state = make_inputs(num_cells=20)
    found = []
    for installed in (HAS_NUMBA, False):
        if not installed:
            monkeypatch.setitem(sys.modules, "numba", None)
            monkeypatch.setattr(choice, "_found", {})
        found.append(run(lively_dnc(num_cells=20), x, state))
    assert_results_close(*found)


# Controllers that people bring along


class Own(nn.Module):
    """A dict for a state; keeps `count` without looking at it, and never uses `unused`."""

    def __init__(self, input_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.output_size = 5
        self.layer = nn.Linear(input_size + 3, 5)
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.double()

    def zero_state(self, batch_size: int) -> dict[str, Any]:
        new_zeros = self.layer.weight.new_zeros
        return {"h": new_zeros(batch_size, 3), "rest": [new_zeros(batch_size, 2, 2)]}

    def forward(self, inputs: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        hidden = torch.tanh(self.layer(torch.cat([inputs, state["h"]], dim=1)))
        output = self.dropout(hidden + self.frozen(hidden))
        return output, {"h": hidden[:, :3], "rest": [state["rest"][0] * 0.5]}


class Forgetful(Own):
    """A new state that does not depend on the old one, nor on any parameter."""

    def forward(self, inputs: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        output, _ = super().forward(inputs, state)
        return output, map_tensors(torch.ones_like, state)


class Deaf(Own):
    """Its output does not depend on its input at all: only on its parameters."""

    def forward(self, inputs: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        return self.layer.bias.expand(len(inputs), 5), state


@every_backend
@pytest.mark.parametrize("interval", [1, 3, T + 1])
@pytest.mark.parametrize("kind", [Own, Forgetful, Deaf])
@pytest.mark.parametrize("packed", [False, True])
def test_own_controllers(packed: bool, kind: type[Own], interval: int, backend: str) -> None:
    x, state = make_inputs(controller=kind)
    if packed:
        x = pack_sequence([normal(n, 3) for n in (4, 9, 7)], enforce_sorted=False)
    found = assert_engine_equals_the_reference(
        backend, x, state, interval=interval, controller=kind
    )
    assert not found["gradient of parameter.cell.controller.unused.weight"].any()
    assert not any("frozen" in name for name in found)
    assert found["gradient of parameter.cell.controller.layer.bias"].any()


@every_backend
def test_own_controller_without_anything_to_learn(backend: str) -> None:
    x, state = make_inputs(controller=Own)
    assert_engine_equals_the_reference(
        backend,
        x,
        state,
        prepare=lambda model: model.cell.controller.requires_grad_(False),
        controller=Own,
    )


@every_backend
@pytest.mark.parametrize("packed", [False, True])
def test_own_controller_with_dropout(packed: bool, backend: str) -> None:
    def controller(size: int) -> Own:
        return Own(size, 0.5)

    x, state = make_inputs(controller=controller)
    if packed:
        x = pack_sequence([normal(n, 3) for n in (4, 9, 7)], enforce_sorted=False)
    assert_engine_equals_the_reference(backend, x, state, controller=controller)


@every_backend
def test_changed_built_in_controller_counts_as_your_own(backend: str) -> None:
    """A subclass may do anything; its forward is what runs."""

    class Doubled(CONTROLLERS["gru"]):
        def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
            output, state = super().forward(inputs, state)
            return 2 * output, state

    def controller(size: int) -> nn.Module:
        return Doubled(size, 4, 2, dtype=torch.float64)

    x, state = make_inputs(controller=controller)
    assert_engine_equals_the_reference(backend, x, state, controller=controller)


class Counting(Own):
    """Counts its steps in integers, and has None for a part of its state."""

    def zero_state(self, batch_size: int) -> dict[str, Any]:
        return {"steps": torch.zeros(batch_size, dtype=torch.int64), "none": None}

    def forward(self, inputs: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        hidden = inputs.new_zeros(len(inputs), 3)
        output = torch.tanh(self.layer(torch.cat([inputs, hidden], dim=1)))
        return output * (1 + state["steps"][:, None]), {**state, "steps": state["steps"] + 1}


@every_backend
def test_own_controller_that_counts(backend: str) -> None:
    x, memory = make_inputs()
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, controller=Counting)
        start = model.zero_state(B)._replace(memory=memory.memory)
        output, final = model(x, start)
        output, final = model(x, final.detach())
        assert final.controller["steps"].tolist() == [2 * T] * B
        assert final.controller["none"] is None
        parts = torch.autograd.grad(weighed_sum(output), list(model.cell.interface.parameters()))
        found.append({"output": output, **{str(i): part for i, part in enumerate(parts)}})
    assert_results_close(*found)


class Halved(nn.Linear):
    """A linear layer with its own way forward."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class OwnCell(nn.GRUCell):
    """A subclass of what a built-in controller is made of."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return super().forward(input, hx) / 2


def replace(parent: Any, name: str, kind: type, *sizes: int) -> None:
    module = kind(*sizes, dtype=torch.float64)
    module.load_state_dict(getattr(parent, name).state_dict())
    setattr(parent, name, module)


def first_layer(model: DNC) -> Any:
    return model.cell.controller.layers[0]


CHANGES: dict[str, Callable[[DNC], Any]] = {
    "weight norm of layer": lambda model: nn.utils.parametrizations.weight_norm(
        first_layer(model), "weight_hh"
    ),
    "weight norm of interface": lambda model: nn.utils.parametrizations.weight_norm(
        model.cell.interface, "weight"
    ),
    "pruned layer": lambda model: prune.l1_unstructured(first_layer(model), "weight_hh", 0.5),
    "pruned interface": lambda model: prune.l1_unstructured(model.cell.interface, "weight", 0.5),
    "hook of layer": lambda model: first_layer(model).register_forward_hook(
        lambda module, given, output: output / 2
    ),
    "hook of controller": lambda model: model.cell.controller.register_forward_hook(
        lambda module, given, output: (output[0] / 2, output[1])
    ),
    "hook of interface": lambda model: model.cell.interface.register_forward_hook(
        lambda module, given, output: output / 2
    ),
    "replaced interface": lambda model: replace(
        model.cell, "interface", Halved, 4, model.cell.interface.out_features
    ),
    "replaced layer": lambda model: replace(model.cell.controller.layers, "0", OwnCell, 9, 4),
}


@every_backend
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_parts_run_as_changed(change: Callable[[DNC], Any], backend: str) -> None:
    """What torch lets people do to a module: the engine heeds it, or leaves the work to others."""
    x, state = make_inputs(controller="gru")
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, controller="gru")
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(2):  # the second time with other weights
            optimizer.zero_grad()
            output, _ = model(x, state)
            output.square().sum().backward()
            optimizer.step()
        grads = {key: parameter.grad for key, parameter in model.named_parameters()}
        found.append({"output": output.detach(), **grads})
    assert not torch.allclose(found[1]["output"], expected_results(controller="gru")["output"])
    assert_results_close(*found)


# Which gradients are asked for

LOSSES = {
    "outputs": lambda output, final: weighed_sum(output),
    "first output": lambda output, final: output[0].square().sum(),
    "last output": lambda output, final: output[-1].square().sum(),
    "final state": lambda output, final: weighed_sum(final),
    "final memory": lambda output, final: weighed_sum(final.memory.memory),
    "final link": lambda output, final: weighed_sum(final.memory.link),
    "final usage": lambda output, final: weighed_sum(final.memory.usage),
    "final reads": lambda output, final: weighed_sum(final.read_vectors),
    "final hidden": lambda output, final: weighed_sum(final.controller[0][0]),
    "final cells": lambda output, final: weighed_sum(final.controller[1][1]),
}


@every_backend
@pytest.mark.parametrize("interval", [1, 4])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_loss_on_a_part_of_the_results(
    loss: Callable[[Any, Any], Tensor], interval: int, backend: str
) -> None:
    x, state = make_inputs(num_layers=2)
    actual = assert_engine_equals_the_reference(
        backend, x, state, loss, interval=interval, num_layers=2
    )
    assert actual["gradient of state.memory.memory"].any()


@every_backend
@pytest.mark.parametrize("controller", ["lstm", "feedforward", Own])
@pytest.mark.parametrize("only", ["x", "memory", "read_vectors", "controller", "interface"])
def test_gradient_of_one_input_alone(only: str, controller: Any, backend: str) -> None:
    """All else is frozen, so that the engine must see for itself that it has to keep anything."""
    x, state = make_inputs(controller=controller)
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, controller=controller).requires_grad_(False)
        given = require_grad(x) if only == "x" else x
        start = state
        if only in DNCState._fields:
            start = state._replace(**{only: require_grad(getattr(state, only))})
        leaves = {"x": [given], "interface": list(model.cell.interface.parameters())}.get(only)
        if leaves is None:
            leaves = list(tensors(getattr(start, only)))
        if only == "interface":
            model.cell.interface.requires_grad_(True)
        if not leaves:
            pytest.skip("a feed-forward controller has no state")
        total = weighed_sum(model(given, start))
        parts = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        found.append({str(index): part for index, part in enumerate(parts)})
    assert found[1]["0"].any()
    assert_results_close(*found)


@every_backend
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("controller", ["lstm", "gru", Own])
def test_two_chunks(controller: Any, detach: bool, backend: str) -> None:
    """Gradients flow from the second to the first unless the state is detached."""
    x, state = make_inputs(controller=controller)
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name, controller=controller, checkpoint_interval=2)
        inputs = require_grad((x, state))
        first, middle = model(inputs[0][:5], inputs[1])
        second, final = model(inputs[0][5:], middle.detach() if detach else middle)
        total = weighed_sum((second, final))
        leaves = [inputs[0], *tensors(inputs[1]), *model.cell.interface.parameters()]
        parts = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        assert parts[0][5:].any()
        assert parts[0][:5].any() == (not detach)
        found.append(
            {"first": first, "second": second}
            | {str(index): part for index, part in enumerate(parts)}
        )
    assert_results_close(*found)


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
def test_two_chunks_equal_the_whole(interval: int, backend: str) -> None:
    x, state = make_inputs()
    model = lively_dnc(backend=backend, checkpoint_interval=interval)
    output, final = model(x, state)
    whole = torch.autograd.grad(weighed_sum((output, final)), list(model.parameters()))
    first, middle = model(x[:4], state)
    second, final = model(x[4:], middle)
    joined = torch.cat([first, second])
    assert_close(joined, output, "float64")
    parts = torch.autograd.grad(weighed_sum((joined, final)), list(model.parameters()))
    assert_results_close(
        *({str(i): part for i, part in enumerate(grads)} for grads in (parts, whole))
    )


@every_backend
def test_same_model_twice_in_a_graph(backend: str) -> None:
    """Two runs at once: each has buffers of its own."""
    x, state = make_inputs()
    found = []
    for name in (backend, "reference"):
        model = lively_dnc(backend=name)
        leaf = require_grad(x)
        one, other = model(leaf, state)[0], model(leaf.flip(0), state)[0]
        total = (one * other).sum()
        parts = torch.autograd.grad(total, [leaf, *model.parameters()])
        found.append({str(index): part for index, part in enumerate(parts)})
    assert_results_close(*found)


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "dropout": 0.5},
        {"controller": lambda size: Own(size, 0.5)},
        {"controller": "gru", "num_write_heads": 2},
    ],
    ids=["plain", "dropout", "own dropout", "gru"],
)
@pytest.mark.parametrize("interval", [1, 3])
def test_backward_twice_gives_the_same(interval: int, options: dict, backend: str) -> None:
    x, state = make_inputs(**options)
    model = lively_dnc(backend=backend, checkpoint_interval=interval, **options)
    inputs = require_grad((x, state))
    total = weighed_sum(model(*inputs))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    leaves = [*trained, inputs[0], *tensors(inputs[1])]

    def grads(retain: bool) -> Any:
        return torch.autograd.grad(
            total, leaves, retain_graph=retain, allow_unused=True, materialize_grads=True
        )

    first = grads(True)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second = grads(True)
    assert torch.equal(torch.get_rng_state(), before), "a backward pass draws no random numbers"
    assert_close(second, first, "equal")
    assert_close(grads(False), first, "equal")
    with pytest.raises(RuntimeError, match="second time"):
        grads(False)


@every_backend
def test_second_gradients_are_refused(backend: str) -> None:
    x, state = make_inputs()
    output, _ = lively_dnc(backend=backend)(x.requires_grad_(), state)
    with pytest.raises(RuntimeError, match=r'create_graph=True.*backend="reference" can do that'):
        torch.autograd.grad(output.sum(), x, create_graph=True)


@every_backend
@pytest.mark.parametrize("part", ["interface", "layer", "memory"])
def test_changes_in_place_are_noticed(part: str, backend: str) -> None:
    """As by torch's own functions: better an error than gradients of other numbers."""
    x, state = make_inputs()
    model = lively_dnc(backend=backend)
    output, _ = model(x.requires_grad_(), state)
    changed = {
        "interface": model.cell.interface.weight,
        "layer": model.cell.controller.layers[0].weight_ih,
        "memory": state.memory.memory,
    }[part]
    with torch.no_grad():
        changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@every_backend
@pytest.mark.parametrize("interval", [1, 3, T])
def test_final_state_may_be_changed(interval: int, backend: str) -> None:
    """It belongs to the caller: to clear it is no reason for other gradients."""
    x, state = make_inputs()
    model = lively_dnc(backend=backend, checkpoint_interval=interval)
    output, _ = model(x, state)
    expected = torch.autograd.grad(output.sum(), list(model.parameters()))
    output, final = model(x, state)
    with torch.no_grad():
        for part in tensors(final):
            part.zero_()
    assert_close(torch.autograd.grad(output.sum(), list(model.parameters())), expected, "equal")


@every_backend
@pytest.mark.parametrize("controller", ["lstm", Own])
def test_what_is_given_is_not_modified(controller: Any, backend: str) -> None:
    x, state = make_inputs(controller=controller)
    before = map_tensors(torch.clone, (x, state))
    model = lively_dnc(backend=backend, controller=controller)
    weighed_sum(model(x, state)).backward()
    assert_close((x, state), before, "equal")


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
def test_gradients_of_the_results_are_not_modified(interval: int, backend: str) -> None:
    """They are the caller's, and autograd may give the same tensor to others."""
    x, state = make_inputs()
    model = lively_dnc(backend=backend, checkpoint_interval=interval)
    output, final = model(x, state)
    results = [output, *tensors(final)]
    given = [normal(*result.shape) for result in results]
    before = map_tensors(torch.clone, given)
    torch.autograd.grad(results, list(model.parameters()), given)
    assert_close(given, before, "equal")


# What is kept


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """References to all matrices that a tape makes in its forward pass: one for each memory."""
    made: list[weakref.ref] = []
    new_matrices = MemoryTape._new_matrices

    def record(tape: MemoryTape, *args: Any) -> tuple[Tensor, Tensor]:
        pair = new_matrices(tape, *args)
        made.append(weakref.ref(pair[0]))
        return pair

    monkeypatch.setattr(MemoryTape, "_new_matrices", record)
    return made


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Without the garbage collector: what has no reference cycle is freed all the same."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive(references: list[weakref.ref]) -> int:
    return sum(reference() is not None for reference in references)


@every_backend
@pytest.mark.parametrize("interval", [1, 2, 4, 5, 19, 20, 30])
def test_checkpoints_are_few_and_freed(
    matrices: list[weakref.ref], no_collection: None, interval: int, backend: str
) -> None:
    """The states before step K, 2K, ...; none after the way back, also when it may come again."""
    x, state = make_inputs(20)
    model = lively_dnc(backend=backend, checkpoint_interval=interval)
    output, _ = model(x, state)
    assert alive(matrices) == math.ceil(20 / interval) - 1
    assert len(matrices) <= alive(matrices) + 2
    made = len(matrices)
    output.sum().backward(retain_graph=True)
    assert alive(matrices) == 0
    assert len(matrices) <= made + interval
    output.sum().backward()
    assert alive(matrices) == 0


@every_backend
def test_inference_keeps_nothing(
    matrices: list[weakref.ref], no_collection: None, backend: str
) -> None:
    """Two places take turns, however long the sequence; also where nothing is to be learned."""
    made = set()
    for length in (3, 10, 60):
        for frozen in (False, True):
            x, state = make_inputs(length)
            model = lively_dnc(backend=backend, checkpoint_interval=1)
            matrices.clear()
            with torch.set_grad_enabled(frozen):
                output, final = model.requires_grad_(not frozen)(x, state)
            assert all(part.grad_fn is None for part in (output, *tensors(final)))
            assert alive(matrices) == 0
            made.add(len(matrices))
    assert made <= {0, 1, 2}


@every_backend
@pytest.mark.parametrize("kept", ["output", "final"])
@pytest.mark.parametrize("controller", ["lstm", Own])
def test_buffers_die_with_the_results(
    matrices: list[weakref.ref],
    no_collection: None,
    monkeypatch: pytest.MonkeyPatch,
    controller: Any,
    kept: str,
    backend: str,
) -> None:
    """Without a backward pass, and without waiting for the collector of cycles."""
    tapes: list[weakref.ref] = []
    init = MemoryTape.__init__

    def record(tape: MemoryTape, *args: Any, **options: Any) -> None:
        init(tape, *args, **options)
        tapes.append(weakref.ref(tape))

    monkeypatch.setattr(MemoryTape, "__init__", record)
    x, state = make_inputs(controller=controller)
    model = lively_dnc(backend=backend, controller=controller, checkpoint_interval=1)
    output, final = model(x, state)
    result = output if kept == "output" else final
    del output, final
    assert alive(tapes) == 1
    assert alive(matrices) == T - 1
    del result
    assert alive(tapes) == 0
    assert alive(matrices) == 0


@every_backend
def test_detached_results_keep_nothing(
    matrices: list[weakref.ref], no_collection: None, backend: str
) -> None:
    """A training loop that carries the detached state does not carry the history."""
    x, state = make_inputs()
    model = lively_dnc(backend=backend, checkpoint_interval=1)
    for _ in range(3):
        state = model(x, state)[1].detach()
        assert alive(matrices) == 0


@pytest.mark.parametrize(
    ("steps", "num_cells", "expected"),
    [
        (1, 10_000, 1),
        (10, 10, 1),
        (32, 512, 1),  # 32 MiB exactly
        (33, 512, 6),
        (100, 1024, 10),
        (101, 1024, 11),
        (2, 4096, 2),
    ],
)
def test_interval_is_one_or_the_root(steps: int, num_cells: int, expected: int) -> None:
    sizes = MemorySizes(1, num_cells, 8, 1, 1)
    assert checkpoint_interval(steps, sizes, 4) == expected
    if num_cells == 512:
        for larger in (sizes._replace(batch_size=2), sizes._replace(num_write_heads=2)):
            assert checkpoint_interval(steps, larger, 4) == 6
        assert checkpoint_interval(steps, sizes, 8) == 6


# Rows


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9).map(
        lambda sizes: sorted(sizes, reverse=True)
    ),
    keep=st.booleans(),
)
def test_rows_tile_their_buffers(sizes: list[int], keep: bool) -> None:
    rows = Layout(sizes, keep)
    batch, steps = sizes[0], range(len(sizes))
    assert (rows.steps, rows.batch_size, rows.total) == (len(sizes), batch, sum(sizes))

    def places(part: slice) -> list[int]:
        assert part.step is None
        return list(range(part.start, part.stop))

    for t in steps:
        for part in (rows.before(t), rows.after(t), rows.step(t), rows.output(t)):
            assert len(places(part)) == sizes[t]
        assert not set(places(rows.before(t))) & set(places(rows.after(t)))
        if t:  # sequences stay in their places; the shortest are left behind
            assert rows.before(t).start == rows.after(t - 1).start
    # Each sequence ends once.
    assert sorted(place for t in steps for place in places(rows.ending(t))) == list(range(batch))
    assert all(rows.ending(t).stop == sizes[t] for t in steps)
    outputs = [place for t in steps for place in places(rows.output(t))]
    assert outputs == list(range(rows.total))
    assert rows.before(0).start == 0
    if keep:
        states = [*range(batch), *(place for t in steps for place in places(rows.after(t)))]
        assert states == list(range(rows.num_state_rows))
        assert [p for t in steps for p in places(rows.step(t))] == list(range(rows.num_step_rows))
    else:
        assert rows.num_state_rows == 2 * batch
        assert rows.num_step_rows == batch
        for t in steps:
            assert max(rows.before(t).stop, rows.after(t).stop) <= rows.num_state_rows
            assert rows.step(t).stop <= rows.num_step_rows
