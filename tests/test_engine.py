"""Whole sequences by the engine, against the reference step by step: values, gradients, memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from inside import Kept
from states import (
    HAS_NUMBA,
    assert_close,
    assert_near,
    every_backend,
    lively_dnc,
    lively_state,
    lively_states,
    normal,
    outcome,
    parameters,
    require_grad,
    run,
    separated_state,
    usage_gap,
    weighed_sum,
)
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_sequence

from dnc_fast import DNC, DNCState
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.engine.memory_tape import checkpoint_interval
from dnc_fast.engine.passes import Passes
from dnc_fast.layout import Layout
from dnc_fast.state import MemorySizes, map_tensors, tensors

T, B = 9, 3
INTERVALS = (1, 3, 8, T, T + 4)

every_interval = pytest.mark.parametrize("interval", INTERVALS)
write_heads = pytest.mark.parametrize("num_write_heads", [1, 2])

Results = dict[str, Tensor]


def compare(
    backend: str, measure: Callable[[DNC], Results], *, interval: int | None = 3, **options: Any
) -> Results:
    """Measure a model that uses a backend, and check that the reference gives the same."""
    actual, expected = (
        measure(lively_dnc(backend=name, checkpoint_interval=interval, **options))
        for name in (backend, "reference")
    )
    assert_near(actual, expected, 1e-12)
    return actual


def assert_equals_the_reference(
    backend: str,
    x: Any,
    state: Any,
    loss: Callable[[Any, Any], Tensor] | None = None,
    **options: Any,
) -> Results:
    return compare(backend, lambda model: run(model, x, state, loss), **options)


def make_inputs(length: int = T, batch_size: int = B, **options: Any) -> tuple[Tensor, DNCState]:
    """An input and a state in the middle of a run."""
    generator = torch.Generator().manual_seed(1)
    model = lively_dnc(**options)
    return normal(length, batch_size, 3, generator=generator), lively_states(model, batch_size)


def packed(*lengths: int) -> Any:
    return pack_sequence([normal(length, 3) for length in lengths], enforce_sorted=False)


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
    assert_near(actual, expected_results(**options))


LINKAGES = {
    "dense": {},
    "sparse": {"link_fan_out": 2, "link_threshold": 0.05},
    "sparse, unit sums": {"link_fan_out": 2, "link_threshold": 0.0, "link_unit_sums": True},
    "separable": {},
    "none": {},
}


@every_backend
@pytest.mark.parametrize("interval", [1, 2, 3, None])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"read_topk": 3, "write_topk": 2, "num_write_heads": 2},
        {"write_topk": 3, "usage_order": "robust", "strengths": "softplus"},
        {"read_topk": 2, "num_write_heads": 2, "usage_gradient": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("linkage", LINKAGES)
def test_linkages_and_cut_weightings(
    linkage: str, options: dict, interval: int | None, backend: str, engine_runs: list[Passes]
) -> None:
    """In a batch that shrinks."""
    options = {"num_cells": 7, "linkage": linkage.split(",")[0], **LINKAGES[linkage], **options}
    state = lively_state(lively_dnc(**options), 3)
    x, options = packed(5, 3, 4), {"checkpoint_interval": interval, **options}
    models = (lively_dnc(backend=name, **options) for name in (backend, "reference"))
    assert_close(*(run(model, x, state) for model in models), "float64")
    assert len(engine_runs) == 1


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
        {"num_layers": 2, "value_clip": 1.1},
        {"value_clip": 0.4, "activation_clip": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_options_of_controllers(controller: str, options: dict, backend: str) -> None:
    options = {"controller": controller, **options}
    model = lively_dnc(backend=backend, checkpoint_interval=3, **options)
    actual = run(model, *make_inputs(**options))
    assert_near(actual, expected_results(**options))
    if "activation_clip" in options:
        unclipped = expected_results(**options | {"activation_clip": None})
        name = "gradient of input"
        assert not torch.allclose(actual[name], unclipped[name]), "nothing was clipped"
        assert actual["gradient of parameter.cell.interface.weight"].isfinite().all()
    if "value_clip" in options:
        assert actual["output"].abs().max() == options["value_clip"]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_built_in_controllers_run_in_the_engine_and_are_never_called(
    controller: str, engine_runs: list[Passes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller without a tape would be called step by step, which is correct but slow."""
    kind = CONTROLLERS[controller]
    assert kind.tape is not None
    monkeypatch.setattr(kind, "forward", None)
    model = lively_dnc(controller=controller, num_layers=2, value_clip=20)
    output, _ = model(*make_inputs(controller=controller, num_layers=2))
    output.sum().backward()
    assert len(engine_runs) == 1
    assert all(parameter.grad.any() for parameter in model.cell.controller.parameters())


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {"num_read_heads": 1, "num_cells": 1, "cell_size": 1},
        {"num_read_heads": 5, "num_write_heads": 3, "num_cells": 7},
        {"num_cells": 70},
        {"output_size": 1},
        {"usage_order": "robust", "num_write_heads": 2},
        {"strengths": "softplus", "usage_gradient": False, "num_write_heads": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("length", "batch_size"), [(1, 1), (2, 1), (5, 2)])
