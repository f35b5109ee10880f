"""`DNC` and `DNCCell` as modules: in the place of nn.LSTM, with a state, in every dtype."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from states import (
    assert_close,
    lively_dnc,
    lively_state,
    normal,
    oracle_dnc,
    require_grad,
    separated_state,
    usage_gap,
)
from torch import Tensor, nn

from dnc_fast import DNC, DNCCell, DNCState, MemoryState, Trace
from dnc_fast.state import MemorySizes, map_tensors, tensors

write_heads = pytest.mark.parametrize("num_write_heads", [1, 2])


def dtypes(tree: Any) -> set[torch.dtype]:
    return {part.dtype for part in tensors(tree)}


# The whole computation


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_single_step_on_a_cpu_is_a_step_of_the_cell(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a run of the engine, which takes longer to begin than the step itself."""
    model = lively_dnc(backend=backend)
    x, state = normal(2, 2, 3), lively_state(model, 2)
    expected, _ = model(x, state)
    monkeypatch.setattr("dnc_fast.cell.run_sequences", None)
    with pytest.raises(TypeError):
        model(x, state)
    outputs = []
    for step in x.split(1):
        output, state = model(step, state)
        outputs.append(output)
    assert_close(torch.cat(outputs), expected, "float64")


@write_heads
@pytest.mark.parametrize("order", ["exact", "robust"])
def test_whole_equals_the_oracle(num_write_heads: int, order: str) -> None:
    model = lively_dnc(num_layers=2, num_write_heads=num_write_heads, usage_order=order)
    x, state = normal(4, 2, 3), lively_state(model, 2)
    output, final, trace = model(x, state, return_trace=True)
    assert usage_gap(trace.usage.flatten(0, 1)) > 1e-6
    assert_close((output, final), oracle_dnc(model, x, state, order=order), "float64")


@write_heads
def test_whole_from_zero_equals_the_oracle(num_write_heads: int) -> None:
    """With the robust order: from zero, the exact order depends on the last bits."""
    model = lively_dnc(num_write_heads=num_write_heads, usage_order="robust")
    x = normal(6, 2, 3)
    assert_close(model(x), oracle_dnc(model, x, model.zero_state(2), order="robust"), "float64")


