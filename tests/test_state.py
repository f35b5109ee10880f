"""What is carried from step to step: `MemoryState`, `DNCState`, and the helpers for nests."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from states import assert_close, separated_state

from dnc_fast import DNCState, MemoryState
from dnc_fast.state import MemorySizes, check_memory_state, join_batches, map_tensors, tensors

SIZES = MemorySizes(batch_size=3, num_cells=5, cell_size=2, num_read_heads=4, num_write_heads=1)
STATE = separated_state(SIZES)


# Zeros and sizes


def test_zeros_have_the_documented_shapes() -> None:
    state = MemoryState.zeros(3, 5, 2, num_read_heads=4, num_write_heads=6)
    assert {name: tuple(part.shape) for name, part in state._asdict().items()} == {
        "memory": (3, 5, 2),
        "usage": (3, 5),
        "precedence": (3, 6, 5),
        "link": (3, 6, 5, 5),
        "write_weights": (3, 6, 5),
        "read_weights": (3, 4, 5),
    }
    assert not any(part.any() for part in state)
    assert state.sizes == (3, 5, 2, 4, 6)


def test_write_heads_keep_their_axis_when_there_is_one() -> None:
    state = MemoryState.zeros(*SIZES)
    assert state.link.shape == (3, 1, 5, 5)
    assert state.precedence.shape == state.write_weights.shape == (3, 1, 5)


def test_zeros_take_dtype_and_device() -> None:
    assert MemoryState.zeros(1, 2, 3).memory.dtype == torch.float32
    state = MemoryState.zeros(1, 2, 3, dtype=torch.bfloat16, device="meta")
    assert {(part.dtype, part.device.type) for part in state} == {(torch.bfloat16, "meta")}


@pytest.mark.parametrize("name", MemorySizes._fields)
@pytest.mark.parametrize("size", [0, -1, 2.0, "3", True])
def test_zeros_name_the_bad_size(name: str, size: object) -> None:
    if (name, size) == ("batch_size", 0):
        pytest.skip("a batch may be empty, as with nn.LSTM")
    with pytest.raises(
        (TypeError, ValueError), match=f"{name} must be (an integer|at least [01]).*{size}"
    ):
        MemoryState.zeros(**SIZES._replace(**{name: size})._asdict())


# Checks


def test_check_gives_the_sizes() -> None:
    assert check_memory_state(STATE) == SIZES


@pytest.mark.parametrize("field", MemoryState._fields)
def test_check_names_the_field(field: str) -> None:
    part = getattr(STATE, field)
    for bad, error, message in (
        (None, TypeError, "NoneType"),
        (part.long(), TypeError, "int64"),
        (part[..., 0], ValueError, r"shape"),
        (part[..., :0], ValueError, r"shape"),
    ):
        if field == "link" and bad is None:
            continue  # a state without linkage
        with pytest.raises(error, match=rf"state\.{field} .*{message}"):
            check_memory_state(STATE._replace(**{field: bad}))


@pytest.mark.parametrize("field", [name for name in MemoryState._fields if name != "memory"])
def test_check_names_the_field_that_does_not_fit_the_memory(field: str) -> None:
    part = getattr(STATE, field)
    for bad, message in (
        (part[1:], r"to match memory \(3, 5, 2\), got \(2, "),
        (part.float(), r"float64 on cpu like state\.memory, got torch\.float32"),
        (part.to("meta"), r"on cpu like state\.memory, got torch\.float64 on meta"),
    ):
        with pytest.raises(ValueError, match=rf"state\.{field} must .*{message}"):
            check_memory_state(STATE._replace(**{field: bad}))


def test_check_wants_a_memory_state() -> None:
    with pytest.raises(TypeError, match=r"state must be a MemoryState, got dict.*\.zeros"):
        check_memory_state(STATE._asdict())


# Helpers


def test_detach_cuts_the_graph_and_keeps_the_values() -> None:
    tied = map_tensors(lambda tensor: tensor * torch.ones((), requires_grad=True), STATE)
    assert all(part.requires_grad for part in tied)
    state = DNCState((), tied, tied.memory)
    for cut in (tied.detach(), state.detach()):
        assert type(cut) in (MemoryState, DNCState)
        assert not any(part.requires_grad for part in tensors(cut))
    assert_close(state.detach(), state, "equal")


def test_to_casts_every_tensor() -> None:
    state = DNCState(((STATE.usage, STATE.usage),), STATE, None).to(torch.float32)
    assert {part.dtype for part in tensors(state)} == {torch.float32}
    assert len(list(tensors(state))) == 8
    assert state.read_vectors is None
    assert {part.device.type for part in STATE.to(device="meta")} == {"meta"}


@pytest.mark.parametrize(("usage", "said"), [([[0.9, 0.1]], "1"), ([[0.9, 0], [0, 0]], "0 to 1")])
def test_summary_counts_the_cells_in_use(usage: list[list[float]], said: str) -> None:
    memory = MemoryState.zeros(len(usage), 2, 3)._replace(usage=torch.tensor(usage))
    assert f"in use        {said} cells" in str(DNCState(None, memory, None))


def test_slices_of_the_batch_join_to_the_whole() -> None:
    state = DNCState({"h": STATE.usage, "none": None}, STATE, STATE.memory)
    parts = [state.slice_batch(slice(0, 1)), state.slice_batch(slice(1, 3))]
    assert [part.memory.sizes.batch_size for part in parts] == [1, 2]
    assert_close(join_batches(parts), state, "equal")
    order = torch.tensor([2, 0])
    assert_close(state.slice_batch(order).memory.link, STATE.link[[2, 0]], "equal")


def test_map_tensors_keeps_the_nest() -> None:
    nest = {"a": [torch.zeros(1), (torch.zeros(2), None)], "b": STATE, "c": ()}
    mapped = map_tensors(lambda tensor: tensor + 1, nest)
    assert type(mapped["b"]) is MemoryState
    assert (type(mapped["a"]), mapped["a"][1][1], mapped["c"]) == (list, None, ())
    assert [tuple(t.shape) for t in tensors(mapped)] == [tuple(t.shape) for t in tensors(nest)]
    assert all(
        (new == old + 1).all() for new, old in zip(tensors(mapped), tensors(nest), strict=True)
    )
    with pytest.raises(TypeError, match=r"a state holds tensors .* got float"):
        map_tensors(lambda tensor: tensor, (1.5,))


def test_reset_empties_the_named_fields() -> None:
    state = DNCState((STATE.usage,), STATE, STATE.memory)
    assert state.reset() == DNCState(None, None, None)
    kept = state.reset("controller")
    assert kept.controller is None
    assert kept.memory is STATE
    assert state.reset("memory", "read_vectors") == DNCState(state.controller, None, None)
    assert state.memory is STATE
    with pytest.raises(ValueError, match=r"controller.*memory.*read_vectors.*got 'link'"):
        state.reset("link")


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))]
)
def test_copies_are_equal_and_apart(duplicate: object) -> None:
    state = DNCState((STATE.usage,), STATE, STATE.memory)
    copied = duplicate(state)
    assert type(copied.memory) is MemoryState
    assert_close(copied, state, "equal")
    assert copied.memory.link.data_ptr() != STATE.link.data_ptr()
