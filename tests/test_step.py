"""One whole memory step of the reference, against the oracle and by its invariants."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch
from gpu import strided
from hypothesis import given
from hypothesis import strategies as st
from states import (
    HAS_NUMBA,
    SEEDS,
    SMALL_SIZES,
    arrays,
    assert_close,
    gradients,
    make_cotangents,
    random_interfaces,
    require_grad,
    run_step,
    separated_state,
    usage_gap,
    weighed_sum,
    zero_state,
)
from torch import Tensor

from dnc_fast import MemoryState, memory_step, reference
from dnc_fast.interface import interface_shapes, parse_interface
from dnc_fast.state import MemorySizes, map_tensors, tensors
from dnc_fast.step_options import USAGE_ORDERS, StepOptions

reference_step = partial(memory_step, backend="reference")

SIZES = MemorySizes(batch_size=2, num_cells=4, cell_size=3, num_read_heads=2, num_write_heads=2)

every_order = pytest.mark.parametrize("order", USAGE_ORDERS)


def run(
    interfaces: Tensor, state: MemoryState, order: str = "exact"
) -> list[tuple[Tensor, MemoryState]]:
    """The read vectors and the state of every step."""
    steps = []
    for vector in interfaces:
        reads, state = reference_step(vector, state, usage_order=order)
        steps.append((reads, state))
    return steps


def assert_steps_equal_the_oracle(
    interfaces: Tensor, state: MemoryState, order: str, *, carried: bool
) -> None:
    """Each step against the oracle's: from the oracle's own state, or else from the library's."""
    expected_state = arrays(state)
    for vector in interfaces:
        if not carried:
            expected_state = arrays(state)
        reads, state = reference_step(vector, state, usage_order=order)
        expected_reads, expected_state, _ = oracle.batched(
            oracle.memory_step, arrays(vector), expected_state, order=order
        )
        # Closer than this, rounding decides the order; see semantics.md on near-ties.
        assert order == "robust" or usage_gap(state.usage) > 1e-9
        assert_close(reads, expected_reads, "float64", "read_vectors")
        assert_close(state, expected_state, "float64", "state")


def raw_interface(sizes: MemorySizes, **values: float | Tensor) -> Tensor:
    """A raw vector (B, size) with the named fields set, and zero elsewhere."""
    shapes = interface_shapes(sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads)
    parts = []
    for name, shape in shapes.items():
        part = torch.zeros(sizes.batch_size, *shape, dtype=torch.float64)
        part[:] = torch.as_tensor(values.get(name, 0.0))
        parts.append(part.flatten(1))
    assert values.keys() <= shapes.keys()
    return torch.cat(parts, -1)


# The values


@every_order
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_several_steps_equal_the_oracle(order: str, sizes: MemorySizes, seed: int) -> None:
    interfaces = random_interfaces(3, sizes, seed)
    assert_steps_equal_the_oracle(interfaces, separated_state(sizes, seed), order, carried=True)


@given(sizes=SMALL_SIZES, seed=SEEDS, scale=st.sampled_from([1.0, 5.0, 100.0]))
def test_each_step_from_zero_equals_the_oracle(sizes: MemorySizes, seed: int, scale: float) -> None:
    """From a shared state, because the ties of the zero state soon become near-ties."""
    interfaces = random_interfaces(4, sizes, seed, scale)
    assert_steps_equal_the_oracle(interfaces, zero_state(sizes), "robust", carried=False)


@every_order
def test_first_step_from_zero_equals_the_oracle(order: str) -> None:
    """All usages tie exactly: the exact order is well defined too."""
    interfaces = random_interfaces(1, SIZES)
    reads, state = reference_step(interfaces[0], zero_state(SIZES), usage_order=order)
    expected = oracle.batched(
        oracle.memory_step, arrays(interfaces[0]), arrays(zero_state(SIZES)), order=order
    )
    assert_close((reads, state), expected[:2], "float64")


@every_order
def test_parts_of_the_weightings_equal_the_oracle(order: str) -> None:
    vector, state = random_interfaces(1, SIZES)[0], separated_state(SIZES)
    heads = SIZES.cell_size, SIZES.num_read_heads, SIZES.num_write_heads
    _, _, parts = reference.memory_step(
        parse_interface(vector, *heads), state, StepOptions(usage_order=order)
    )
    _, _, expected = oracle.batched(oracle.memory_step, arrays(vector), arrays(state), order=order)
    assert_close(parts, expected, "float64")