@write_heads
def test_gradients_of_two_steps(num_write_heads: int) -> None:
    """Of outputs and final state, to every parameter, the input, and all of the initial state."""
    sizes = {"input_size": 2, "hidden_size": 2, "output_size": 2, "num_cells": 3, "cell_size": 2}
    model = lively_dnc(num_layers=2, num_write_heads=num_write_heads, **sizes)
    names = [name for name, _ in model.named_parameters()]
    x, state = normal(2, 1, 2), lively_state(model, 1)
    h, c = zip(*state.controller, strict=True)

    def run(x: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        parameters, parts = parts[: len(names)], parts[len(names) :]
        memory, (read_vectors, *layers) = MemoryState(*parts[:6]), parts[6:]
        given = DNCState(tuple(zip(layers[:2], layers[2:], strict=True)), memory, read_vectors)
        named = dict(zip(names, parameters, strict=True))
        output, final = torch.func.functional_call(model, named, (x, given))
        return output, *tensors(final)

    inputs = (x, *model.parameters(), *state.memory, state.read_vectors, *h, *c)
    _, _, trace = model(x, state, return_trace=True)
    # Difference quotients of 1e-6 must not reach a swap of the order.
    assert usage_gap(trace.usage.flatten(0, 1)) > 1e-3
    assert torch.autograd.gradcheck(run, require_grad(inputs))


@pytest.mark.full
@write_heads
@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
def test_long_runs_equal_the_oracle(controller: str, num_write_heads: int) -> None:
    model = lively_dnc(
        controller=controller,
        num_layers=3,
        num_cells=24,
        cell_size=7,
        num_read_heads=3,
        num_write_heads=num_write_heads,
        usage_order="robust",
    )
    x, state = normal(20, 3, 3), lively_state(model, 3)
    expected = oracle_dnc(model, x, state, controller, order="robust")
    assert_close(model(x, state), expected, "float64")


def test_reads_are_fed_back() -> None:
    """Step t sees what was read at t - 1, and not what the first state held."""
    model = lively_dnc(controller="feedforward")
    cell = model.cell
    x, state = normal(4, 2, 3), lively_state(model, 2)
    _, _, trace = model(x, state, return_trace=True)
    reads = torch.cat([state.read_vectors[None], trace.read_vectors]).flatten(2)
    for t in range(4):
        layer = cell.controller.layers[0]
        hidden = torch.tanh(layer(torch.cat([x[t], reads[t]], -1)))
        read_keys = cell.interface(hidden)[:, :6].unflatten(-1, (2, 3))
        assert_close(read_keys, trace.read_keys[t], "float64")
    other = state._replace(read_vectors=state.read_vectors + 1)
    assert ((model(x, other)[0] - model(x, state)[0]).abs() > 1e-6).all()


def test_equal_calls_give_equal_results() -> None:
    """Also in training mode, and after other calls: nothing is random or kept between calls."""
    model, x = lively_dnc(), normal(4, 2, 3)
    first = model(x)
    model(normal(4, 2, 3))
    torch.manual_seed(99)
    assert_close(model(x), first, "equal")
    assert not list(model.buffers())


# The cell


def test_cell_by_itself() -> None:
    """Same arguments as the DNC, same parameters by name, and the zero state unless given one."""
    model = lively_dnc(num_layers=2, output_size=7)
    cell = DNCCell(
        3, 4, num_layers=2, output_size=7, num_cells=5, cell_size=3, num_read_heads=2
    ).double()
    cell.load_state_dict(model.cell.state_dict())
    x = normal(2, 3)
    y, state = cell(x)
    assert y.shape == (2, 7)
    assert_close((y, state), model.cell(x, model.zero_state(2)), "equal")


def test_cell_takes_one_sequence_without_a_batch_axis() -> None:
    cell = lively_dnc().cell
    x, state = normal(1, 3), lively_state(lively_dnc(), 1)
    expected = map_tensors(lambda tensor: tensor[0], cell(x, state))
    assert_close(cell(x[0], map_tensors(lambda tensor: tensor[0], state)), expected, "equal")
    assert cell(x[0])[0].shape == (4,)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 4), r"input must have shape \(B, 3\) or \(3,\), got \(2, 4\)"),
        (torch.zeros(1, 2, 3), r"input must have shape .* got \(1, 2, 3\)"),
        (torch.tensor([0.0, torch.nan, 0.0]), r"input must be finite, got nan at index \(1,\)"),
        (torch.zeros(3, device="meta"), "input must be on cpu, got meta"),
    ],
)
def test_cell_messages_name_the_input(x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lively_dnc().cell(x.double())


# The state


def test_none_stands_for_zeros() -> None:
    model, x = lively_dnc(num_layers=2), normal(3, 2, 3)
    zeros = model.zero_state(2)
    assert not any(part.any() for part in tensors(zeros))
    for state in (None, DNCState(), zeros):
        assert_close(model(x, state), model(x), "equal")


@pytest.mark.parametrize("field", DNCState._fields)
def test_partial_state_is_filled_up_with_zeros(field: str) -> None:
    model, x = lively_dnc(), normal(3, 2, 3)
    state, zeros = lively_state(model, 2), model.zero_state(2)
    only = DNCState(**{field: getattr(state, field)})
    expected = model(x, zeros._replace(**{field: getattr(state, field)}))
    assert_close(model(x, only), expected, "equal")
    assert not torch.equal(expected[0], model(x)[0])
    assert_close(
        model(x, state.reset(field)),
        model(x, state._replace(**{field: getattr(zeros, field)})),
        "equal",
    )


@pytest.mark.parametrize("size", [-1, 2.0, "3"])
def test_zeros_are_for_a_number_of_sequences(size: Any) -> None:
    with pytest.raises(
        (TypeError, ValueError), match=f"batch_size must be (an integer|at least 0).*{size}"
    ):
        STATE_MODEL.zero_state(size)


def test_a_state_of_other_sizes_names_what_differs() -> None:
    state = lively_state(lively_dnc(num_read_heads=1), 2)._replace(read_vectors=None)
    expected, got = r"{'read_weights': \(2, 2, 5\)}", r"{'read_weights': \(2, 1, 5\)}"
    with pytest.raises(ValueError, match=rf"memory must have shapes {expected} .*got {got}$"):
        STATE_MODEL(normal(3, 2, 3), state)


def test_memory_may_have_another_number_of_cells() -> None:
    """The parameters do not depend on N: train with few cells, run with many."""
    model, larger = lively_dnc(num_cells=5), lively_dnc(num_cells=9)
    larger.load_state_dict(model.state_dict())
    x = normal(3, 2, 3)
    output, final = model(x, model.zero_state(2, num_cells=9))
    assert final.memory.sizes.num_cells == 9
    assert_close((output, final), larger(x), "equal")
    memory = separated_state(MemorySizes(2, 9, 3, 2, 1))
    assert_close(model(x, DNCState(memory=memory)), larger(x, DNCState(memory=memory)), "equal")


STATE_MODEL = lively_dnc()
STATE = lively_state(STATE_MODEL, 2)
OTHER_MEMORIES = [separated_state(MemorySizes(2, 5, W, R, 1)) for W, R in ((4, 2), (3, 1))]


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (tuple(STATE), TypeError, "state must be a DNCState or None, got tuple.*zero_state"),
        (STATE.memory, TypeError, "state must be a DNCState or None, got MemoryState"),
        (STATE.slice_batch(slice(1)), ValueError, "state must be for 2 .*got one for 1$"),
        (DNCState(None, STATE.read_vectors), TypeError, "state must be a MemoryState, got Tensor"),
    ],
)
def test_messages_name_the_state(state: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        STATE_MODEL(normal(3, 2, 3), state)


def on_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("memory", OTHER_MEMORIES[0], r".*\(2, 5, 3\).*got.*\(2, 5, 4\)"),
        ("memory", OTHER_MEMORIES[1], r".*\(2, 2, 5\).*got.*\(2, 1, 5\)"),
        ("memory", STATE.memory.to(torch.float32), r"torch\.float64.*got torch\.float32"),
        ("read_vectors", STATE.read_vectors[:, :1], r".*\(2, 2, 3\).*got.*\(2, 1, 3\)"),
        ("read_vectors", STATE.read_vectors.half(), r"torch\.float64.*got torch\.float16"),
        ("controller", STATE.controller * 2, "have shapes"),
        (
            "controller",
            map_tensors(Tensor.float, STATE.controller),
            r"torch\.float64.*got torch\.float32",
        ),
        *(
            (field, map_tensors(on_meta, part), r"on cpu .*, got meta; state\.to\('cpu'\)")
            for field, part in STATE._asdict().items()
        ),
    ],
)
def test_messages_name_the_part_of_the_state(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"state\.{field} must (be )?{message}"):
        STATE_MODEL(normal(3, 2, 3), STATE._replace(**{field: value}))


