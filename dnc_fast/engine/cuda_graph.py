"""Work on a CUDA device, recorded once as a graph and replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch


class Graph(Protocol):
    """A class that records work on a device, such as `CudaGraph`.

    Attributes:
        bytes: memory that it took from the device.
    """

    bytes: int

    def __init__(self, device: torch.device, beside: Graph | None = None) -> None: ...

    @staticmethod
    def stream(device: torch.device) -> int | None: ...

    @classmethod
    def settle(cls, device: torch.device) -> None: ...

    def record(self, work: Callable[[], list[Any]]) -> list[Any]: ...

    def replay(self) -> None: ...


class CudaGraph:
    """Work on a CUDA device, recorded once, replayed on the same memory.

    Args:
        device: where the work is done.
        beside: another graph to share memory with; the two must not run at the same time.

    Attributes:
        bytes: memory that torch took from the device to record it.
    """

    _sides: ClassVar[dict[torch.device, torch.cuda.Stream]] = {}
    """The stream on which work is recorded, one per device."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    """Held while anything is recorded: all threads share one side stream."""

    _broken: ClassVar[list[CudaGraph]] = []
    """Graphs whose recording failed: torch's allocator may still access them."""

    def __init__(self, device: torch.device, beside: CudaGraph | None = None) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._pool = None if beside is None else beside._graph.pool()
        self.bytes = 0

    @staticmethod
    def stream(device: torch.device) -> int | None:
        """The current stream; None if someone else is recording it."""
        if device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                return CudaGraph.stream(torch.device("cuda", torch.cuda.current_device()))
        if torch.cuda.is_current_stream_capturing():
            return None
        return torch.cuda.current_stream().cuda_stream

    @classmethod
    def settle(cls, device: torch.device) -> None:
        """Wait for the device, and release the memory that torch caches."""
        with cls._lock:  # waiting would break another thread's recording
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()

    def record(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Record the work without running it, after a warm-up run whose results are dropped.

        The warm-up compiles and loads kernels, which is impossible while recording. The workspaces
        of cuBLAS are dropped before and after, so that a graph has its own, in memory that nothing
        else is given.

        Returns:
            the work's results, which each replay fills.
        """
        with self._lock, torch.cuda.device(self._device):
            before = self._reserved()
            if self._device not in self._sides:
                self._sides[self._device] = torch.cuda.Stream()
            main, side = torch.cuda.current_stream(), self._sides[self._device]
            side.wait_stream(main)
            try:
                try:
                    with torch.cuda.stream(side):
                        work()
                finally:  # after an error, too, the work may be launched on the same memory
                    main.wait_stream(side)
                torch.cuda.synchronize()
                torch._C._cuda_clearCublasWorkspaces()
                with torch.cuda.graph(
                    self._graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
                ):
                    results = work()
            except RuntimeError:
                self._broken.append(self)
                _renew_generator(self._device)
                raise
            finally:
                torch.cuda.set_stream(main)  # torch does not do this if recording fails
                torch._C._cuda_clearCublasWorkspaces()
            self.bytes = self._reserved() - before
            return results

    def _reserved(self) -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def replay(self) -> None:
        """Run the recorded work, on the current stream."""
        self._graph.replay()


def _renew_generator(device: torch.device) -> None:
    """Let random numbers be drawn again after a recording that failed.

    torch tells the device's generator when a recording begins and ends, but not when it fails, and
    then refuses every random number that is drawn outside a recording ("Offset increment outside
    graph capture encountered unexpectedly"). Only another state object, with the same numbers to
    come, ends that. Graphs that were recorded before keep the old one.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    generator = torch.cuda.default_generators[index]
    generator.graphsafe_set_state(generator.clone_state())