@pytest.mark.full
@every_order
@pytest.mark.parametrize(
    "sizes",
    [
        MemorySizes(3, 33, 17, 5, 4),
        MemorySizes(1, 64, 3, 1, 1),
        MemorySizes(5, 7, 1, 3, 5),
        MemorySizes(2, 2, 40, 8, 2),
    ],
    ids=str,
)
def test_long_runs_equal_the_oracle(order: str, sizes: MemorySizes) -> None:
    interfaces = random_interfaces(12, sizes)
    assert_steps_equal_the_oracle(interfaces, separated_state(sizes), order, carried=True)


# The gradients


@every_order
@pytest.mark.parametrize(
    "sizes",
    [SIZES, MemorySizes(1, 3, 2, 1, 1), MemorySizes(2, 1, 1, 2, 1), MemorySizes(1, 3, 1, 1, 3)],
    ids=str,
)
def test_gradients(order: str, sizes: MemorySizes) -> None:
    """Of both results, to the interface and all six fields of the state."""

    def step(vector: Tensor, *fields: Tensor) -> tuple[Tensor, ...]:
        reads, state = reference_step(vector, MemoryState(*fields), usage_order=order)
        return reads, *state

    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    # Difference quotients of 1e-6 must not reach a swap of the order, nor of the robust grid's.
    assert usage_gap(step(vector, *state)[2]) > 1e-3
    assert torch.autograd.gradcheck(step, require_grad((vector, *state)))


def assert_step_backward_equals_autograd(vector: Tensor, state: MemoryState, order: str) -> None:
    """The step by hand-derived gradients, in plain torch and compiled, and the reference's."""
    given = vector, state, make_cotangents(vector, state)
    backends = ("reference", "eager", "cpu") if HAS_NUMBA else ("reference", "eager")
    expected, *found = (run_step(*given, backend=name, usage_order=order) for name in backends)
    for actual in found:
        assert_close(actual, expected, "float64")


@every_order
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_backward_equals_autograd(order: str, sizes: MemorySizes, seed: int) -> None:
    (vector,) = random_interfaces(1, sizes, seed)
    assert_step_backward_equals_autograd(vector, separated_state(sizes, seed), order)


def nasty_states(sizes: MemorySizes) -> dict[str, MemoryState]:
    zeros, state = zero_state(sizes), separated_state(sizes)
    return {
        "zero": zeros,
        "zero memory": state._replace(memory=zeros.memory),
        "all cells alike": state._replace(memory=torch.ones_like(zeros.memory)),
        "all full": state._replace(usage=torch.ones_like(zeros.usage)),
        "all half full": zeros._replace(usage=torch.full_like(zeros.usage, 0.5)),
    }


@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("state", nasty_states(SIZES).values(), ids=nasty_states(SIZES).keys())
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_gradients_are_finite_in_the_corners(
    scale: float, state: MemoryState, dtype: torch.dtype, order: str
) -> None:
    """Ties, zero keys, zero cells, full memories, and saturated gates, modes and strengths."""
    inputs = require_grad((random_interfaces(3, SIZES, scale=scale).to(dtype), state.to(dtype)))
    results = run(*inputs, order)
    assert all(part.isfinite().all() for reads, new in results for part in (reads, *new))
    weighed_sum(results).backward()
    assert all(gradient.isfinite().all() for gradient in (inputs[0].grad, *gradients(inputs[1])))


@every_order
@pytest.mark.parametrize("state", nasty_states(SIZES).values(), ids=nasty_states(SIZES).keys())
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_backward_equals_autograd_in_the_corners(
    scale: float, state: MemoryState, order: str
) -> None:
    (vector,) = random_interfaces(1, SIZES, scale=scale)
    assert_step_backward_equals_autograd(vector, state, order)


def test_gradients_reach_everything_through_two_steps() -> None:
    """No stop-gradient: each number that went in has a part in what came out two steps later."""
    inputs = require_grad((random_interfaces(2, SIZES), separated_state(SIZES)))
    weighed_sum(run(*inputs)[-1]).backward()
    interfaces, state = inputs
    assert (interfaces.grad != 0).all()
    off_diagonal = ~torch.eye(SIZES.num_cells, dtype=torch.bool)
    for field, gradient in gradients(state)._asdict().items():
        entries = gradient[..., off_diagonal] if field == "link" else gradient
        assert (entries != 0).all(), field


