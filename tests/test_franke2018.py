"""Options after Franke et al. 2018: normalised vectors, bypass dropout, a controller per direction.

The normalised LSTM is tested with the other controllers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from states import (
    assert_close,
    assert_near,
    every_backend,
    lively_dnc,
    lively_states,
    normal,
    run,
    weighed_sum,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from dnc_fast import DNC, DNCCell, DNCState
from dnc_fast.backends import unchecked_step
from dnc_fast.engine.passes import Passes

NORM, BOTH_ENDS = {"interface_norm": True}, {"bidirectional_controller": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "norm": NORM,
    "norm, in two layers": {**NORM, "num_layers": 2, "bias": False},
    "both ends": BOTH_ENDS,
    "both ends, in two layers": {**BOTH_ENDS, "num_layers": 2, "dropout": 0.5},
    "both ends, without biases": {**BOTH_ENDS, "bias": False, "controller": "gru"},
    "two directions of both ends": {**BOTH_ENDS, "bidirectional": True},
    "bypass dropout": {"bypass_dropout": 0.4},
    "all": {
        **(NORM | BOTH_ENDS),
        "controller": "layer_norm_lstm",
        "bypass_dropout": 0.3,
        "linkage": "none",
        "num_write_heads": 2,
        "masked_lookup": True,
    },
}

every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def packed(*lengths: int) -> PackedSequence:
    return pack_sequence([normal(length, 3) for length in lengths], enforce_sorted=False)


def hidden_from_the_end(controller: Any, x: Tensor) -> Tensor:
    """Of an LSTM of one layer, (T, B, H), by torch's own."""
    own = controller.layers[0]
    lstm = nn.LSTM(own.input_size, own.hidden_size).double()
    for name, parameter in own.named_parameters():
        setattr(lstm, f"{name}_l0", nn.Parameter(parameter.detach()))
    return lstm(x.flip(0))[0].flip(0)


