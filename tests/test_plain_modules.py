"""The engine reads weights; whatever does more than hold weights must be called instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from states import normal
from torch import Tensor, nn

from dnc_fast import DNC
from dnc_fast.engine.recording import Recording
from dnc_fast.state import map_tensors, tensors


class Adapted(nn.Linear):
    """A linear layer with something added, as low-rank adapters do."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + input.mean(-1, keepdim=True)


class AdaptedLSTMCell(nn.LSTMCell):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        hidden, cell = super().forward(input, hx)
        return 2 * hidden, cell


def adapt_interface(model: DNC) -> None:
    old = model.cell.interface
    model.cell.interface = Adapted(old.in_features, old.out_features, dtype=torch.float64)


def adapt_layer(model: DNC) -> None:
    old = model.cell.controller.layers[0]
    model.cell.controller.layers[0] = AdaptedLSTMCell(
        old.input_size, old.hidden_size, dtype=torch.float64
    )


def hook(pick: Callable[[DNC], nn.Module]) -> Callable[[DNC], None]:
    def change(module: nn.Module, inputs: Any, output: Any) -> Any:
        return map_tensors(lambda tensor: 3 * tensor, output)

    return lambda model: pick(model).register_forward_hook(change) and None


def parametrize(model: DNC) -> None:
    nn.utils.parametrizations.weight_norm(model.cell.interface)
    nn.utils.parametrizations.weight_norm(model.cell.controller.layers[0], "weight_hh")


CHANGES = {
    "adapted interface": adapt_interface,
    "adapted layer": adapt_layer,
    "hook on interface": hook(lambda model: model.cell.interface),
    "hook on controller": hook(lambda model: model.cell.controller),
    "hook on layer": hook(lambda model: model.cell.controller.layers[0]),
    "parametrised": parametrize,
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_changed_modules_compute_as_in_the_reference(name: str, backend: str) -> None:
    results = []
    for chosen in (backend, "reference"):
        torch.manual_seed(0)
        model = DNC(3, 4, num_cells=5, cell_size=2, backend=chosen, dtype=torch.float64)
        plain = model(normal(3, 2, 3))[0]
        CHANGES[name](model)
        output, state = model(normal(3, 2, 3))
        assert name == "parametrised" or not torch.equal(output, plain)
        output.sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        results.append([output, *tensors(state), *gradients])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_plain_models_run_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, all of the above would pass with the engine never used."""
    calls = []
    results = Recording.results
    monkeypatch.setattr(Recording, "results", lambda self: calls.append(1) or results(self))
    DNC(3, 4, num_cells=5, cell_size=2)(torch.zeros(2, 1, 3))
    assert calls


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
    model = DNC(3, 4, num_cells=5, cell_size=2, controller=Conditioned, dtype=torch.float64)
    model.cell.controller.outside = 2 * torch.ones(4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"inputs, its state and its own parameters.*\(4,\)"):
        model(normal(3, 2, 3))


def test_what_a_sequence_computes_once_gets_its_gradient() -> None:
    gradients = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        model = DNC(
            3, 4, num_cells=5, cell_size=2, controller=Conditioned, backend=backend,
            dtype=torch.float64,
        )  # fmt: skip
        model(normal(3, 2, 3))[0].sum().backward()
        gradients.append(model.cell.controller.shared.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn"])
def test_zero_state_shares_no_storage(controller: str) -> None:
    state = DNC(3, 4, 2, num_cells=5, cell_size=2, controller=controller).zero_state(2)
    places = [tensor.data_ptr() for tensor in tensors(state)]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
def test_state_from_autocast_goes_back_in_without_it(controller: str) -> None:
    model = DNC(3, 4, num_cells=5, cell_size=2, controller=controller)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(torch.randn(2, 1, 3))
    assert {tensor.dtype for tensor in tensors(state)} == {torch.float32}
    model(torch.randn(2, 1, 3), state)
