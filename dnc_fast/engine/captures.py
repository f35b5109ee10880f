"""Runs captured as CUDA graphs and replayed, so that a GPU need not wait for launches.

A run is captured when its kind is seen for the second time: the same work (`Passes.key`) on tensors
of the same shapes and dtypes, on the same device and stream, with the same settings of torch. A
capture works on its own tensors: inputs are copied in and results are copied out, so weights and
states may be anywhere. From a forward pass to the end of its backward pass, a capture is in use;
another caller meanwhile gets a new one of the same kind.

Sequences of T steps are run in parts whose lengths are powers of two, with the state carried over
exactly, so that few captures serve every T.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .cuda_graph import CudaGraph, Graph
from .passes import Passes
from .recording import Recording

MAX_STEPS = 256
"""Steps in the longest part that is captured."""

MAX_CAPTURES = 32
"""Captures that are held at the same time."""

MAX_BYTES = 2 * 2**30
"""The memory that all captures together may hold, about."""

STALE_AFTER = 1000
"""After this many runs without use, a capture may be dropped to make room."""

MAX_SEEN = 1024
"""Kinds of runs that are remembered."""


def part_lengths(steps: int) -> list[int]:
    """Powers of two, at most `MAX_STEPS`, that add up to a number of steps, the longest first."""
    whole, rest = divmod(steps, MAX_STEPS)
    places = reversed(range(rest.bit_length()))
    return [MAX_STEPS] * whole + [1 << place for place in places if rest >> place & 1]


class Capture:
    """The captured forward and backward pass over a batch.

    Args:
        key: identifies its kind.
        passes: what to capture.
        given: inputs of the passes, for their shapes.
        graph: the class of graphs for the device.
        refuse: called if the backward pass cannot be captured.
    """

    def __init__(
        self,
        key: Any,
        passes: Passes,
        given: Sequence[Tensor],
        graph: type[Graph],
        refuse: Callable[[torch.device, RuntimeError], None],
    ) -> None:
        self.key = key
        self.device = passes.device
        self.bytes = passes.held_bytes
        self.taken = False
        self.last_use = 0
        self._graph_type, self._refuse = graph, refuse
        self._graph = graph(passes.device)
        self._recordings: list[Recording] = []  # the one that the graph fills
        with _plain_mode(passes.device):
            self._given = tuple(_empty_like(given))
            _copy(self._given, given)
            self._results = self._graph.record(lambda: self._forward(passes))
        self.bytes = max(self.bytes, self._graph.bytes)
        self._gradients: list[Tensor] = []
        self._backward_graph: Graph | None = None
        self._found: list[Tensor] = []

    def _forward(self, passes: Passes) -> list[Tensor]:
        self._recordings.clear()  # drop that of the warm-up call
        self._recordings.append(Recording(passes, self._given))
        return self._recordings[0].results()

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The results of the forward pass."""
        _copy(self._given, given)
        self._graph.replay()
        return _copies(self._results)

    def backward(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """`Recording.backward`, any number of times after `forward`."""
        with _plain_mode(self.device):
            self._gradients = self._gradients or _empty_like(self._results)
            for own, gradient in zip(self._gradients, gradients, strict=True):
                own.zero_() if gradient is None else own.copy_(gradient)
            if self._backward_graph is None:
                self._backward_graph = self._record_backward()
        if not self._found:
            return self._recordings[0].backward(tuple(self._gradients))
        self._backward_graph.replay()
        return _copies(self._found)

    def _record_backward(self) -> Graph:
        back = self._graph_type(self.device, beside=self._graph)
        gradients = tuple(self._gradients)
        try:
            self._found = back.record(lambda: self._recordings[0].backward(gradients))
        except RuntimeError as error:
            self._refuse(self.device, error)
        self.bytes = max(self.bytes, self._graph.bytes + back.bytes)
        return back


class Replay:
    """A run that replays a capture, and releases it after the backward pass or when dropped.

    Args:
        capture: marked as taken.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The results of the forward pass."""
        return self._capture.forward(given)

    def backward(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """`Recording.backward`, once."""
        return self._capture.backward(gradients)

    def __del__(self) -> None:
        self._capture.taken = False


class Captures:
    """All captures of a process, of all models.

    Args:
        graphs: graph class, by type of device.
    """

    def __init__(self, graphs: dict[str, type[Graph]]) -> None:
        self._graphs = graphs
        self._captures: list[Capture] = []
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self._refusing: set[torch.device] = set()
        self._runs = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._captures)

    def records_on(self, device: torch.device) -> bool:
        """Whether anything is captured on a device."""
        return device.type in self._graphs and device not in self._refusing

    def can_take(self, whole: Passes, parts: Sequence[Passes]) -> bool:
        """Whether passes can be captured in these parts.

        Needs sequences of one length, no random numbers, and room for all parts at once.
        """
        sizes = whole.layout.batch_sizes
        return (
            self.records_on(whole.device)
            and whole.is_fused
            and sizes[0] == sizes[-1]
            and sum(part.held_bytes for part in parts) <= MAX_BYTES
            and self._graphs[whole.device.type].stream(whole.device) is not None
        )

    def take(self, passes: Passes, given: Sequence[Tensor]) -> Replay | None:
        """A replay of passes; None if they have to run without one.

        Args:
            passes: what to run.
            given: their inputs.
        """
        stream = self._graphs[passes.device.type].stream(passes.device)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in given)
        key = (passes.key, passes.device, stream, shapes, _settings())
        with self._lock:
            self._runs += 1
            free = (one for one in self._captures if one.key == key and not one.taken)
            capture = next(free, None) or self._record(key, passes, given)
            if capture is None:
                return None
            capture.taken = True
            capture.last_use = self._runs
        return Replay(capture)

    def release(self) -> None:
        """Drop all captures that are not in use, and free their memory."""
        with self._lock:
            self._drop([capture for capture in self._captures if not capture.taken])

    def refuse(self, device: torch.device, error: RuntimeError) -> None:
        """Capture nothing more on a device, and warn why."""
        self._refusing.add(device)
        warnings.warn(
            "the steps of a DNC could not be recorded as a CUDA graph and are launched one by one: "
            f"{error.__context__ or error}; cuda_graphs=False does that from the start",
            stacklevel=2,
        )

    def _record(self, key: Any, passes: Passes, given: Sequence[Tensor]) -> Capture | None:
        """A new capture; None if its kind is new, cannot be captured, or has no room."""
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return None
        if not self._make_room(passes.held_bytes):
            return None
        try:
            capture = Capture(key, passes, given, self._graphs[passes.device.type], self.refuse)
        except RuntimeError as error:
            self.refuse(passes.device, error)
            return None
        self._captures.append(capture)
        return capture

    def _make_room(self, size: int) -> bool:
        """Drop stale captures, least recently used first, until there is room; returns whether."""

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
        """Drop captures, and free their memory once the device has finished with it."""
        devices = {capture.device for capture in captures}
        for device in devices:
            self._graphs[device.type].settle(device)
        self._captures = [capture for capture in self._captures if capture not in captures]
        captures.clear()
        for device in devices:
            self._graphs[device.type].settle(device)


