"""Runs recorded as CUDA graphs: when, what for, how many, and that replays are right.

On a CPU a stand-in records (tests/recorded_graph.py); the tests at the end need a GPU.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import needs_triton
from hypothesis import given
from hypothesis import strategies as st
from inside import Operations, at_results, captures_held
from recorded_graph import LOOKS, RecordedGraph
from states import assert_close, lively_dnc, lively_states, normal, require_grad, run
from test_engine import Own
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from dnc_fast import DNC, release_cuda_graphs
from dnc_fast.backends import load_backend
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.engine.captures import MAX_STEPS, part_lengths
from dnc_fast.engine.cuda_graph import CudaGraph
from dnc_fast.sequences import Sequences
from dnc_fast.state import tensors
from dnc_fast.tasks import CopyTask

T, B = 4, 3

FIRST: list[str] = []
SECOND = ["record forward", "replay forward", "record backward", "replay backward"]
THIRD = ["replay forward", "replay backward"]

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


# Each test begins without captures.
pytestmark = pytest.mark.usefixtures("calls")


def two_models(**options: Any) -> tuple[DNC, DNC]:
    """The same model with graphs and without."""
    options = {"backend": "eager", **options}
    return lively_dnc(cuda_graphs=True, **options), lively_dnc(cuda_graphs=False, **options)


def inputs(model: DNC, seed: int, steps: int = T, batch_size: int = B) -> tuple[Tensor, Any]:
    generator = torch.Generator().manual_seed(seed)
    return normal(steps, batch_size, 3, generator=generator), lively_states(model, batch_size, seed)


def train(model: DNC, x: Any, state: Any, scale: float = 1.0) -> dict[str, Tensor]:
    """Outputs, final state and all gradients of a forward and a backward pass, by name."""

    def loss(output: Tensor, final: Any) -> Tensor:
        return scale * sum(part.square().sum() for part in tensors((output, final)))

    return run(model, x, state, loss)


def assert_same(
    model: DNC, plain: DNC, seeds: Any = range(4), tolerance: str = "equal", **sizes: int
) -> None:
    """Several passes, each with its own inputs."""
    for seed in seeds:
        x, state = inputs(model, seed, **sizes)
        assert_close(train(model, x, state), train(plain, x, state), tolerance, f"pass {seed}")


# Which parts a number of steps is taken in


@given(st.integers(1, 5 * MAX_STEPS), st.booleans())
def test_parts_add_up(steps: int, whole: bool) -> None:
    """As a whole if that is one capture, otherwise powers of two."""
    lengths = part_lengths(steps, whole)
    assert sum(lengths) == steps
    if whole and steps <= MAX_STEPS:
        assert len(lengths) == 1
        return
    assert all(length & (length - 1) == 0 and 1 <= length <= MAX_STEPS for length in lengths)
    assert lengths == sorted(lengths, reverse=True)
    short = [length for length in lengths if length < MAX_STEPS]
    assert len(set(short)) == len(short)


def test_every_length_is_one_graph_each_way(calls: list[str]) -> None:
    model, plain = two_models()
    lengths = (2, 3, 6, 7)
    for steps in lengths:
        assert_same(model, plain, range(2), steps=steps)
    calls.clear()
    for steps in reversed(lengths):
        assert_same(model, plain, [steps], steps=steps)
    assert calls == THIRD * len(lengths)


def test_few_parts_serve_every_length_of_large_runs(
    calls: list[str], limits: Callable[..., None]
) -> None:
    limits(SHARE_OF_ONE=2**40)
    model, plain = two_models()
    for round_ in range(2):
        for steps in range(1, 16):
            # Weight gradients are summed in a different order than in an undivided run.
            assert_same(model, plain, [steps], "float64", steps=steps)
        if round_:
            assert calls.count("record forward") == 4  # 8, 4, 2, 1


def test_what_is_left_over_of_long_sequences_is_in_parts(
    calls: list[str], limits: Callable[..., None]
) -> None:
    limits(MAX_STEPS=4)
    model, plain = two_models()
    for seed in range(2):
        assert_same(model, plain, [seed], "float64", steps=7)
    assert calls.count("record forward") == 3  # 4, 2, 1


# No step waits for a device


class NoLooks(TorchDispatchMode):
    """Refuses operations that would wait for a device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert func not in LOOKS, f"{func} reads a tensor's value"
        return func(*args, **(kwargs or {}))