# What holds of every run from zero


# Of sums of a few numbers of at most 1, over some steps.
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6}


@every_order
@pytest.mark.parametrize("dtype", ROUNDING)
@given(sizes=SMALL_SIZES, seed=SEEDS, scale=st.sampled_from([1.0, 5.0, 100.0]))
def test_invariants_of_runs_from_zero(
    dtype: torch.dtype, order: str, sizes: MemorySizes, seed: int, scale: float
) -> None:
    rounding = ROUNDING[dtype]
    interfaces = random_interfaces(10, sizes, seed, scale).to(dtype)
    for reads, state in run(interfaces, zero_state(sizes, dtype), order):
        assert reads.isfinite().all()
        for weights in (state.write_weights, state.read_weights, state.precedence):
            assert (weights >= -rounding).all()
            assert (weights.sum(-1) <= 1 + rounding).all()
        assert (state.link >= -rounding).all()
        assert (state.link.sum(-1) <= 1 + rounding).all()
        assert (state.link.sum(-2) <= 1 + rounding).all()
        assert not state.link.diagonal(dim1=-2, dim2=-1).any()
        assert (state.usage >= 0).all()
        assert (state.usage <= 1 + rounding).all()


# What the gates do, by themselves

SHUT, OPEN = -1000.0, 1000.0  # the sigmoid is 0 and 1 exactly


def test_shut_write_gates_write_nothing() -> None:
    state = separated_state(SIZES)
    _, new = reference_step(raw_interface(SIZES, write_gates=SHUT, write_vectors=1.0), state)
    assert not new.write_weights.any()
    for field in ("memory", "link", "precedence"):
        assert torch.equal(getattr(new, field), getattr(state, field)), field


def test_allocation_fills_cell_after_cell_and_links_lead_through_them() -> None:
    """Three writes to an empty memory; then a read by content, two forward, and one backward."""
    sizes = MemorySizes(1, 4, 3, 1, 1)
    contents = torch.eye(3, dtype=torch.float64)
    write = {"write_gates": OPEN, "allocation_gates": OPEN, "erase_vectors": OPEN}
    state = zero_state(sizes)
    for content in contents:
        vector = raw_interface(sizes, **write, write_vectors=content)
        # The exact order would go on with the last cell: allocation leaves 1e-6 of each write to
        # the next cell, and so less and less usage down the free list.
        _, state = reference_step(vector, state, usage_order="robust")
    torch.testing.assert_close(state.memory[0, :3], contents, rtol=0, atol=1e-5)

    def read(modes: list[float], **values: float | Tensor) -> Tensor:
        nonlocal state
        vector = raw_interface(
            sizes, read_modes=torch.tensor(modes), write_gates=SHUT, free_gates=SHUT, **values
        )
        reads, state = reference_step(vector, state)
        return reads[0, 0]

    reads = [read([0, OPEN, 0], read_keys=contents[0], read_strengths=100.0)]
    reads += [read([0, 0, OPEN]), read([0, 0, OPEN]), read([OPEN, 0, 0])]
    torch.testing.assert_close(torch.stack(reads), contents[[0, 1, 2, 1]], rtol=0, atol=1e-4)


def test_write_keys_look_at_the_old_memory_and_read_keys_at_the_new() -> None:
    """What is written is read in the same step, and was not there for the write key to find."""
    sizes = MemorySizes(1, 3, 2, 1, 1)
    old, new = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    state = zero_state(sizes)
    state.memory[0, 1] = old
    reads, state = reference_step(
        raw_interface(
            sizes,
            write_keys=old,
            write_strengths=100.0,
            allocation_gates=SHUT,
            write_gates=OPEN,
            erase_vectors=OPEN,
            write_vectors=new,
            read_keys=new,
            read_strengths=100.0,
            read_modes=torch.tensor([0, OPEN, 0]),
        ),
        state,
    )
    torch.testing.assert_close(state.memory[0, 1], new, rtol=0, atol=1e-6)
    torch.testing.assert_close(reads[0, 0], new, rtol=0, atol=1e-6)


def test_free_gates_free_what_was_read_and_written() -> None:
    """Freeing comes after the writing of the step before, so that a cell read then is free now."""
    sizes = MemorySizes(1, 2, 1, 1, 1)
    first = torch.tensor([1.0, 0.0], dtype=torch.float64)
    state = zero_state(sizes)._replace(
        write_weights=first[None, None], read_weights=first[None, None]
    )
    for gate, usage in ((OPEN, 0.0), (0.0, 0.5), (SHUT, 1.0)):
        _, new = reference_step(raw_interface(sizes, free_gates=gate), state)
        assert new.usage.tolist() == [[usage, 0.0]]