def test_messages_name_a_field_of_the_memory() -> None:
    memory = STATE.memory._replace(usage=STATE.memory.memory)
    with pytest.raises(ValueError, match=r"state\.usage .*\(2, 5\).*got \(2, 5, 3\)"):
        STATE_MODEL(normal(3, 2, 3), STATE._replace(memory=memory))


def test_model_on_another_device_says_so() -> None:
    model = lively_dnc().to("meta")
    assert {part.device.type for part in tensors(model.zero_state(1))} == {"meta"}
    with pytest.raises(ValueError, match=r"input must be on meta, got cpu.*\.to\('meta'\)"):
        model(normal(3, 2, 3))


# The trace

SIZES = {"T": 4, "B": 2, "R": 2, "H": 3, "N": 5, "W": 3, "M": 7, "0": 0}
TRACE_SHAPES = {
    **{"read_keys": "RW", "read_strengths": "R", "write_keys": "HW", "write_strengths": "H"},
    **{"erase_vectors": "HW", "write_vectors": "HW", "free_gates": "R"},
    **{"allocation_gates": "H", "write_gates": "H", "read_modes": "RM"},
    **{"allocation_weights": "HN", "write_content_weights": "HN", "read_content_weights": "RN"},
    **{"forward_weights": "RHN", "backward_weights": "RHN", "usage": "N", "precedence": "HN"},
    **{"write_weights": "HN", "read_weights": "RN", "read_vectors": "RW"},
    **{"read_masks": "0", "write_masks": "0", "forward_sharpness": "0", "backward_sharpness": "0"},
}
"""Behind T and B: H write heads, M read modes; 0 for what only variants have."""

