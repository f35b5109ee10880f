"""`CudaGraph` without a GPU: what it asks of torch, by a stand-in; with one: that it is enough."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dnc_fast.engine import cuda_graph
from dnc_fast.engine.cuda_graph import CudaGraph


class FakeGenerator:
    """A device's generator, which a recording that fails leaves unusable, as torch's is."""

    def __init__(self, numbers: int = 0, recording: bool = False) -> None:
        self.numbers, self.recording = numbers, recording

    def clone_state(self) -> FakeGenerator:
        return FakeGenerator(self.numbers)

    def graphsafe_set_state(self, other: FakeGenerator) -> None:
        self.numbers, self.recording = other.numbers, other.recording

    def draw(self) -> int:
        if self.recording:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        self.numbers += 1
        return self.numbers


@pytest.fixture
def generators(monkeypatch: pytest.MonkeyPatch) -> list[FakeGenerator]:
    """Those of two devices; the module under test sees a torch with these and no real device."""
    found = [FakeGenerator(10), FakeGenerator(20)]
    current = [0]

    @contextmanager
    def device(chosen: torch.device) -> Any:
        before, current[0] = current[0], chosen.index
        yield
        current[0] = before

    @contextmanager
    def record(graph: Any, **_: Any) -> Any:
        generator = found[current[0]]
        generator.recording = True
        yield  # as in torch, an error skips what ends a recording
        generator.recording = False

    stream = SimpleNamespace(wait_stream=lambda other: None, cuda_stream=5)
    cuda = SimpleNamespace(
        CUDAGraph=lambda: SimpleNamespace(pool=lambda: None),
        Stream=lambda: stream,
        current_device=lambda: current[0],
        current_stream=lambda: stream,
        default_generators=found,
        device=device,
        empty_cache=lambda: None,
        graph=record,
        is_current_stream_capturing=lambda: found[current[0]].recording,
        memory_reserved=lambda: 0,
        set_stream=lambda other: None,
        stream=lambda other: nullcontext(),
        synchronize=lambda *_: None,
    )
    c = SimpleNamespace(_cuda_clearCublasWorkspaces=lambda: None)
    fake = SimpleNamespace(cuda=cuda, _C=c, device=torch.device)
    monkeypatch.setattr(cuda_graph, "torch", fake)
    monkeypatch.setattr(CudaGraph, "_sides", {})
    monkeypatch.setattr(CudaGraph, "_broken", [])
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_random_numbers_go_on_after_a_failed_recording(
    generators: list[FakeGenerator], index: int
) -> None:
    """On the device that was recorded, also where it is not the current one."""
    graph, calls = CudaGraph(torch.device("cuda", index)), []

    def work() -> list[Any]:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("operation not permitted when stream is capturing")
        return []

    with pytest.raises(RuntimeError, match="not permitted"):
        graph.record(work)
    assert [one.draw() for one in generators] == [11, 21]
    assert CudaGraph._broken == [graph]


def test_what_a_failed_warm_up_launched_is_waited_for(
    generators: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work is then launched instead, on scratch memory that the warm-up still writes to."""
    waits: list[Any] = []  # of the side stream for the main one, and the other way round
    stream: Any = cuda_graph.torch.cuda.current_stream()
    monkeypatch.setattr(stream, "wait_stream", waits.append)
    with pytest.raises(ZeroDivisionError):
        CudaGraph(torch.device("cuda", 0)).record(lambda: [1 // 0])
    assert len(waits) == 2


def test_a_successful_recording_leaves_the_generator_alone(
    generators: list[FakeGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(FakeGenerator, "graphsafe_set_state")
    assert CudaGraph(torch.device("cuda", 0)).record(lambda: [3]) == [3]
    assert generators[0].draw() == 11


def test_the_stream_is_that_of_the_device(generators: list[FakeGenerator]) -> None:
    """Not of the current one; None while it is recorded by somebody else."""
    assert CudaGraph.stream(torch.device("cuda", 1)) == 5
    generators[1].recording = True
    assert CudaGraph.stream(torch.device("cuda", 1)) is None
    assert CudaGraph.stream(torch.device("cuda", 0)) == 5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_random_numbers_go_on_after_a_failed_recording() -> None:
    """Waiting for the device is not allowed while a graph is recorded."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.manual_seed(3)
    expected = torch.rand(6, device=device)
    torch.cuda.manual_seed(3)
    tensor = torch.ones(1, device=device)
    with pytest.raises(RuntimeError):
        CudaGraph(device).record(lambda: [tensor.sum().item()])
    assert torch.rand(6, device=device).unique().numel() == 6
    torch.cuda.manual_seed(3)
    torch.testing.assert_close(torch.rand(6, device=device), expected, rtol=0, atol=0)
    graph = CudaGraph(device)
    (found,) = graph.record(lambda: [2 * tensor])
    graph.replay()
    assert found.item() == 2
