"""Forms of input: padded, batch first, unbatched, packed, both directions, in parts and in whole.

All of it in float64 from states with usages well apart: sums in another order must not swap cells.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from states import (
    assert_close,
    every_backend,
    lively_dnc,
    lively_state,
    lively_states,
    normal,
    outcome,
    require_grad,
    usage_gap,
    weighed_sum,
)
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from dnc_fast import DNC, DNCCell, DNCState
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.linkages import LINKAGES
from dnc_fast.state import join_batches, map_tensors, tensors

LENGTHS = {"sorted": [5, 4, 4, 1], "unsorted": [2, 5, 1, 5], "equal": [5, 5, 5, 5]}

both_directions = pytest.mark.parametrize("bidirectional", [False, True])


def row(state: Any, b: int) -> Any:
    """The unbatched state of one sequence."""
    return map_tensors(lambda tensor: tensor[b], state)


def batch_of_one(state: Any) -> Any:
    return map_tensors(lambda tensor: tensor.unsqueeze(0), state)


def one_direction(model: DNC, cell: str) -> DNC:
    """A DNC with the parameters of one direction of a bidirectional one."""
    single = lively_dnc(num_layers=model.config.num_layers)
    single.cell.load_state_dict(getattr(model, cell).state_dict())
    return single


# Padded tensors


@both_directions
def test_batch_first_turns_input_and_output_and_no_state(bidirectional: bool) -> None:
    model = lively_dnc(bidirectional=bidirectional)
    turned = lively_dnc(bidirectional=bidirectional, batch_first=True)
    x, state = normal(4, 3, 3), lively_states(model, 3)
    output, final, trace = model(x, state, return_trace=True)
    turned_output, turned_final, turned_trace = turned(x.transpose(0, 1), state, return_trace=True)
    assert_close(turned_output, output.transpose(0, 1), "equal")
    assert_close(turned_final, final, "equal")
    expected = map_tensors(lambda tensor: tensor.transpose(0, 1), trace)
    assert_close(turned_trace, expected, "equal")


def test_batch_first_leaves_an_unbatched_sequence_alone() -> None:
    x = normal(4, 3)
    assert_close(lively_dnc(batch_first=True)(x), lively_dnc()(x), "equal")


@both_directions
def test_unbatched_is_a_batch_of_one_without_its_axis(bidirectional: bool) -> None:
    model = lively_dnc(bidirectional=bidirectional)
    x, state = normal(4, 3), lively_states(model, 1)
    output, final, trace = model(x, row(state, 0), return_trace=True)
    batch_output, batch_final, batch_trace = model(x[:, None], state, return_trace=True)
    assert_close(output, batch_output[:, 0], "equal")
    assert_close(batch_of_one(final), batch_final, "equal")
    assert_close(trace, map_tensors(lambda tensor: tensor[:, 0], batch_trace), "equal")


@every_backend
@pytest.mark.parametrize(
    "options",
    [
        *({"linkage": name} for name in LINKAGES),
        *({"linkage": name, "read_topk": 4, "write_topk": 3} for name in LINKAGES),
        *({"controller": name, "num_layers": 2, "num_write_heads": 2} for name in CONTROLLERS),
        {"checkpoint_interval": 3, "num_layers": 2},
    ],
    ids=str,
)
def test_parts_and_single_steps_are_the_whole(options: dict[str, Any], backend: str) -> None:
    """A sequence in one call, in two, step by step by a `DNCCell`, and by the reference.

    Outputs, the state at the end, and all gradients.
    """
    options = {"num_cells": 6, **options}
    model = lively_dnc(backend=backend, **options)
    sizes = {"cell_size": 3, "num_read_heads": 2, "dtype": torch.float64}
    cell = DNCCell(3, 4, backend=backend, **sizes, **options)
    cell.load_state_dict(model.cell.state_dict())
    reference = lively_dnc(backend="reference", **options)
    given, found = (normal(5, 2, 3), lively_state(model, 2)), []
    for parts, one in (([5], model), ([1, 4], model), ([3, 2], model), ([1] * 5, cell)):
        found.append(in_parts(one, given, parts))
    found.append(in_parts(reference, given, [5]))
    for other in found[1:]:
        assert_close(other, found[0], "float64")


def in_parts(model: DNC | DNCCell, given: tuple[Tensor, Any], parts: list[int]) -> Any:
    x, first = require_grad(given)
    state, outputs = first, []
    for part in x.split(parts):
        step = isinstance(model, DNCCell)
        output, state = model(part[0] if step else part, state)
        outputs.append(output.unsqueeze(0) if step else output)
    weights = [p for name, p in model.named_parameters()]
    leaves = {"x": x, "state": first, "parameters": weights}
    return outcome({"outputs": torch.cat(outputs), "end": state}, leaves)


def test_from_zero_the_batch_equals_its_sequences_too() -> None:
    """With the robust order, made for this: ties and near-ties go by index."""
    model = lively_dnc(usage_order="robust")
    x = normal(6, 3, 3)
    output, final = model(x)
    for b in range(3):
        assert_close(model(x[:, b]), (output[:, b], row(final, b)), "float64")


# Packed sequences


def ragged_batch(kind: str) -> tuple[list[Tensor], PackedSequence]:
    sequences = [normal(length, 3).requires_grad_() for length in LENGTHS[kind]]
    return sequences, pack_sequence(sequences, enforce_sorted=kind != "unsorted")


@both_directions
@pytest.mark.parametrize("kind", LENGTHS)
def test_packed_equals_its_sequences_one_by_one(kind: str, bidirectional: bool) -> None:
    """Outputs, final states, and the gradients of inputs, initial states and parameters."""
    model = lively_dnc(num_layers=2, bidirectional=bidirectional)
    sequences, packed = ragged_batch(kind)
    state = require_grad(lively_states(model, 4))
    output, final = model(packed, state)
    assert isinstance(output, PackedSequence)
    assert torch.equal(output.batch_sizes, packed.batch_sizes)
    assert min(usage_gap(s.memory.usage) for s in (final if bidirectional else [final])) > 1e-6
    padded, lengths = pad_packed_sequence(output)
    assert lengths.tolist() == LENGTHS[kind]
    together = [(padded[:n, b], row(final, b)) for b, n in enumerate(LENGTHS[kind])]
    alone = [model(x, row(state, b)) for b, x in enumerate(sequences)]
    assert_close(together, alone, "float64")

    leaves = (tuple(sequences), state, tuple(model.parameters()))
    expected = torch.autograd.grad(weighed_sum(alone), list(tensors(leaves)))
    actual = torch.autograd.grad(weighed_sum(together), list(tensors(leaves)))
    assert all(gradient.any() for gradient in expected)
    assert_close(actual, expected, "float64", "gradient")


def test_packed_state_is_carried_in_the_order_of_the_input() -> None:
    """The state that an unsorted batch returned fits the next batch, whatever its lengths."""
    model = lively_dnc()
    first, packed = ragged_batch("unsorted")
    _, middle = model(packed, lively_states(model, 4))
    second = [normal(length, 3) for length in (1, 2, 4, 3)]
    output, _ = model(pack_sequence(second, enforce_sorted=False), middle)
    padded, _ = pad_packed_sequence(output)
    for b, (x, y) in enumerate(zip(first, second, strict=True)):
        whole, _ = model(torch.cat([x, y]), row(lively_states(model, 4), b))
        assert_close(padded[: len(y), b], whole[len(x) :], "float64")


def test_packed_of_full_length_equals_padded() -> None:
    model = lively_dnc()
    x, state = normal(4, 3, 3), lively_states(model, 3)
    output, final = model(pack_sequence(list(x.unbind(1))), state)
    expected = model(x, state)
    assert_close((pad_packed_sequence(output)[0], final), expected, "float64")


# Both directions


@pytest.mark.parametrize("kind", LENGTHS)
def test_bidirectional_packed_starts_each_sequence_at_its_own_end(kind: str) -> None:
    model = lively_dnc(num_layers=2, bidirectional=True)
    forth, back = one_direction(model, "cell"), one_direction(model, "reverse_cell")
    sequences, packed = ragged_batch(kind)
    state = lively_states(model, 4)
    output, final = model(packed, state)
    padded, _ = pad_packed_sequence(output)
    for b, x in enumerate(sequences):
        forth_output, forth_final = forth(x, row(state[0], b))
        back_output, back_final = back(x.flip(0), row(state[1], b))
        expected = torch.cat([forth_output, back_output.flip(0)], -1)
        assert_close(padded[: len(x), b], expected, "float64")
        assert_close(row(final, b), (forth_final, back_final), "float64")


def test_bidirectional_directions_have_parameters_and_states_of_their_own() -> None:
    model = lively_dnc(bidirectional=True)
    names = set(dict(model.named_parameters()))
    assert {name.replace("reverse_cell", "cell") for name in names} < names
    assert len(names) == 2 * len(list(model.cell.parameters()))
    zeros = model.zero_state(3)
    assert len(zeros) == 2
    assert_close(model(x := normal(4, 3, 3), zeros), model(x), "equal")


def test_bidirectional_traces_run_in_the_order_of_the_input() -> None:
    model = lively_dnc(bidirectional=True)
    back = one_direction(model, "reverse_cell")
    x, state = normal(4, 2, 3), lively_states(model, 2)
    _, _, traces = model(x, state, return_trace=True)
    _, _, back_trace = back(x.flip(0), state[1], return_trace=True)
    assert_close(traces[1], map_tensors(lambda tensor: tensor.flip(0), back_trace), "float64")


# Traces of packed sequences


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", LENGTHS)
def test_packed_trace_is_padded_with_zeros(kind: str, batch_first: bool) -> None:
    model = lively_dnc(batch_first=batch_first)
    sequences, packed = ragged_batch(kind)
    state = lively_states(model, 4)
    _, _, trace = model(packed, state, return_trace=True)
    steps_first = map_tensors(lambda part: part.transpose(0, 1) if batch_first else part, trace)
    for b, x in enumerate(sequences):
        _, _, alone = model(x, row(state, b), return_trace=True)
        for name, part in steps_first._asdict().items():
            assert part.shape[:2] == (5, 4), name
            assert_close(part[: len(x), b], getattr(alone, name), "float64", name)
            assert not part[len(x) :, b].any(), name


# Messages

MODEL = lively_dnc()
X = normal(4, 2, 3, generator=torch.Generator().manual_seed(0))


def with_number(number: float) -> Tensor:
    x = X.clone()
    x[2, 1, 0] = number
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X[:0], ValueError, "input must have at least one step, got T=0, B=2"),
        (X[:0, 0], ValueError, "input must have at least one step"),
        (X[..., :2], ValueError, r"input must have shape \(T, B, X\).*X=3, got \(4, 2, 2\)"),
        (X[0, 0], ValueError, r"input must have shape .* got \(3,\)"),
        (X[None], ValueError, r"input must have shape .* got \(1, 4, 2, 3\)"),
        (X.long(), TypeError, r"input must be a floating-point tensor, got torch\.int64"),
        (X.tolist(), TypeError, "input must be a tensor, got list"),
        (X.to_sparse(), TypeError, r"input must be a dense tensor, got .*sparse.*to_dense\(\)"),
        (X.to("meta"), ValueError, r"input must be on cpu, got meta.*\.to\('cpu'\)"),
        (with_number(torch.nan), ValueError, r"input must be finite, got nan at index \(2, 1, 0\)"),
        (with_number(torch.inf), ValueError, r"input must be finite, got inf at index \(2, 1, 0\)"),
        (pack_sequence([X[:, 0, :2]]), ValueError, r"input\.data must have shape \(rows, 3\)"),
        (pack_sequence([X[:, 0].long()]), TypeError, r"input\.data must be a floating-point"),
        (pack_sequence([with_number(torch.nan)[:, 1]]), ValueError, r"input\.data must be finite"),
    ],
)
def test_messages_name_the_input(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODEL(x)


def test_message_tells_the_layout() -> None:
    with pytest.raises(ValueError, match=r"input must have shape \(B, T, X\)"):
        lively_dnc(batch_first=True)(X[..., :2])


def test_dtype_of_the_input_must_be_that_of_the_parameters() -> None:
    """As in nn.LSTM nothing is cast unasked, except by autocast."""
    with pytest.raises(
        (TypeError, ValueError), match=r"input .*torch\.float64.*got torch\.float32"
    ):
        MODEL(X.float())


def test_nested_tensors_are_refused() -> None:
    nested = torch.nested.nested_tensor([X[:, 0], X[:2, 0]], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"input must be a dense tensor, got a nested.*\(input\."):
        MODEL(nested)
    output, _ = MODEL(pack_sequence(nested.unbind(), enforce_sorted=False))  # as it says
    assert output.data.shape[0] == 6


def test_unbatched_wants_a_state_without_batch() -> None:
    model = lively_dnc()
    _, state = model(normal(4, 2, 3))
    for module, x in ((model, normal(4, 3)), (model.cell, normal(3))):
        with pytest.raises(ValueError, match=r"state must have no batch axis.*\(2, 5, 3\)"):
            module(x, state)


def test_a_batch_wants_a_state_with_batch() -> None:
    model = lively_dnc()
    _, state = model(normal(4, 3))
    for module, x in ((model, normal(4, 1, 3)), (model.cell, normal(1, 3))):
        with pytest.raises(ValueError, match=r"state must have a batch axis.*got memory \(5, 3\)"):
            module(x, state)


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("batch_size", [3, 5])
def test_packed_wants_a_state_for_each_sequence(batch_size: int, kind: str) -> None:
    """Neither fewer nor more, of which sorting would use only the first."""
    _, packed = ragged_batch(kind)
    with pytest.raises(ValueError, match=rf"state must be for 4 .*got one for {batch_size}"):
        MODEL(packed, lively_state(MODEL, batch_size))


@pytest.mark.parametrize("state", [lively_state(MODEL, 2), [None, None], (None,), {}])
def test_bidirectional_wants_a_pair_of_states(state: Any) -> None:
    model = lively_dnc(bidirectional=True)
    with pytest.raises(TypeError, match=r"state must be a pair of DNCStates .*got \w+"):
        model(X, state)


def test_bidirectional_takes_a_state_of_one_direction_alone() -> None:
    model = lively_dnc(bidirectional=True)
    state = lively_state(model, 2)
    _, zeros = model.zero_state(2)
    assert_close(model(X, (state, None)), model(X, (state, zeros)), "equal")
    assert_close(model(X, (state, DNCState())), model(X, (state, zeros)), "equal")


def test_joined_states_of_sequences_are_a_batch() -> None:
    """As a server does: the states of several users in one call."""
    states = [lively_state(MODEL, 1, seed) for seed in range(2)]
    output, _ = MODEL(X, join_batches(states))
    for b, state in enumerate(states):
        assert_close(MODEL(X[:, b : b + 1], state)[0], output[:, b : b + 1], "float64")