def test_sizes(length: int, batch_size: int, options: dict, backend: str) -> None:
    x, state = make_inputs(length, batch_size, **options)
    for interval in (None, 2):
        assert_equals_the_reference(backend, x, state, interval=interval, **options)


@every_backend
@every_interval
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_dropout_draws_the_same_masks(controller: str, interval: int, backend: str) -> None:
    options = {"controller": controller, "num_layers": 2, "dropout": 0.5}
    x, state = make_inputs(**options)
    dropped = assert_equals_the_reference(backend, x, state, interval=interval, **options)
    kept = compare(backend, lambda model: run(model.eval(), x, state), **options)
    assert not torch.allclose(dropped["output"], kept["output"])


@every_backend
@every_interval
@pytest.mark.parametrize("lengths", [(9, 9, 4, 1), (4, 9, 1, 9)], ids=str)
def test_packed_sequences(lengths: tuple[int, ...], interval: int, backend: str) -> None:
    _, state = make_inputs(batch_size=4, num_layers=2)
    x = packed(*lengths)
    assert_equals_the_reference(backend, x, state, interval=interval, num_layers=2)


@every_backend
def test_forms_of_input(backend: str) -> None:
    """Both directions, batch first, unbatched."""
    x, pair = make_inputs(5, 3, bidirectional=True)
    assert_equals_the_reference(backend, x, pair, bidirectional=True)
    assert_equals_the_reference(backend, packed(2, 5, 3), pair, bidirectional=True)
    assert_equals_the_reference(backend, x.transpose(0, 1), pair[0], batch_first=True)
    one = map_tensors(lambda tensor: tensor[0], pair[0])
    assert_equals_the_reference(backend, x[:, 0], one)


@every_backend
def test_state_with_another_number_of_cells(backend: str) -> None:
    x, state = make_inputs()
    more = state._replace(memory=separated_state(MemorySizes(B, 8, 3, 2, 1)))
    actual = assert_equals_the_reference(backend, x, more)
    assert actual["final.memory.link"].shape == (B, 1, 8, 8)


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
def test_learned_initial_state(interval: int, backend: str) -> None:
    """One row, expanded to the batch: not contiguous, and its gradient is the batch's sum."""
    x, _ = make_inputs()

    def measure(model: DNC) -> Results:
        row = require_grad(lively_state(model, 1))
        batch = map_tensors(lambda tensor: tensor.expand(B, *tensor.shape[1:]), row)
        output, final = model(x, batch)
        return outcome({"output": output, "final": final}, {"row": row})

    found = compare(backend, measure, interval=interval)
    gradients = [part for name, part in found.items() if name.startswith("gradient")]
    assert len(gradients) == 9 and all(part.any() for part in gradients)


@every_backend
def test_from_zero_in_the_robust_order(backend: str) -> None:
    x, _ = make_inputs()
    assert_equals_the_reference(backend, x, None, usage_order="robust")


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


def test_public_results_are_equal_without_numba(
    monkeypatch: pytest.MonkeyPatch, without: Callable[[str], None]
) -> None:
    monkeypatch.delenv("DNC_FAST_BACKEND", raising=False)
    x, state = make_inputs(num_cells=20)
    found = []
    for installed in (HAS_NUMBA, False):
        if not installed:
            without("numba")
        found.append(run(lively_dnc(num_cells=20), x, state))
    assert_near(*found)


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


class Dropping(Own):
    def __init__(self, input_size: int) -> None:
        super().__init__(input_size, 0.5)


@every_backend
@pytest.mark.parametrize("interval", [1, 3, T + 1])
@pytest.mark.parametrize("kind", [Own, Forgetful, Deaf, Dropping])
@pytest.mark.parametrize("ragged", [False, True])
def test_own_controllers(ragged: bool, kind: type[Own], interval: int, backend: str) -> None:
    x, state = make_inputs(controller=kind)
    x = packed(4, 9, 7) if ragged else x
    found = assert_equals_the_reference(backend, x, state, interval=interval, controller=kind)
    assert not found["gradient of parameter.cell.controller.unused.weight"].any()
    assert not any("frozen" in name for name in found)
    assert found["gradient of parameter.cell.controller.layer.bias"].any()


