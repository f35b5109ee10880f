"""Work on a CUDA device, recorded once as a graph and replayed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch


class Graph(Protocol):
    """What records work on a device; `CudaGraph` is one.

    Attributes:
        bytes: that it took from the device.
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
        beside: another graph to share memory with; the two must take turns.

    Attributes:
        bytes: that torch took from the device to record it.
    """

    _sides: ClassVar[dict[torch.device, torch.cuda.Stream]] = {}
    """Where work is recorded, one stream for each device."""

    _lock: ClassVar[threading.Lock] = threading.Lock()
    """Held while anything is recorded: one side stream serves all threads."""

    _broken: ClassVar[list[CudaGraph]] = []
    """Those whose recording failed: torch's allocator may still look at them."""

    def __init__(self, device: torch.device, beside: CudaGraph | None = None) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        self._pool = None if beside is None else beside._graph.pool()
        self.bytes = 0

    @staticmethod
    def stream(device: torch.device) -> int | None:
        """The stream that work goes to; None where it is being recorded by somebody else."""
        with torch.cuda.device(device):
            if torch.cuda.is_current_stream_capturing():
                return None
            return torch.cuda.current_stream().cuda_stream

    @classmethod
    def settle(cls, device: torch.device) -> None:
        """Wait for the device, and give back what torch holds and does not use."""
        with cls._lock:  # waiting would spoil what another thread records
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()

    def record(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Record the work; nothing is calculated but for a first time that is thrown away.

        Kernels are compiled and loaded that first time, which cannot be done while recording. The
        workspaces of cuBLAS are dropped before and after, so that a graph has one of its own, in
        memory that nobody else is given.

        Returns:
            the work's results, whose memory each replay fills.
        """
        with self._lock, torch.cuda.device(self._device):
            before = self._reserved()
            if self._device not in self._sides:
                self._sides[self._device] = torch.cuda.Stream()
            main, side = torch.cuda.current_stream(), self._sides[self._device]
            side.wait_stream(main)
            try:
                with torch.cuda.stream(side):
                    work()
                main.wait_stream(side)
                torch.cuda.synchronize()
                torch._C._cuda_clearCublasWorkspaces()
                with torch.cuda.graph(
                    self._graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
                ):
                    results = work()
            except RuntimeError:
                self._broken.append(self)
                raise
            finally:
                torch.cuda.set_stream(main)  # torch does not where recording fails
                torch._C._cuda_clearCublasWorkspaces()
            self.bytes = self._reserved() - before
            return results

    def _reserved(self) -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    def replay(self) -> None:
        """Do the work once more, on the current stream."""
        self._graph.replay()