@pytest.mark.parametrize(("order", "second"), [("exact", 2), ("robust", 1)])
def test_later_write_heads_see_what_the_earlier_will_allocate(order: str, second: int) -> None:
    """Two heads that allocate take two cells; a head with a shut gate leaves the first cell free.

    In the exact order the last cell is the next: of the first head's allocation, (1 - 1e-6) 1e-6^i,
    it gets the least.
    """
    sizes = MemorySizes(1, 3, 1, 1, 2)
    for first_gate, cells in ((OPEN, [0, second]), (SHUT, [0, 0])):
        gates = torch.tensor([first_gate, OPEN])
        vector = raw_interface(sizes, write_gates=gates, allocation_gates=OPEN)
        _, state = reference_step(vector, zero_state(sizes), usage_order=order)
        torch.testing.assert_close(
            state.write_weights[0],
            gates.sigmoid()[:, None] * torch.eye(3)[cells].double(),
            rtol=0,
            atol=1e-5,
            check_dtype=False,
        )
        # The simulated usage is not carried: what is written counts from the next step on.
        assert not state.usage.any()


# Symmetries


def permuted(interface: Tensor, sizes: MemorySizes, fields: set[str], order: list[int]) -> Tensor:
    """A raw vector with the heads of the named fields in another order."""
    shapes = interface_shapes(sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads)
    parts = interface.split([torch.Size(shape).numel() for shape in shapes.values()], -1)
    assert fields <= shapes.keys()
    return torch.cat(
        [
            part.unflatten(-1, shape)[:, order].flatten(1) if name in fields else part
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        ],
        -1,
    )


def test_follows_a_permutation_of_the_cells_where_no_two_tie() -> None:
    interfaces, state = random_interfaces(3, SIZES), separated_state(SIZES)
    cells = torch.randperm(SIZES.num_cells)

    def permute(state: MemoryState) -> MemoryState:
        return MemoryState(
            memory=state.memory[:, cells],
            usage=state.usage[:, cells],
            precedence=state.precedence[..., cells],
            link=state.link[..., cells, :][..., cells],
            write_weights=state.write_weights[..., cells],
            read_weights=state.read_weights[..., cells],
        )

    expected = [(reads, permute(new)) for reads, new in run(interfaces, state)]
    assert_close(run(interfaces, permute(state)), expected, "float64")


def test_follows_a_permutation_of_the_read_heads() -> None:
    sizes = SIZES._replace(num_read_heads=3)
    vector, state = random_interfaces(1, sizes)[0], separated_state(sizes)
    heads = [2, 0, 1]
    fields = {"read_keys", "read_strengths", "free_gates", "read_modes"}
    reads, new = reference_step(vector, state)
    permuted_reads, permuted_new = reference_step(
        permuted(vector, sizes, fields, heads),
        state._replace(read_weights=state.read_weights[:, heads]),
    )
    assert_close(permuted_reads, reads[:, heads], "float64")
    expected = new._replace(read_weights=new.read_weights[:, heads])
    assert_close(permuted_new, expected, "float64")


def test_write_heads_that_write_by_content_may_change_places() -> None:
    """Heads that allocate may not, because they allocate one after another."""
    vector = torch.zeros_like(random_interfaces(1, SIZES)[0])
    vector += raw_interface(SIZES, allocation_gates=SHUT)
    shapes = interface_shapes(SIZES.cell_size, SIZES.num_read_heads, SIZES.num_write_heads)
    fields = {name for name in shapes if name.startswith(("write_", "erase_", "allocation_"))}
    # Read modes stay uniform, so that both heads' links count alike.
    vector += raw_interface(
        SIZES, **{name: torch.randn(shapes[name]) for name in fields - {"allocation_gates"}}
    )
    state = separated_state(SIZES)
    flipped = MemoryState(
        **{
            name: part.flip(1) if name in ("precedence", "link", "write_weights") else part
            for name, part in state._asdict().items()
        }
    )
    reads, new = reference_step(vector, state)
    flipped_reads, flipped_new = reference_step(permuted(vector, SIZES, fields, [1, 0]), flipped)
    assert_close(flipped_reads, reads, "float64")
    for name in ("precedence", "link", "write_weights"):
        assert_close(getattr(flipped_new, name).flip(1), getattr(new, name), "float64", name)
    assert_close(flipped_new.memory, new.memory, "float64")