def test_equals_its_definition() -> None:
    """Step by step: both controllers, the normalised vector, and what the output layer sees."""
    model = lively_dnc(**NORM, **BOTH_ENDS)
    cell, x = model.cell, normal(4, 2, 3)
    ahead = hidden_from_the_end(cell.reverse_controller, x)
    state, outputs = model.zero_state(2), []
    controller, memory, reads = state
    for t in range(4):
        seen = torch.cat([x[t], reads.flatten(1)], dim=-1)
        hidden, controller = cell.controller(seen, controller)
        both = torch.cat([hidden, ahead[t]], dim=-1)
        raw = both @ cell.interface.weight.T + cell.interface.bias
        deviation = (raw.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        vector = (raw - raw.mean(-1, keepdim=True)) / deviation
        vector = vector * cell.interface_norm.weight + cell.interface_norm.bias
        reads, memory = unchecked_step(vector, memory, "reference", model.config)
        outputs.append(cell.output(torch.cat([both, reads.flatten(1)], dim=-1)))
    output, final = model(x)
    assert_close(output, torch.stack(outputs), "float64")
    assert_close(final, DNCState(controller, memory, reads), "float64")


@every_backend
@pytest.mark.parametrize("interval", [1, 3])
@every_variant
def test_equals_the_reference(
    options: dict, interval: int, backend: str, engine_runs: list[Passes]
) -> None:
    """In a batch that shrinks."""
    options = {"checkpoint_interval": interval, **options}
    x, state = packed(5, 2, 4), lively_states(lively_dnc(**options), 3)
    found = [run(lively_dnc(backend=name, **options), x, state) for name in (backend, "reference")]
    assert_near(*found, 1e-12)
    assert len(engine_runs) == 1 + ("bidirectional" in options)
    for name, value in found[0].items():
        assert value.any(), name


@every_backend
@every_variant
def test_padding_is_not_seen(options: dict, backend: str) -> None:
    """Each sequence of a packed batch gives what it gives alone."""
    model = lively_dnc(backend=backend, **options).eval()
    sequences = [normal(length, 3) for length in (2, 5, 4)]
    output, final = model(pack_sequence(sequences, enforce_sorted=False))
    padded, lengths = nn.utils.rnn.pad_packed_sequence(output)
    for index, (x, length) in enumerate(zip(sequences, lengths, strict=True)):
        alone, state = model(x)
        assert_close(padded[:length, index], alone, "float64")
        pairs = [(final, state)]
        if options.get("bidirectional"):
            pairs = list(zip(final, state, strict=True))
        for one, of in pairs:
            assert_close(one.memory.memory[index], of.memory.memory, "float64")


def test_gradients_of_the_reference() -> None:
    model = lively_dnc(backend="reference", num_cells=4, **VARIANTS["all"])
    x = normal(3, 1, 3).requires_grad_()

    def total(*_: Tensor) -> Tensor:
        torch.manual_seed(3)  # what dropout draws
        return weighed_sum(model(x))

    assert torch.autograd.gradcheck(total, (x, *model.parameters()), fast_mode=True)


@pytest.mark.parametrize("of", ["a DNC", "a cell"])
def test_bypass_dropout_drops_hidden_activations_alone_and_in_training_alone(of: str) -> None:
    options = {"hidden_size": 400, "output_size": 406, "bypass_dropout": 0.25}
    model = lively_dnc(**options)
    plain = lively_dnc(**options | {"bypass_dropout": 0.0})
    for one in (model, plain):
        one.cell.output.weight.data = torch.eye(406, dtype=torch.float64)
        one.cell.output.bias.data.zero_()
    x = normal(1, 1, 3)

    def output(one: DNC) -> Tensor:
        return one(x)[0][0, 0] if of == "a DNC" else one.cell(x[0])[0][0]

    found, expected = output(model), output(plain)
    assert_close(found[400:], expected[400:], "equal")
    dropped = found[:400] == 0
    assert 0.15 < dropped.double().mean() < 0.35
    assert_close(found[:400][~dropped], (expected[:400] / 0.75)[~dropped], "float64")
    assert_close(output(model.eval()), expected, "equal")


def test_without_memory_both_controllers_run() -> None:
    model = lively_dnc(**BOTH_ENDS)
    x = normal(4, 2, 3)
    output, _ = model(x, memory=False)
    ahead = hidden_from_the_end(model.cell.reverse_controller, x)
    size = model.config.read_size
    seen, hidden = torch.cat([x, x.new_zeros(4, 2, size)], dim=-1), []
    state = model.cell.controller.zero_state(2)
    for t in range(4):
        one, state = model.cell.controller(seen[t], state)
        hidden.append(one)
    zeros = x.new_zeros(4, 2, size)
    expected = model.cell.output(torch.cat([torch.stack(hidden), ahead, zeros], dim=-1))
    assert_close(output, expected, "float64")


def test_a_trace_is_of_normalised_vectors() -> None:
    model, x = lively_dnc(**NORM, **BOTH_ENDS), normal(4, 2, 3)
    output, _, trace = model(x, return_trace=True)
    assert_close(output, model(x)[0], "float64")
    kept: list[Tensor] = []
    model.cell.interface_norm.register_forward_hook(lambda *call: kept.append(call[-1]))
    model(x)  # now step by step
    assert_close(trace.read_keys, torch.stack(kept)[..., :6].unflatten(-1, (2, 3)), "float64")


@pytest.mark.parametrize("options", [NORM, BOTH_ENDS, NORM | BOTH_ENDS], ids=str)
def test_under_autocast_it_is_near(options: dict, engine_runs: list[Passes]) -> None:
    x = normal(5, 2, 3).float()
    models = [lively_dnc(backend="eager", **options).float() for _ in range(2)]
    exact = run(models[0], x, None)
    rough = run(models[1], x, None, context=torch.autocast("cpu", torch.bfloat16))
    assert len(engine_runs) == 2
    for name in ("output", "gradient of parameter.cell.interface.weight"):
        assert F.cosine_similarity(exact[name].flatten(), rough[name].float().flatten(), 0) > 0.99


PARTS = {
    "interface": lambda cell: cell.interface.weight,
    "norm": lambda cell: cell.interface_norm.weight,
    "controller from the end": lambda cell: cell.reverse_controller.layers[0].weight_ih,
}


@every_backend
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_changes_in_place_are_noticed(part: Any, backend: str) -> None:
    model = lively_dnc(backend=backend, **NORM, **BOTH_ENDS)
    output, _ = model(normal(4, 2, 3).requires_grad_())
    with torch.no_grad():
        part(model.cell).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@every_backend
@pytest.mark.parametrize("part", ["interface_norm", "reverse_controller"])
def test_parts_with_hooks_are_called(part: str, backend: str) -> None:
    x, found = normal(4, 2, 3), []
    for name in (backend, "reference"):
        model, calls = lively_dnc(backend=name, **NORM, **BOTH_ENDS), []
        module = getattr(model.cell, part)
        module.register_forward_hook(lambda *call, calls=calls: calls.append(call))
        found.append(run(model, x, model.zero_state(2)))
        assert len(calls) == 4
    assert_near(*found, 1e-12)


def test_memory_of_all_vectors_is_reported() -> None:
    plain, norm, both = (
        DNC(3, 4, backend="eager", cell_size=4, **options).memory_report(2, 8)
        for options in ({}, NORM, BOTH_ENDS)
    )
    vectors = 4 * 2 * 8 * lively_dnc(cell_size=4, num_read_heads=4).cell.interface.out_features
    assert norm.interface - plain.interface == vectors
    assert both.interface - plain.interface == 2 * vectors
    assert plain.controller < both.controller <= 2 * plain.controller
    assert both.outputs > plain.outputs


def test_a_cell_cannot_look_ahead() -> None:
    with pytest.raises(TypeError, match="no option 'bidirectional_controller'"):
        DNCCell(3, 4, bidirectional_controller=True)
    cell = DNC(3, 4, bidirectional_controller=True).cell
    with pytest.raises(ValueError, match=r"bidirectional_controller=False.*call the DNC"):
        cell(torch.zeros(2, 3))


def test_each_end_needs_a_controller_of_its_own() -> None:
    controller = DNC(3, 4).cell.controller
    with pytest.raises(ValueError, match="function when bidirectional_controller=True"):
        DNC(3, 4, controller=controller, bidirectional_controller=True)


def test_parameters_of_both_ends_begin_alike() -> None:
    torch.manual_seed(1)
    model = DNC(3, 50, bidirectional_controller=True, interface_norm=True, input_gain=100)
    cell, features = model.cell, 100
    assert cell.interface.in_features == features
    assert cell.output.in_features == features + model.config.read_size
    for controller in (cell.controller, cell.reverse_controller):
        assert controller.layers[0].weight_ih[:, :3].abs().max() > 10
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(cell.interface_norm.weight)
    torch.manual_seed(1)
    model.reset_parameters()
    assert_close(model.state_dict(), before, "equal")