def test_reversing_a_batch_reads_no_value() -> None:
    sequences = Sequences.of(normal(T, B, 3), 3, False, torch.empty(0, dtype=torch.float64))
    with NoLooks():
        order = sequences.reversal()
    assert order.tolist() == [9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2]


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("batch_sizes", [[3, 3, 3, 3], [3, 3, 2, 1]], ids=str)
def test_no_step_reads_a_value(controller: str, batch_sizes: list[int]) -> None:
    model, _ = two_models(controller=controller, num_layers=2, checkpoint_interval=2)
    x, state = inputs(model, 0)
    with NoLooks():
        rows = x.flatten(0, 1)[: sum(batch_sizes)]
        sequences = Sequences(rows, T, B, False, False, sizes=batch_sizes)
        features, final = model.cell.run(rows, sequences, state, None)
        sum(part.square().sum() for part in (features, *final.memory)).backward()
    assert model.cell.interface.weight.grad.any()


# Replays are right


@pytest.mark.parametrize(
    "options",
    [
        *({"controller": name, "checkpoint_interval": K} for name in CONTROLLERS for K in (2, 3)),
        {"hidden_size": 7},
        {"num_layers": 2},
        {"num_cells": 8},
        {"num_write_heads": 2},
        {"bias": False},
        {"activation_clip": 1e-3},
        {"usage_order": "robust"},
        {"checkpoint_dtype": torch.float32},
        {"checkpoint_dtype": torch.float32, "checkpoint_interval": 2},
    ],
    ids=str,
)
def test_replays_equal_launches_bit_for_bit(options: dict[str, Any], calls: list[str]) -> None:
    """Also after a different model, whose captures must not be used."""
    for one in ({}, options):
        calls.clear()
        assert_same(*two_models(**one))
        assert calls == FIRST + SECOND + THIRD + THIRD


@needs_triton
@pytest.mark.parametrize(
    "options",
    [
        {},
        # These take 10 to 20 s in the interpreter.
        pytest.param({"strengths": "softplus", "usage_gradient": False}, marks=pytest.mark.full),
        pytest.param(
            {"num_cells": 65, "cell_size": 4, "num_read_heads": 1}, marks=pytest.mark.full
        ),
    ],
)
def test_launches_of_kernels_are_recorded(
    recorded_kernels: None, options: dict[str, Any], calls: list[str]
) -> None:
    model, plain = two_models(backend="triton", **options)
    assert_same(model, plain, range(3), steps=2, batch_size=1)
    assert calls == FIRST + SECOND + THIRD


def test_the_stand_in_refuses_a_look_at_a_value() -> None:
    graph, x = RecordedGraph(torch.device("cpu")), torch.ones(2)
    with torch.no_grad(), pytest.raises(AssertionError, match="reads a tensor's value"):
        graph.record(lambda: [x * float(x.sum())])


def test_the_stand_in_finds_what_is_not_a_tensor() -> None:
    graph, x, seen = RecordedGraph(torch.device("cpu")), torch.ones(2), [2.0, 3.0, 4.0]
    with torch.no_grad():
        (found,) = graph.record(lambda: [x * seen.pop()])
    assert found.isnan().all()
    graph.replay()
    graph.replay()
    assert found.tolist() == [3.0, 3.0]


def test_weights_that_change_or_are_replaced_are_seen() -> None:
    model, plain = two_models()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, plain)]
    for seed in range(5):
        assert_same(model, plain, [seed])
        for optimizer in optimizers:
            optimizer.step()
    assert_close(dict(model.named_parameters()), dict(plain.named_parameters()), "equal")
    weights = {name: torch.randn_like(p) / 4 for name, p in model.state_dict().items()}
    for one in (model, plain):
        one.load_state_dict(weights, assign=True)
    assert_same(model, plain)


