"""Runs recorded once as CUDA graphs and replayed: a GPU need not wait for their launches.

A run is recorded when its like is seen for the second time: the same work (`Passes.key`) on tensors
of the same shapes and dtypes, on the same device and stream, under the same settings of torch. What
is recorded works on tensors of its own, so what is given is copied in and results are copied out;
weights and states may lie anywhere. Between a forward pass and its backward pass a capture is
taken; meanwhile another of its kind is recorded for whoever needs one.

Sequences of T steps are taken in parts whose lengths are powers of two, with the state carried over
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


class Capture:
    """The passes over a batch, forward and backward recorded.

    Args:
        key: of its kind.
        passes: what is recorded.
        given: as the passes take them, for their shapes.
        graph: what records.
        refuse: told where the backward pass cannot be recorded.
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
        self._recordings: list[Recording] = []  # the last is the one that the graph fills
        with _plainly(passes.device):
            self._given = tuple(_own(given))
            _copy(self._given, given)
            self._results = self._graph.record(lambda: self._forward(passes))
        self.bytes = max(self.bytes, self._graph.bytes)
        self._gradients: list[Tensor] = []
        self._back: Graph | None = None
        self._found: list[Tensor] = []

    def _forward(self, passes: Passes) -> list[Tensor]:
        self._recordings.clear()  # of the time before, that is thrown away
        self._recordings.append(Recording(passes, self._given))
        return self._recordings[0].results()

    def forward(self, given: Sequence[Tensor]) -> list[Tensor]:
        """The results of the forward pass."""
        _copy(self._given, given)
        self._graph.replay()
        return _copies(self._results)

    def backward(self, gradients: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """`Recording.backward`, any number of times after `forward`."""
        with _plainly(self.device):
            self._gradients = self._gradients or _own(self._results)
            for own, gradient in zip(self._gradients, gradients, strict=True):
                own.zero_() if gradient is None else own.copy_(gradient)
            if self._back is None:
                self._back = self._record_back()
        if not self._found:
            return self._recordings[0].backward(tuple(self._gradients))
        self._back.replay()
        return _copies(self._found)

    def _record_back(self) -> Graph:
        back = self._graph_type(self.device, beside=self._graph)
        gradients = tuple(self._gradients)
        try:
            self._found = back.record(lambda: self._recordings[0].backward(gradients))
        except RuntimeError as error:
            self._refuse(self.device, error)
        self.bytes = max(self.bytes, self._graph.bytes + back.bytes)
        return back


class Replay:
    """A run by way of a capture, which it gives back after the backward pass, or when dropped.

    Args:
        capture: taken.
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
        graphs: what records, by type of device.
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
        """Whether anything is recorded on a device."""
        return device.type in self._graphs and device not in self._refusing

    def can_take(self, whole: Passes, parts: Sequence[Passes]) -> bool:
        """Whether captures can take passes in these parts.

        All sequences must be of one length, no random numbers be drawn, all parts fit at a time.
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
        """A replay of passes; None where they are to be run as they are.

        Args:
            passes: what is done.
            given: what they will be given.
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
        """Drop all captures that are not taken, and with them their memory."""
        with self._lock:
            self._drop([capture for capture in self._captures if not capture.taken])

    def refuse(self, device: torch.device, error: RuntimeError) -> None:
        """Record nothing more on a device, and tell why."""
        self._refusing.add(device)
        warnings.warn(
            "the steps of a DNC could not be recorded as a CUDA graph and are launched one by one: "
            f"{error.__context__ or error}; cuda_graphs=False does so from the start",
            stacklevel=2,
        )

    def _record(self, key: Any, passes: Passes, given: Sequence[Tensor]) -> Capture | None:
        """A new capture; None for what is new itself, cannot be recorded, or finds no room."""
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
            self._graphs[device.type].settle(device)
        self._captures = [capture for capture in self._captures if capture not in captures]
        captures.clear()
        for device in devices:
            self._graphs[device.type].settle(device)


CAPTURES = Captures({"cuda": CudaGraph})
"""Those of this process."""


def release_cuda_graphs() -> None:
    """Free the memory of all captured CUDA graphs; those that are needed again are captured again.

    Those of a forward pass whose backward pass is still to come stay.
    """
    CAPTURES.release()


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