@every_backend
def test_own_controller_without_anything_to_learn(backend: str) -> None:
    x, state = make_inputs(controller=Own)

    def measure(model: DNC) -> Results:
        model.cell.controller.requires_grad_(False)
        return run(model, x, state)

    assert not any("controller.layer" in name for name in compare(backend, measure, controller=Own))


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
    assert_equals_the_reference(backend, x, state, controller=controller)


class Counting(Own):
    """Counts its steps in integers, and has None for a part of its state."""

    def zero_state(self, batch_size: int) -> dict[str, Any]:
        return {"steps": torch.zeros(batch_size, dtype=torch.int64), "none": None}

    def forward(self, inputs: Tensor, state: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        hidden = inputs.new_zeros(len(inputs), 3)
        output = torch.tanh(self.layer(torch.cat([inputs, hidden], dim=1)))
        return output * (1 + state["steps"][:, None]), {**state, "steps": state["steps"] + 1}


@every_backend
@pytest.mark.parametrize("lengths", [(T, T, T), (2, 4, 1)], ids=str)
def test_own_controller_that_counts(lengths: tuple[int, ...], backend: str) -> None:
    _, memory = make_inputs()
    x = packed(*lengths)

    def measure(model: DNC) -> Results:
        start = model.zero_state(B)._replace(memory=memory.memory)
        output, final = model(x, start)
        output, final = model(x, final.detach())
        assert final.controller["steps"].tolist() == [2 * length for length in lengths]
        assert final.controller["none"] is None
        leaves = {"interface": list(model.cell.interface.parameters())}
        return outcome({"output": output.data}, leaves)

    compare(backend, measure, controller=Counting)


class Conditioned(nn.Module):
    """Depends on a tensor from outside, or on one computed once a sequence."""

    output_size = 4

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(input_size, 4, dtype=torch.float64)
        self.shared = nn.Linear(1, 4, dtype=torch.float64)
        self.outside: Tensor | None = None

    def zero_state(self, batch_size: int) -> tuple[()]:
        self.once = self.shared(torch.ones(1, dtype=torch.float64))
        return ()

    def forward(self, inputs: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        hidden = torch.tanh(self.layer(inputs)) * self.once
        return hidden if self.outside is None else hidden * self.outside, ()


def test_gradients_from_outside_are_refused_not_lost() -> None:
    model = lively_dnc(controller=Conditioned)
    model.cell.controller.outside = 2 * torch.ones(4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"inputs, its state and its own parameters.*\(4,\)"):
        model(normal(3, 2, 3))


@every_backend
def test_what_a_sequence_computes_once_gets_its_gradient(backend: str) -> None:
    x, state = make_inputs(controller=Conditioned)
    found = assert_equals_the_reference(backend, x, state, controller=Conditioned)
    assert found["gradient of parameter.cell.controller.shared.weight"].any()


# Models that people change


class Halved(nn.Linear):
    """A linear layer with its own forward pass, as low-rank adapters have."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


class OwnGRUCell(nn.GRUCell):
    """A subclass of what a built-in controller is made of."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return super().forward(input, hx) / 2


class OwnLSTMCell(nn.LSTMCell):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        hidden, cell = super().forward(input, hx)
        return hidden / 2, cell


def replace(parent: Any, name: str, kind: type, *sizes: int) -> None:
    module = kind(*sizes, dtype=torch.float64)
    module.load_state_dict(getattr(parent, name).state_dict())
    setattr(parent, name, module)


def replace_layer(model: DNC) -> None:
    kinds = {"gru": OwnGRUCell, "lstm": OwnLSTMCell}
    replace(model.cell.controller.layers, "0", kinds[model.config.controller], 9, 4)


def first_layer(model: DNC) -> Any:
    return model.cell.controller.layers[0]


def halve(module: nn.Module) -> None:
    """By a hook."""
    module.register_forward_hook(
        lambda module, given, output: map_tensors(lambda part: part / 2, output)
    )


CHANGES: dict[str, Callable[[DNC], Any]] = {
    "weight norm of layer": lambda model: nn.utils.parametrizations.weight_norm(
        first_layer(model), "weight_hh"
    ),
    "weight norm of interface": lambda model: nn.utils.parametrizations.weight_norm(
        model.cell.interface, "weight"
    ),
    "pruned layer": lambda model: prune.l1_unstructured(first_layer(model), "weight_hh", 0.5),
    "pruned interface": lambda model: prune.l1_unstructured(model.cell.interface, "weight", 0.5),
    "hook of layer": lambda model: halve(first_layer(model)),
    "hook of controller": lambda model: halve(model.cell.controller),
    "hook of interface": lambda model: halve(model.cell.interface),
    "replaced interface": lambda model: replace(
        model.cell, "interface", Halved, 4, model.cell.interface.out_features
    ),
    "replaced layer": replace_layer,
}


@every_backend
@pytest.mark.parametrize("controller", ["gru", "lstm"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_parts_run_as_changed(
    change: Callable[[DNC], Any], controller: str, backend: str
) -> None:
    """What torch lets people do to a module: the engine respects it, or calls the module."""
    x, state = make_inputs(controller=controller)

    def measure(model: DNC) -> Results:
        change(model)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for _ in range(2):  # the second time with other weights
            optimizer.zero_grad()
            output, _ = model(x, state)
            output.square().sum().backward()
            optimizer.step()
        grads = {key: parameter.grad for key, parameter in model.named_parameters()}
        return {"output": output.detach(), **grads}

    found = compare(backend, measure, controller=controller)
    assert not torch.allclose(found["output"], expected_results(controller=controller)["output"])


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
    actual = assert_equals_the_reference(backend, x, state, loss, interval=interval, num_layers=2)
    assert actual["gradient of state.memory.memory"].any()


@every_backend
@pytest.mark.parametrize("controller", ["lstm", "feedforward", Own])
@pytest.mark.parametrize("only", ["x", "memory", "read_vectors", "controller", "interface"])
def test_gradient_of_one_input_alone(only: str, controller: Any, backend: str) -> None:
    """Everything else is frozen, so the engine must notice that it has to keep anything."""
    if (only, controller) == ("controller", "feedforward"):
        pytest.skip("a feed-forward controller has no state")
    x, state = make_inputs(controller=controller)

    def measure(model: DNC) -> Results:
        model.requires_grad_(False)
        leaves = {"x": x, **state._asdict(), "interface": list(model.cell.interface.parameters())}
        if only == "interface":
            model.cell.interface.requires_grad_(True)
        else:
            leaves[only] = require_grad(leaves[only])
        start = DNCState(*(leaves[field] for field in DNCState._fields))
        output, final = model(leaves["x"], start)
        return outcome({"output": output, "final": final}, {only: leaves[only]})

    found = compare(backend, measure, controller=controller)
    assert any(part.any() for name, part in found.items() if name.startswith("gradient"))


@every_backend
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("controller", ["lstm", "gru", Own])
def test_two_chunks(controller: Any, detach: bool, backend: str) -> None:
    """Gradients flow from the second to the first unless the state is detached."""
    given = make_inputs(controller=controller)

    def measure(model: DNC) -> Results:
        x, state = require_grad(given)
        first, middle = model(x[:5], state)
        second, final = model(x[5:], middle.detach() if detach else middle)
        leaves = {"x": x, "state": state, "interface": list(model.cell.interface.parameters())}
        total = weighed_sum((second, final))
        return outcome({"first": first, "second": second, "final": final}, leaves, total)

    found = compare(backend, measure, interval=2, controller=controller)
    assert found["gradient of x"][5:].any()
    assert found["gradient of x"][:5].any() == (not detach)


@every_backend
def test_same_model_twice_in_a_graph(backend: str) -> None:
    """Two runs at once: each has buffers of its own."""
    x, state = make_inputs()

    def measure(model: DNC) -> Results:
        leaf = require_grad(x)
        one, other = model(leaf, state)[0], model(leaf.flip(0), state)[0]
        leaves = {"x": leaf, **parameters(model)}
        return outcome({"one": one, "other": other}, leaves, (one * other).sum())

    compare(backend, measure)


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "dropout": 0.5},
        {"controller": Dropping},
        {"controller": "gru", "num_write_heads": 2},
        {"write_topk": 3},
        *({"linkage": linkage, "write_topk": 3} for linkage in ("sparse", "separable", "none")),
        {"controller": "layer_norm_lstm", "interface_norm": True},
        {"bidirectional_controller": True, "num_layers": 2, "dropout": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("interval", [1, 3])
def test_backward_again_gives_the_same(interval: int, options: dict, backend: str) -> None:
    model = lively_dnc(backend=backend, checkpoint_interval=interval, **options)
    x, state = require_grad(make_inputs(**options))
    output, final = model(x, state)
    total, before = weighed_sum((output, final)), map_tensors(torch.clone, final)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    leaves = [*trained, x, *(part for part in tensors(state) if part.requires_grad)]

    def grads(retain: bool) -> Any:
        return torch.autograd.grad(
            total, leaves, retain_graph=retain, allow_unused=True, materialize_grads=True
        )

    first = grads(True)
    torch.manual_seed(99)
    random = torch.get_rng_state()
    second = grads(True)
    assert torch.equal(torch.get_rng_state(), random), "a backward pass draws no random numbers"
    assert_close(second, first, "equal")
    assert_close(grads(False), first, "equal")
    assert_close(final, before, "equal")
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
    """As in torch's own functions: an error is better than wrong gradients."""
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
@pytest.mark.parametrize(
    "options",
    [
        *({"checkpoint_interval": interval} for interval in (1, 3, T)),
        *({"linkage": name, "write_topk": k} for name in ("sparse", "none") for k in (None, 3)),
    ],
    ids=str,
)
def test_final_state_may_be_changed(options: dict, backend: str) -> None:
    """It belongs to the caller: clearing it, wholly or in part, does not change gradients."""
    x, state = make_inputs(**options)
    model, found = lively_dnc(backend=backend, **options), []
    for cleared in (slice(0), slice(None), slice(1)):
        output, final = model(x, state)
        with torch.no_grad():
            for part in tensors(final):
                part[cleared] = 0
        found.append(torch.autograd.grad(output.sum(), list(model.parameters())))
    assert_close(found[1:], [found[0]] * 2, "equal")


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("controller", ["lstm", Own])
def test_what_is_given_is_not_modified(controller: Any, interval: int, backend: str) -> None:
    """Input, state, and the gradients of the results, which autograd may give to others too."""
    x, state = make_inputs(controller=controller)
    model = lively_dnc(backend=backend, controller=controller, checkpoint_interval=interval)
    output, final = model(x, state)
    results = [output, *(part for part in tensors(final) if part.requires_grad)]
    given = (x, state, [normal(*result.shape) for result in results])
    before = map_tensors(torch.clone, given)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.autograd.grad(results, trained, given[-1], allow_unused=True)
    assert_close(given, before, "equal")


# What is kept


@every_backend
@pytest.mark.parametrize("interval", [1, 2, 4, 5, 19, 20, 30])
def test_checkpoints_are_few_and_freed(kept: Kept, interval: int, backend: str) -> None:
    """The states before step K, 2K, ...; none after a backward pass, even if one may follow."""
    x, state = make_inputs(20)
    model = lively_dnc(backend=backend, checkpoint_interval=interval)
    output, _ = model(x, state)
    _, alive = kept.alive()
    assert alive == math.ceil(20 / interval) - 1
    made = len(kept.matrices)
    assert made <= alive + 2
    output.sum().backward(retain_graph=True)
    assert kept.alive() == (0, 0)
    assert len(kept.matrices) <= made + interval
    output.sum().backward()
    assert kept.alive() == (0, 0)


@every_backend
def test_inference_keeps_nothing(kept: Kept, backend: str) -> None:
    """Two buffers alternate, however long the sequence is; also where nothing is trained."""
    made = set()
    for length in (3, 10, 60):
        for frozen in (False, True):
            x, state = make_inputs(length)
            model = lively_dnc(backend=backend, checkpoint_interval=1)
            kept.matrices.clear()
            with torch.set_grad_enabled(frozen):
                output, final = model.requires_grad_(not frozen)(x, state)
            assert all(part.grad_fn is None for part in (output, *tensors(final)))
            assert kept.alive() == (0, 0)
            made.add(len(kept.matrices))
    assert made <= {0, 1, 2}


@every_backend
@pytest.mark.parametrize("result", ["output", "final"])
@pytest.mark.parametrize("controller", ["lstm", Own])
def test_buffers_die_with_the_results(
    kept: Kept, controller: Any, result: str, backend: str
) -> None:
    """Without a backward pass, and without waiting for the collector of cycles."""
    x, state = make_inputs(controller=controller)
    model = lively_dnc(backend=backend, controller=controller, checkpoint_interval=1)
    output, final = model(x, state)
    held = output if result == "output" else final
    del output, final
    assert kept.alive() == (1, T - 1)
    del held
    assert kept.alive() == (0, 0)


@every_backend
def test_detached_results_keep_nothing(kept: Kept, backend: str) -> None:
    """A training loop that carries the detached state does not carry the history."""
    x, state = make_inputs()
    model = lively_dnc(backend=backend, checkpoint_interval=1)
    for _ in range(3):
        state = model(x, state)[1].detach()
        assert kept.alive() == (0, 0)


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