def test_results_outlive_later_replays() -> None:
    model, _ = two_models()
    kept, copies = [], []
    for seed in range(4):
        x, state = inputs(model, seed)
        output, final = model(x, state)
        grads = torch.autograd.grad(output.sum(), list(model.parameters()), allow_unused=True)
        kept.append([output, *tensors(final), *grads])
        copies.append([part.clone() for part in kept[-1]])
    assert_close(kept, copies, "equal")


def test_gradients_accumulate() -> None:
    found = []
    for model in two_models():
        for seed in range(5):
            x, state = inputs(model, seed)
            model(x, state)[0].square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert_close(*found, "equal")


@pytest.mark.parametrize("steps", [T, 7])
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_half_models_carry_all_from_part_to_part(
    calls: list[str], limits: Callable[..., None], controller: str, steps: int
) -> None:
    """What is carried is rounded where it goes in and comes out, not between parts."""
    limits(SHARE_OF_ONE=2**40)
    for dtype in (torch.bfloat16, torch.float16):
        model, plain = (one.to(dtype) for one in two_models(controller=controller))
        for seed in range(3):
            x = normal(steps, B, 3, generator=torch.Generator().manual_seed(seed)).to(dtype)
            assert_close(model(x), plain(x), "equal")
    assert calls.count("replay forward") == 2 * 2 * steps.bit_count()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_scaled_losses(calls: list[str], dtype: torch.dtype) -> None:
    model, plain = (one.float() for one in two_models())
    for seed in range(4):
        x, state = inputs(model, seed)
        x, state = x.float(), state.to(torch.float32)
        with torch.autocast("cpu", dtype):
            found, expected = (train(m, x, state, 1024.0) for m in (model, plain))
        assert_close(found, expected, "equal")
    assert calls == FIRST + SECOND + THIRD + THIRD


def test_bidirectional_takes_two_of_a_kind(calls: list[str]) -> None:
    """The second direction comes while the first waits for its backward pass."""
    assert_same(*two_models(bidirectional=True))
    assert calls.count("record forward") == 2 and calls.count("record backward") == 2


def test_truncated_and_whole_backpropagation_in_chunks(calls: list[str]) -> None:
    for detach in (True, False):
        found = []
        for model in two_models():
            for seed in range(3):
                x, state = inputs(model, seed, steps=3 * T)
                total: Any = 0.0
                for chunk in x.split(T):
                    output, state = model(chunk, state.detach() if detach else state)
                    total = total + output.square().mean()
                total.backward()
            found.append({name: p.grad for name, p in model.named_parameters()})
        assert_close(*found, "equal")
    assert calls.count("record forward") == 3  # all three chunks still need their backward pass


def test_evaluation_between(calls: list[str]) -> None:
    model, plain = two_models()
    for seed in range(6):
        x, state = inputs(model, seed)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert_close(model(x, state), plain(x, state), "equal")
        assert_same(model, plain, [seed])
    assert calls.count("record forward") == 2 and calls.count("record backward") == 1


def test_first_seen_in_inference_mode(calls: list[str]) -> None:
    model, plain = two_models()
    x, state = inputs(model, 0)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            assert_close(model(x, state), plain(x, state), "equal")
    assert calls == ["record forward", "replay forward", "replay forward"]


def test_backward_twice() -> None:
    for model in two_models():
        found = []
        for seed in (0, 1, 1):
            x, state = inputs(model, seed)
            total = model(x, state)[0].square().sum()
            weights = list(model.parameters())
            found.append(torch.autograd.grad(total, weights, retain_graph=True))
            again = torch.autograd.grad(total, weights)
            assert_close(again, found[-1], "equal")
        assert_close(found[1], found[2], "equal")