def test_sequences_of_a_batch_know_nothing_of_each_other() -> None:
    vector, state = random_interfaces(1, SIZES)[0], separated_state(SIZES)
    together = reference_step(vector, state)
    for b in range(SIZES.batch_size):
        alone = reference_step(vector[b : b + 1], state.slice_batch(slice(b, b + 1)))
        expected = map_tensors(lambda tensor, b=b: tensor[b : b + 1], together)
        assert_close(alone, expected, "float64")


# Dtypes and layouts


def test_float32_is_close_to_float64() -> None:
    interfaces, state = random_interfaces(3, SIZES), separated_state(SIZES)
    double = run(interfaces, state)
    # Far more than float32's rounding, so that both order the cells alike.
    assert min(usage_gap(new.usage) for _, new in double) > 1e-3
    single = run(interfaces.float(), state.to(torch.float32))
    assert all(part.dtype == torch.float32 for part in (single[-1][0], *single[-1][1]))
    assert_close(single, double, "float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_states_are_computed_with_in_float32(dtype: torch.dtype) -> None:
    vector, state = random_interfaces(1, SIZES)[0].to(dtype), separated_state(SIZES).to(dtype)
    result = reference_step(vector, state)
    single = reference_step(vector.float(), state.to(torch.float32))
    assert_close(result, map_tensors(lambda tensor: tensor.to(dtype), single), "equal")
    assert all(part.dtype == dtype for part in (result[0], *result[1]))


@pytest.mark.parametrize("given", [torch.bfloat16, torch.float32, torch.float64])
def test_state_decides_the_dtype(given: torch.dtype) -> None:
    vector, state = random_interfaces(1, SIZES)[0].to(given), separated_state(SIZES)
    for dtype in (torch.float32, torch.float64):
        result = reference_step(vector, state.to(dtype))
        assert all(part.dtype == dtype for part in (result[0], *result[1]))
        assert_close(result, reference_step(vector.to(dtype), state.to(dtype)), "equal")


def test_autocast_does_not_touch_the_step() -> None:
    vector, state = random_interfaces(1, SIZES)[0].float(), separated_state(SIZES).to(torch.float32)
    expected = reference_step(vector, state)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(reference_step(vector, state), expected, "equal")


def test_layout_of_the_inputs_does_not_matter() -> None:
    given = random_interfaces(1, SIZES)[0], separated_state(SIZES)
    views = map_tensors(strided, given)
    assert not any(part.is_contiguous() for part in tensors(views))
    assert_close(reference_step(*views), reference_step(*given), "float64")


def test_inputs_are_left_alone() -> None:
    inputs = (random_interfaces(1, SIZES)[0], separated_state(SIZES))
    copies = map_tensors(Tensor.clone, inputs)
    reference_step(*inputs)
    assert_close(inputs, copies, "equal")


# Messages

VECTOR, STATE = random_interfaces(1, SIZES)[0], separated_state(SIZES)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backend": "cuda"}, ValueError, "backend must be one of .*'reference'.*got 'cuda'"),
        ({"usage_order": "sorted"}, ValueError, "usage_order must be one of .*got 'sorted'"),
        ({"interface": VECTOR[:, 1:]}, ValueError, r"interface must .*\(2, 44\).*Hw=2.*\(2, 43\)"),
        ({"interface": VECTOR[:1]}, ValueError, r"interface must .*\(2, 44\).*got \(1, 44\)"),
        ({"interface": VECTOR.long()}, TypeError, r"interface must be .*int64.*\.float\(\)"),
        ({"interface": VECTOR.numpy()}, TypeError, "interface must be a tensor, got ndarray"),
        ({"interface": VECTOR.to("meta")}, ValueError, "interface must be on cpu, got meta"),
        ({"interface": VECTOR / 0}, ValueError, r"interface must be finite.*index \(0, 0\)"),
        ({"state": tuple(STATE)}, TypeError, "state must be a MemoryState, got tuple"),
        ({"state": STATE._replace(usage=STATE.memory)}, ValueError, r"state\.usage .*\(2, 4\)"),
    ],
)
def test_messages_name_the_argument(arguments: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        memory_step(**{"interface": VECTOR, "state": STATE} | arguments)