OF_VARIANTS = {
    **{"read_masks": "RW", "write_masks": "HW"},
    **{"forward_sharpness": "RH", "backward_sharpness": "RH"},
}


def traced(**options: Any) -> tuple[DNC, Tensor, DNCState, Trace]:
    """T=4, B=2, R=2, Hw=3, N=5, W=3."""
    model = lively_dnc(num_write_heads=3, **options)
    x = normal(4, 2, 3)
    output, final, trace = model(x, lively_state(model, 2), return_trace=True)
    # The trace is the reference's, whichever backend runs without one.
    assert_close((output, final), model(x, lively_state(model, 2)), "float64")
    assert output.requires_grad
    return model, output, final, trace


@pytest.mark.parametrize("varied", [False, True])
def test_trace_has_the_documented_shapes_and_no_graph(varied: bool) -> None:
    _, _, _, trace = traced(masked_lookup=varied, link_sharpness=varied)
    expected = TRACE_SHAPES | (OF_VARIANTS if varied else {})
    assert {name: tuple(part.shape) for name, part in trace._asdict().items()} == {
        name: tuple(SIZES[letter] for letter in "TB" + letters)
        for name, letters in expected.items()
    }
    assert not any(part.requires_grad for part in trace)


def test_trace_ends_with_the_final_state() -> None:
    _, _, final, trace = traced()
    for name in ("usage", "precedence", "write_weights", "read_weights"):
        assert_close(getattr(trace, name)[-1], getattr(final.memory, name), "equal", name)
    assert_close(trace.read_vectors[-1], final.read_vectors, "equal")


def test_trace_holds_the_parts_of_what_it_holds() -> None:
    """Weightings are mixed from their parts by the gates and modes of the same step."""
    _, _, final, trace = traced()
    gates, mix = trace.write_gates[..., None], trace.allocation_gates[..., None]
    written = gates * (mix * trace.allocation_weights + (1 - mix) * trace.write_content_weights)
    assert_close(written, trace.write_weights, "float64")
    backward, content, forward = trace.read_modes[..., None].split([3, 1, 3], dim=-2)
    read = (backward * trace.backward_weights).sum(-2) + content[
        ..., 0, :
    ] * trace.read_content_weights
    read = read + (forward * trace.forward_weights).sum(-2)
    assert_close(read, trace.read_weights, "float64")
    assert_close(trace.read_weights[-1] @ final.memory.memory, trace.read_vectors[-1], "float64")


# Copies and dtypes


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_compute_the_same_and_share_nothing(duplicate: Any) -> None:
    model, x = lively_dnc(num_layers=2, bidirectional=True), normal(3, 2, 3)
    copied = duplicate(model)
    assert copied.config == model.config
    assert_close(copied(x), model(x), "equal")
    expected = model(x)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert_close(model(x), expected, "equal")


def test_state_dict_holds_all_and_only_the_parameters() -> None:
    """Weights are stored under these names; renaming one would break saved files."""
    model, other = lively_dnc(num_layers=2), lively_dnc(seed=1, num_layers=2)
    layers = [
        f"cell.controller.layers.{layer}.{kind}_{side}"
        for layer in (0, 1)
        for kind in ("weight", "bias")
        for side in ("ih", "hh")
    ]
    linear = [
        f"cell.{name}.{kind}" for name in ("interface", "output") for kind in ("weight", "bias")
    ]
    assert list(model.state_dict()) == layers + linear
    x = normal(3, 2, 3)
    assert not torch.equal(other(x)[0], model(x)[0])
    other.load_state_dict(model.state_dict())
    assert_close(other(x), model(x), "equal")


def test_double_makes_everything_double() -> None:
    model = lively_dnc(dtype=torch.float32)
    x = normal(3, 2, 3)
    assert dtypes(model(x.float())) == {torch.float32}
    doubled = copy.deepcopy(model).double()
    assert dtypes(doubled.zero_state(2)) == {torch.float64}
    assert dtypes(doubled(x)) == {torch.float64}
    assert dtypes(doubled.to(torch.float32)(x.float())) == {torch.float32}