@pytest.mark.parametrize("frozen", ["", "weight_ih", "controller", "interface", "bias"])
def test_from_zeros_with_some_parameters_frozen(calls: list[str], frozen: str) -> None:
    """A state of zeros is not copied; only gradients that somebody wants are calculated."""
    found = []
    for one in two_models(num_layers=2):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_(not frozen or frozen not in name)
        for seed in range(4):
            x, _ = inputs(one, seed)
            output, final = one(x.requires_grad_(bool(seed % 2)))
            (output.square().sum() + final.memory.link.sum()).backward()
            found.append([x.grad, *(p.grad for p in one.parameters())])
        assert any(p.grad is None for p in one.parameters()) == bool(frozen)
    assert_close(found[4:], found[:4], "equal")
    assert calls == ["record forward", "replay forward", "record backward", "replay backward"] * 2


def test_gradients_of_some_results_only() -> None:
    model, plain = two_models()
    for seed in range(4):
        found = []
        for one in (model, plain):
            x, state = inputs(one, seed)
            output, final = one(x, state)
            loss = output.sum() if seed % 2 else final.memory.link.square().sum()
            found.append(torch.autograd.grad(loss, one.cell.interface.weight)[0])
        assert_close(*found, "equal")


# When a capture can be used again


def test_dropped_results_release_their_capture(calls: list[str]) -> None:
    model, _ = two_models()
    gc.disable()
    try:
        for seed in range(6):
            x, state = inputs(model, seed)
            model(x, require_grad(state))  # no backward pass
    finally:
        gc.enable()
    assert calls.count("record forward") == 1


def test_a_failed_backward_pass_releases_its_capture(calls: list[str]) -> None:
    model, plain = two_models()
    assert_same(model, plain, range(2))
    x, state = inputs(model, 0)
    output = model(x, state)[0]
    output.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.sum().backward()
    del output
    assert_same(model, plain, [3])
    assert calls.count("record forward") == 1