CAPTURES = Captures({"cuda": CudaGraph})
"""The captures of this process."""


def release_cuda_graphs() -> None:
    """Free the memory of all captured CUDA graphs; they are captured again when needed.

    Graphs of a forward pass whose backward pass is still to come stay.
    """
    CAPTURES.release()


def _settings() -> tuple[Any, ...]:
    """Settings that decide which kernels torch uses."""
    products: Any = torch.backends.cuda.matmul
    library = getattr(torch.backends.cuda, "preferred_blas_library", None)
    return (
        getattr(products, "fp32_precision", None) or products.allow_tf32,  # the latter before 2.9
        products.allow_fp16_reduced_precision_reduction,
        products.allow_bf16_reduced_precision_reduction,
        getattr(products, "allow_fp16_accumulation", None),
        library and library(),
        torch.are_deterministic_algorithms_enabled(),
    )


@contextmanager
def _plain_mode(device: torch.device) -> Iterator[None]:
    """Disable inference mode, gradients and autocast, whatever the caller has enabled."""
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def _empty_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Empty contiguous tensors of the same shapes."""
    return [torch.empty_like(one, memory_format=torch.contiguous_format) for one in tensors]


def _copy(own: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    with torch.no_grad():
        torch._foreach_copy_(list(own), [tensor.detach() for tensor in given])


def _copies(results: Sequence[Tensor]) -> list[Tensor]:
    found = _empty_like(results)
    _copy(found, results)
    return found
