"""Runs recorded once as CUDA graphs and replayed: a GPU need not wait for their launches.

A run is recorded when its like is seen for the second time: the same work (`Run.key`) on tensors of
the same shapes and dtypes, on the same device and stream, under the same settings of torch. What is
recorded works on tensors of its own, so what is given is copied in and results are copied out;
weights and states may lie anywhere. Between a forward pass and its way back a capture is taken;
meanwhile another of its kind is recorded for who else wants one.

Sequences of T steps are taken in parts whose lengths are powers of two, with the state carried over
exactly, so that few captures serve every T.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .checkpointed import Run

MAX_STEPS = 256
"""Steps of the longest part that is captured."""

MAX_CAPTURES = 32
"""Captures that are held at a time."""

MAX_BYTES = 2 * 2**30
"""About the memory that all captures may hold."""

STALE_AFTER = 1000
"""Runs without use from which a capture may be dropped for another."""

MAX_SEEN = 1024
"""Kinds of runs that are remembered."""


def part_lengths(steps: int) -> list[int]:
    """Powers of two, at most `MAX_STEPS`, that add up to a number of steps, the longest first."""
    whole, rest = divmod(steps, MAX_STEPS)
    places = reversed(range(rest.bit_length()))
    return [MAX_STEPS] * whole + [1 << place for place in places if rest >> place & 1]


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

    def record(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
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


GRAPHS: dict[str, type[Any]] = {"cuda": CudaGraph}
"""What records, by type of device."""

REFUSING: set[torch.device] = set()
"""Devices on which recording failed once."""


def can_capture(run: Run, lengths: list[int]) -> bool:
    """Whether captures can take a run in parts of these lengths.

    All sequences must be of one length, no random numbers be drawn, all parts fit at a time.
    """
    return (
        run.device.type in GRAPHS
        and run.device not in REFUSING
        and run.plan.parts is None
        and not run.controller.draws
        and run.rows.batch_sizes[0] == run.rows.batch_sizes[-1]
        and sum(map(run.held_bytes, lengths)) <= MAX_BYTES
        and GRAPHS[run.device.type].stream(run.device) is not None
    )


class Capture:
    """A run, its forward pass and its way back recorded.

    Args:
        key: of its kind.
        run: what is recorded; for this capture alone.
        given: as the run takes them, for their shapes.
    """

    def __init__(self, key: Any, run: Run, given: Sequence[Tensor]) -> None:
        self.key = key
        self.device = run.device
        self.bytes = run.held_bytes(run.rows.steps)
        self.taken = False
        self.last_use = 0
        self._run = run
        self._graph = GRAPHS[run.device.type](run.device)
        with _plainly(run.device):
            self._given = tuple(_own(given))
            _copy(self._given, given)
            self._results = self._graph.record(lambda: run.forward(self._given))
        self.bytes = max(self.bytes, self._graph.bytes)
        self._gradients: list[Tensor] = []
        self._back: Any = None
        self._found: list[Tensor] = []

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        """`Run.forward`."""
        _copy(self._given, given)
        self._graph.replay()
        return _copies(self._results)

    def backward(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """`Run.backward`, any number of times after `forward`."""
        with _plainly(self.device):
            self._gradients = self._gradients or _own(self._results)
            for own, gradient in zip(self._gradients, gradients, strict=True):
                own.zero_() if gradient is None else own.copy_(gradient)
            if self._back is None:
                self._record_back()
        if not self._found:
            return self._run.play_back(self._given, tuple(self._gradients))
        self._back.replay()
        return _copies(self._found)

    def _record_back(self) -> None:
        self._back = GRAPHS[self.device.type](self.device, beside=self._graph)
        gradients = tuple(self._gradients)
        try:
            self._found = self._back.record(lambda: self._run.play_back(self._given, gradients))
        except RuntimeError as error:
            refuse(self.device, error)
        self.bytes = max(self.bytes, self._graph.bytes + self._back.bytes)


class Replay:
    """A run by way of a capture, which it gives back after the way back, or when it is dropped.

    Args:
        capture: taken.
        run: the same, uncaptured, for what a capture cannot do.
    """

    def __init__(self, capture: Capture, run: Run) -> None:
        self.rows = run.rows
        self._capture: Capture | None = capture
        self._run = run

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        """`Run.forward`."""
        assert self._capture is not None
        return self._capture.forward(given)

    def backward(
        self, given: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]
    ) -> Sequence[Tensor | None]:
        """`Run.backward`."""
        if self._capture is None:  # a second way back (retain_graph)
            return self._run.backward(given, gradients)
        try:
            return self._capture.backward(gradients)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        if self._capture is not None:
            self._capture.taken = False
            self._capture = None

    def __del__(self) -> None:
        self._give_back()


class Captures:
    """All captures of a process, of all models."""

    def __init__(self) -> None:
        self._captures: list[Capture] = []
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self._runs = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._captures)

    def run(self, run: Run, given: Sequence[Tensor]) -> Run | Replay:
        """What to take for a run: a replay of it, or itself.

        Args:
            run: not begun.
            given: what it will be given.
        """
        stream = GRAPHS[run.device.type].stream(run.device)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in given)
        key = (run.key, run.device, stream, shapes, _settings())
        with self._lock:
            capture = self._take(key, run, given)
        return run if capture is None else Replay(capture, run)

    def release(self) -> None:
        """Drop all captures that are not taken, and with them their memory."""
        with self._lock:
            self._drop([capture for capture in self._captures if not capture.taken])

    def _take(self, key: Any, run: Run, given: Sequence[Tensor]) -> Capture | None:
        self._runs += 1
        free = (one for one in self._captures if one.key == key and not one.taken)
        capture = next(free, None) or self._record(key, run, given)
        if capture is not None:
            capture.taken = True
            capture.last_use = self._runs
        return capture

    def _record(self, key: Any, run: Run, given: Sequence[Tensor]) -> Capture | None:
        """A new capture; None for what is new itself, cannot be recorded, or finds no room."""
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return None
        size = run.held_bytes(run.rows.steps)
        if not self._make_room(size):
            return None
        try:
            capture = Capture(key, run.another(), given)
        except RuntimeError as error:
            refuse(run.device, error)
            return None
        self._captures.append(capture)
        return capture

    def _make_room(self, size: int) -> bool:
        """Drop stale captures, the longest unused first, until there is room; whether there is."""

        def full() -> bool:
            held = sum(capture.bytes for capture in self._captures)
            return len(self._captures) >= MAX_CAPTURES or held + size > MAX_BYTES

        for capture in sorted(self._captures, key=lambda capture: capture.last_use):
            if not full() or self._runs - capture.last_use <= STALE_AFTER:
                break
            if not capture.taken:
                self._drop([capture])
        return not full()

    def _drop(self, captures: list[Capture]) -> None:
        """Forget captures, and let go of their memory when the device has done with it."""
        devices = {capture.device for capture in captures}
        for device in devices:
            GRAPHS[device.type].settle(device)
        self._captures = [capture for capture in self._captures if capture not in captures]
        captures.clear()
        for device in devices:
            GRAPHS[device.type].settle(device)


CAPTURES = Captures()


def release_cuda_graphs() -> None:
    """Free the memory of all captured CUDA graphs; those that are needed again are captured anew.

    Those of a forward pass whose backward pass is still to come stay.
    """
    CAPTURES.release()


def refuse(device: torch.device, error: RuntimeError) -> None:
    """Record nothing more on a device, and tell why."""
    REFUSING.add(device)
    warnings.warn(
        "the steps of a DNC could not be recorded as a CUDA graph and are launched one by one: "
        f"{error.__context__ or error}; cuda_graphs=False does so from the start",
        stacklevel=2,
    )


def _settings() -> tuple[Any, ...]:
    """What else decides which kernels torch takes."""
    products: Any = torch.backends.cuda.matmul
    library = getattr(torch.backends.cuda, "preferred_blas_library", None)
    return (
        getattr(products, "fp32_precision", None) or products.allow_tf32,  # since 2.9; before
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction,
        getattr(products, "allow_fp16_accumulation", None),
        library and library(),
        torch.are_deterministic_algorithms_enabled(),
    )


@contextmanager
def _plainly(device: torch.device) -> Iterator[None]:
    """Within, operations are what they say, in whatever mode the caller is."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def _own(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Contiguous tensors of the same shapes, to be filled."""
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in tensors]


def _copy(own: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(own), [tensor.detach() for tensor in given])


def _copies(results: Sequence[Tensor]) -> list[Tensor]:
    found = _own(results)
    _copy(found, results)
    return found