def in_threads(count: int, total: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of `work` for each number below `total`, shared among `count` threads."""
    found: dict[int, Any] = {}

    def take(first: int) -> None:
        for number in range(first, total, count):
            found[number] = work(number)

    started = [threading.Thread(target=take, args=(first,)) for first in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [found[number] for number in range(total)]


def test_threads_have_captures_of_their_own() -> None:
    model, plain = two_models()
    expected = [train(plain, *inputs(plain, seed)) for seed in range(8)]
    own = threading.local()

    def work(seed: int) -> Any:
        own.model = getattr(own, "model", None) or copy.deepcopy(model)
        return train(own.model, *inputs(model, seed))

    assert_close(in_threads(2, 8, work), expected, "equal")


# What needs captures of its own


def test_another_model_of_the_same_sizes_is_not(calls: list[str]) -> None:
    model, plain = two_models()
    assert_same(model, plain, range(2))
    calls.clear()
    for one in (model, plain):
        torch.manual_seed(5)
        one.reset_parameters()
    assert_same(copy.deepcopy(model), plain, [2])
    assert_same(pickle.loads(pickle.dumps(model)), plain, [3])
    assert calls == THIRD + THIRD


def test_sizes_and_surroundings_are_kinds(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches, steps, cells, streams, and torch's settings each need captures of their own."""
    model, plain = two_models()
    wide = model.zero_state(B, num_cells=9)

    def with_more_cells(_: int) -> None:
        x, _ = inputs(model, 0)
        assert_close(train(model, x, wide), train(plain, x, wide), "equal")

    def deterministic(seed: int) -> None:
        torch.use_deterministic_algorithms(True)
        try:
            assert_same(model, plain, [seed])
        finally:
            torch.use_deterministic_algorithms(False)

    def on_another_stream(seed: int) -> None:
        monkeypatch.setattr(RecordedGraph, "current_stream", 7)
        assert_same(model, plain, [seed])

    for take in (
        lambda seed: assert_same(model, plain, [seed]),
        lambda seed: assert_same(model, plain, [seed], batch_size=2),
        lambda seed: assert_same(model, plain, [seed], steps=2),
        with_more_cells,
        deterministic,
        on_another_stream,
    ):
        calls.clear()
        for seed in range(2):
            take(seed)
        assert calls == FIRST + SECOND


# What is never recorded


def test_not_recorded(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = two_models()
    ragged = pack_sequence([normal(steps, 3) for steps in (5, 4, 2)])
    for _ in range(3):
        assert_close(model(ragged)[0].data, plain(ragged)[0].data, "equal")

    dropping, _ = two_models(num_layers=2, dropout=0.5)
    for seed in range(3):
        train(dropping, *inputs(dropping, seed))

    own, _ = two_models(controller=Own)
    for seed in range(3):
        train(own, *inputs(own, seed))

    monkeypatch.setattr(RecordedGraph, "current_stream", None)  # somebody else records
    assert_same(model, plain)
    assert calls == []


def test_equal_lengths_in_a_packed_sequence_are_recorded(calls: list[str]) -> None:
    model, plain = two_models()
    for _ in range(3):
        packed = pack_sequence([normal(T, 3) for _ in range(B)])
        assert_close(model(packed)[0].data, plain(packed)[0].data, "equal")
    assert calls == ["record forward", "replay forward", "replay forward"]


# How many are held


def test_captures_are_bounded(calls: list[str], limits: Callable[..., None]) -> None:
    limits(MAX_CAPTURES=2, STALE_AFTER=6)
    model, plain = two_models()
    for batch_size in (1, 2, 3):
        assert_same(model, plain, range(3), batch_size=batch_size)
    # There is no room for the third: captures that were used recently are not dropped.
    assert captures_held() == 2
    assert calls == FIRST + SECOND + THIRD + FIRST + SECOND + THIRD
    calls.clear()
    assert_same(model, plain, range(3), batch_size=3)
    # The first is stale by now and is dropped.
    assert calls == ["settle", "settle", *SECOND, *THIRD, *THIRD]
    calls.clear()
    assert_same(model, plain, range(2), batch_size=2)
    assert calls == THIRD + THIRD


def test_captures_are_bounded_in_bytes(calls: list[str], limits: Callable[..., None]) -> None:
    model, plain = two_models()
    limits(MAX_BYTES=100)
    assert_same(model, plain)
    assert calls == [] and captures_held() == 0


def test_what_kernels_keep_takes_room(
    calls: list[str], limits: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only of passes that may be followed by a backward pass."""
    model, plain = two_models()
    monkeypatch.setattr(type(load_backend("eager")), "kept_numbers", lambda *_: 10**6)
    limits(MAX_BYTES=10**7)
    assert_same(model, plain)
    assert calls == []
    with torch.no_grad():
        for _ in range(2):
            model(normal(T, B, 3))
    assert calls == ["record forward", "replay forward"]


def test_a_capture_in_use_is_not_dropped(calls: list[str], limits: Callable[..., None]) -> None:
    limits(MAX_CAPTURES=1, STALE_AFTER=0)
    model, plain = two_models()
    assert_same(model, plain, range(2))
    (x, state), (y, start) = inputs(model, 2), inputs(model, 3, batch_size=2)
    found = []
    for one in (model, plain):
        output, _ = one(x.requires_grad_(), require_grad(state))  # as in `train`
        release_cuda_graphs()
        assert captures_held() == (one is model)  # by then it is free
        for _ in range(3):
            one(y, start)[0].sum().backward()
        one.zero_grad()
        output.square().sum().backward()
        found.append({name: p.grad for name, p in one.named_parameters()})
    assert_close(*found, "equal")
    assert calls.count("record forward") == 1


def test_release(calls: list[str]) -> None:
    model, plain = two_models()
    assert_same(model, plain, range(2))
    assert captures_held() == 1
    release_cuda_graphs()
    assert captures_held() == 0
    calls.clear()
    assert_same(model, plain, range(2))
    assert calls == SECOND + THIRD


@pytest.mark.parametrize("which", ["forward", "backward"])
def test_what_cannot_be_recorded_is_launched(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """And is not tried again."""
    record = RecordedGraph.record

    def refuse(graph: RecordedGraph, work: Any) -> Any:
        found = record(graph, work)
        if graph.name == which:
            raise RuntimeError("operation not permitted")
        return found

    model, plain = two_models()
    monkeypatch.setattr(RecordedGraph, "record", refuse)
    with pytest.warns(UserWarning, match=r"not permitted; cuda_graphs=False"):
        assert_same(model, plain)
        assert_same(model, plain, batch_size=2)
    assert calls.count(f"record {which}") == 1


@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "behind another error"])
@pytest.mark.parametrize("which", ["forward", "backward"])
def test_what_does_not_fit_is_launched_and_the_rest_is_recorded(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, which: str, hidden: bool
) -> None:
    """Without a warning, and not tried again: there was less memory than the estimate said."""
    record = RecordedGraph.record

    def refuse(graph: RecordedGraph, work: Any) -> Any:
        found = record(graph, work)
        if graph.name == which and found[0].shape[0] != 2:
            try:
                raise torch.OutOfMemoryError("out of memory")
            except RuntimeError:
                if not hidden:
                    raise
                raise RuntimeError("the recording was invalid") from None
        return found

    model, plain = two_models()
    monkeypatch.setattr(RecordedGraph, "record", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(model, plain)
        assert calls.count(f"record {which}") == 1
        calls.clear()
        assert_same(model, plain, batch_size=1, steps=2)
    assert calls == FIRST + SECOND + THIRD + THIRD


def test_the_warm_up_is_gone_when_the_next_call_is_recorded(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a forward pass would be held twice: nothing is freed while a graph is recorded."""
    found: list[weakref.ref[Any]] = []
    record = RecordedGraph.record

    def watched(graph: RecordedGraph, work: Callable[[], Any]) -> Any:
        if graph.name == "backward":
            return record(graph, work)
        found.clear()

        def counted() -> Any:
            held.append(sum(one() is not None for one in found))
            return work()

        return record(graph, counted)

    held: list[int] = []
    at_results(monkeypatch, lambda recording: found.append(weakref.ref(recording)))
    monkeypatch.setattr(RecordedGraph, "record", watched)
    gc.disable()
    try:
        assert_same(*two_models())
    finally:
        gc.enable()
    assert len(held) >= 2 and not any(held)


def test_no_warning_otherwise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(*two_models())


# What surrounds the replays


@pytest.mark.parametrize("steps", [4, 7])
def test_few_launches_surround_the_replays(
    calls: list[str], monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """One copy in, one out, and the output layer, each way; nothing is made anew."""
    monkeypatch.setattr("dnc_fast.sequences.check_tensor", lambda *_: None)  # waits on a CPU
    model, _ = two_models()
    for _ in range(2):
        model(normal(steps, B, 3))[0].sum().backward()
    monkeypatch.setattr(RecordedGraph, "replay", lambda _: None)
    model.zero_grad()
    x = normal(steps, B, 3)
    with Operations() as forward:
        output, _ = model(x)
    assert forward.names == ["_foreach_copy_", "_foreach_mul", "addmm"]
    gradient = torch.ones_like(output)
    with Operations() as backward:
        output.backward(gradient)
    around = ["mm", "mm", "sum"]  # the output layer
    assert backward.names == [*around, "_foreach_copy_", "_foreach_mul"]


# On a GPU


def gpu_models(**options: Any) -> tuple[DNC, DNC]:
    sizes = {"num_cells": 64, "cell_size": 16, "num_read_heads": 2, "input_size": 8, **options}
    model = DNC(hidden_size=32, device="cuda", **sizes)
    plain = DNC(hidden_size=32, device="cuda", cuda_graphs=False, **sizes)
    plain.load_state_dict(model.state_dict())
    return model, plain


@needs_gpu
@pytest.mark.parametrize("cells", [32, 64, 200])
def test_gpu_replays_equal_launches_bit_for_bit(cells: int) -> None:
    model, plain = gpu_models(num_cells=cells)
    for _ in range(4):
        x = torch.randn(16, 4, 8, device="cuda")
        results = [train(one, x, one.zero_state(4)) for one in (model, plain)]
        assert_close(*results, "equal")
    assert captures_held() == 1


@needs_gpu
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("steps", [50, pytest.param(2000, marks=pytest.mark.full)])
def test_gpu_copy_training_with_graphs_equals_training_without(steps: int, autocast: bool) -> None:
    """Lengths vary between batches: 4 to 18 steps."""
    task, losses = CopyTask(), []
    for one in gpu_models(input_size=8, output_size=6):
        generator = torch.Generator().manual_seed(1)
        optimizer = torch.optim.Adam(one.parameters(), lr=3e-3)
        trace = []
        for _ in range(steps):
            batch = task.batch(16, generator).to("cuda")
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = task.loss(one(batch.inputs)[0].float(), batch)
            loss.backward()
            optimizer.step()
            trace.append(loss.detach())
        losses.append(torch.stack(trace).cpu())
    # A library may sum differently with another workspace; over time, training amplifies that.
    assert_close(losses[0][:10], losses[1][:10], "bfloat16" if autocast else "float32")
    assert (losses[0][-20:].mean() - losses[1][-20:].mean()).abs() < 0.05


@needs_gpu
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gpu_no_step_waits_for_the_device(bidirectional: bool) -> None:
    for one in gpu_models(bidirectional=bidirectional):
        for _ in range(3):
            one(torch.randn(8, 4, 8, device="cuda"))[0].square().mean().backward()
        x = torch.randn(8, 4, 8, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            one(x)[0].square().mean().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_gpu_graphs_are_real(monkeypatch: pytest.MonkeyPatch) -> None:
    replays: list[CudaGraph] = []
    replay = CudaGraph.replay
    monkeypatch.setattr(CudaGraph, "replay", lambda graph: replays.append(graph) or replay(graph))
    model, _ = gpu_models()
    for count in (0, 2, 4):
        model(torch.randn(8, 4, 8, device="cuda"))[0].sum().backward()
        assert len(replays) == count
    assert captures_held() == 1


@needs_gpu
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_gpu_parts_of_half_models(limits: Callable[..., None], controller: str) -> None:
    limits(SHARE_OF_ONE=2**40)
    model, plain = (one.bfloat16() for one in gpu_models(controller=controller))
    for _ in range(3):
        x = torch.randn(15, 4, 8, device="cuda", dtype=torch.bfloat16)
        assert_close(model(x)[0], plain(x)[0], "bfloat16")


@needs_gpu
def test_gpu_a_failed_recording_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the device is not allowed while a graph is recorded."""
    model, plain = gpu_models()
    stream = torch.cuda.current_stream()
    at_results(monkeypatch, lambda recording: recording.features.sum().item())
    with pytest.warns(UserWarning, match="could not be recorded"):
        for _ in range(3):
            x = torch.randn(8, 4, 8, device="cuda")
            results = [train(one, x, one.zero_state(4)) for one in (model, plain)]
            assert_close(*results, "equal")
    assert torch.cuda.current_stream() == stream
    assert captures_held() == 0
    # Random numbers go on where they would have been.
    torch.cuda.manual_seed(3)
    first = torch.rand(5, device="cuda")
    torch.cuda.manual_seed(3)
    assert_close(torch.rand(5, device="cuda"), first, "equal")


@needs_gpu
def test_gpu_threads() -> None:
    model, plain = gpu_models()
    xs = [torch.randn(8, 4, 8, device="cuda") for _ in range(12)]
    expected = [train(plain, x, plain.zero_state(4)) for x in xs]
    torch.cuda.synchronize()
    own = threading.local()

    def work(index: int) -> Any:
        if not hasattr(own, "model"):
            own.model, own.stream = copy.deepcopy(model), torch.cuda.Stream()
        with torch.cuda.stream(own.stream):
            found = train(own.model, xs[index], own.model.zero_state(4))
            own.stream.synchronize()
        return found

    assert_close(in_threads(3, len(xs), work), expected, "float32")