def gentle_dnc(**options: Any) -> tuple[DNC, Tensor, DNCState]:
    """A float32 DNC with torch's own small initial parameters, an input and a state: half
    precision barely changes its steps.
    """
    torch.manual_seed(0)
    model = lively_dnc(dtype=torch.float32, **options)
    state = lively_state(model, 2).to(torch.float32)
    model.reset_parameters()
    return model, normal(3, 2, 3).float(), state


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_keep_the_memory_in_float32(dtype: torch.dtype) -> None:
    model, x, state = gentle_dnc()
    expected = model(x, state)
    model = model.to(dtype)
    assert dtypes(model.zero_state(2).memory) == {torch.float32}
    controller = map_tensors(lambda tensor: tensor.to(dtype), state.controller)
    output, final = model(x.to(dtype), state._replace(controller=controller))
    assert output.dtype == dtype
    assert dtypes(final.controller) == {dtype}
    assert dtypes((final.memory, final.read_vectors)) == {torch.float32}
    assert_close((output, final), expected, str(dtype).removeprefix("torch."))
    # The state that came out goes in again.
    assert model(x.to(dtype), final)[0].isfinite().all()
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
def test_autocast_keeps_the_memory_in_float32(controller: str) -> None:
    model, x, state = gentle_dnc(controller=controller)
    expected = model(x, state)
    with torch.autocast("cpu", torch.bfloat16):
        output, final = model(x, state)
        # The state that came out goes in again, and so does one from no state at all.
        model(x, final)
        assert dtypes(model(x)[1].memory) == {torch.float32}
    model(x, final)
    assert output.dtype == torch.bfloat16
    assert dtypes(final) == {torch.float32}
    assert_close((output, final), expected, "bfloat16")
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, "float32"),
        (torch.float32, "equal"),
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
    ],
)
def test_state_dtype_is_an_option(dtype: torch.dtype, tolerance: str) -> None:
    plain, x, state = gentle_dnc()
    model, _, _ = gentle_dnc(state_dtype=dtype)
    given = state._replace(memory=state.memory.to(dtype), read_vectors=state.read_vectors.to(dtype))
    output, final = model(x, given)
    assert output.dtype == torch.float32
    assert dtypes(final.controller) == {torch.float32}
    assert dtypes((final.memory, final.read_vectors)) == {dtype}
    assert dtypes(model(x)[1].memory) == {dtype}
    assert_close((output, final), plain(x, state), tolerance)


# In the place of nn.LSTM


def classify(layer: nn.Module, head: nn.Module, x: Tensor, batch_first: bool) -> Tensor:
    """Typical code written for an nn.LSTM."""
    layer.flatten_parameters()
    output, state = layer(x)
    output, _ = layer(x, state)
    last = output[:, -1] if batch_first else output[-1]
    return head(last)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("module", [nn.LSTM, DNC])
def test_code_for_nn_lstm_works(module: type, bidirectional: bool, batch_first: bool) -> None:
    layer = module(3, 8, 2, batch_first=batch_first, bidirectional=bidirectional)
    head = nn.Linear(16 if bidirectional else 8, 2)
    x = torch.randn(*((2, 5) if batch_first else (5, 2)), 3)
    scores = classify(layer, head, x, batch_first)
    assert scores.shape == (2, 2)
    scores.sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_output_has_hidden_size_unless_told_otherwise() -> None:
    x = torch.randn(3, 2, 3)
    assert DNC(3, 8)(x)[0].shape == (3, 2, 8)
    assert DNC(3, 8, 2, output_size=1)(x)[0].shape == (3, 2, 1)
    assert DNC(3, 8, output_size=5, bidirectional=True)(x)[0].shape == (3, 2, 10)


def test_repr_shows_the_sizes() -> None:
    text = repr(DNC(3, 8, 2, num_cells=16, cell_size=5, num_write_heads=2, usage_order="robust"))
    first = text.splitlines()[1]
    for part in (
        "3, 8, num_layers=2",
        "num_cells=16, cell_size=5, num_read_heads=4, num_write_heads=2",
        "usage_order='robust'",
    ):
        assert part in first
    assert "bias" not in first
    assert "LSTMCell(31, 8)" in text
