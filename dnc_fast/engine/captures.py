"""Runs captured as CUDA graphs and replayed, so that a GPU need not wait for launches.

A run is captured when its kind is seen for the second time: the same work (`Kind`) on tensors of
the same shapes and dtypes, on the same device and stream, with the same settings of torch. A
capture works on its own tensors: inputs and parameters are copied in and results are copied out,
all at once, so weights and states may be anywhere, and models of the same sizes share captures.
(Reading parameters where they lie would save little of that one copy, and each model would need
captures of its own.) A state of zeros is part of the capture. From a forward pass to the end of
its backward pass, a capture is in use; another caller meanwhile gets a new one of the same kind.

**Lengths.** A sequence of up to `MAX_STEPS` steps is captured as a whole: one graph each way
whatever T, with the bits of a launched run. Padding would need steps that do nothing, in every
kernel, and chains of short captures as many launches, copies and gradients carried over as links.
What it costs is a capture for each T that occurs; so only kinds that take little of what captures
may hold are treated so (`SHARE_OF_ONE`), and larger ones, whose steps keep a GPU busy for longer
than the launch of a graph takes, run in parts whose lengths are powers of two, as does all that
is left over of longer sequences. The choice depends on sizes and the device alone, since weight
gradients that are summed over parts are rounded differently.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from typing import Any

import torch

from .capture import Capture, Given, Kind, Replay, Work, is_out_of_memory
from .card import total_bytes
from .cuda_graph import CudaGraph, Graph

MAX_STEPS = 256
"""Steps in the longest part that is captured."""

MAX_CAPTURES = 512
"""Captures that are held at the same time."""

MAX_BYTES = 2 * 2**30
"""The memory that all captures of a device together may hold, about, if its size is unknown."""

SHARE_OF_CARD = 3
"""On a GPU they may hold one part in this many of its memory: more than the matrices of one run may
take if all are kept (`SHARE_OF_FREE`), so that such a run can be captured."""

SHARE_OF_ONE = 64
"""A capture of a length that is no power of two may take one part in this many of that."""

STALE_AFTER = 200
"""After this many runs without use, a capture may be dropped to make room."""

MAX_SEEN = 4096
"""Kinds of runs that are remembered."""


def part_lengths(steps: int, whole: bool = True) -> list[int]:
    """The lengths of the parts in which a number of steps is captured, the longest first.

    Args:
        steps: their number.
        whole: whether up to `MAX_STEPS` are one part. Otherwise, and of what is left over of more,
            lengths are powers of two.
    """
    if whole and steps <= MAX_STEPS:
        return [steps]
    count, rest = divmod(steps, MAX_STEPS)
    places = reversed(range(rest.bit_length()))
    return [MAX_STEPS] * count + [1 << place for place in places if rest >> place & 1]


def max_bytes(device: torch.device) -> int:
    """The memory that all captures of a device together may hold, about."""
    total = total_bytes(device)
    return MAX_BYTES if total is None else total // SHARE_OF_CARD


class Captures:
    """All captures of a process, of all models.

    Args:
        graphs: graph class, by type of device.
    """

    def __init__(self, graphs: dict[str, type[Graph]]) -> None:
        self._graphs = graphs
        self._captures: dict[Kind, list[Capture]] = {}
        self._seen: OrderedDict[Kind, None] = OrderedDict()
        self._parts: dict[tuple[Work, int], list[int] | None] = {}
        self._refusing: set[torch.device] = set()
        self._too_large: set[Kind] = set()  # there was less memory than thought
        self._runs = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> list[Capture]:
        return [capture for captures in self._captures.values() for capture in captures]

    def stream(self, device: torch.device) -> int | None:
        """The stream on which a run is captured or replayed; None if it has to be launched."""
        graph = self._graphs.get(device.type)
        if graph is None or device in self._refusing:
            return None
        return graph.stream(device)

    def parts(self, work: Work, steps: int, given: Given) -> list[int] | None:
        """The lengths of the parts in which a run can be captured; None if it cannot.

        There must be room for all parts at once.
        """
        key = work, steps
        try:
            return self._parts[key]
        except KeyError:
            pass
        limit = max_bytes(work.device)
        whole = steps > MAX_STEPS or given.passes(steps).held_bytes <= limit // SHARE_OF_ONE
        lengths = part_lengths(steps, whole)
        held = sum(given.passes(length).held_bytes for length in lengths)
        found = lengths if held <= limit else None
        if len(self._parts) >= MAX_SEEN:
            self._parts.clear()
        self._parts[key] = found
        return found

    def take(self, work: Work, steps: int, given: Given) -> Replay | None:
        """A replay of a run; None if it has to run without one."""
        kind = Kind(
            work,
            steps,
            tuple([work.keep and one.requires_grad for one in given.inputs[: given.leaves]]),
            tuple([(one.shape, one.dtype) for one in given.inputs]),
            _settings(),
        )
        with self._lock:
            self._runs += 1
            free = (one for one in self._captures.get(kind, ()) if not one.taken)
            capture = next(free, None) or self._record(kind, given)
            if capture is None:
                return None
            capture.taken = True
            capture.last_use = self._runs
        return Replay(capture)

    def release(self) -> None:
        """Drop all captures that are not in use, and free their memory."""
        with self._lock:
            self._drop([capture for capture in self._all() if not capture.taken])

    def refuse(self, device: torch.device, error: RuntimeError) -> None:
        """Capture nothing more on a device, and warn why."""
        self._refusing.add(device)
        warnings.warn(
            "the steps of a DNC could not be recorded as a CUDA graph and are launched one by one: "
            f"{error.__context__ or error}; cuda_graphs=False does that from the start",
            stacklevel=2,
        )

    def _record(self, kind: Kind, given: Given) -> Capture | None:
        """A new capture; None if its kind is new, cannot be captured, or has no room."""
        if kind not in self._seen:
            self._seen[kind] = None
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
            return None
        if kind in self._too_large:
            return None
        device, passes = kind.work.device, given.passes(kind.steps)
        if not self._make_room(device, passes.held_bytes):
            return None
        try:
            capture = Capture(kind, passes, given, self._graphs[device.type], self.refuse)
        except RuntimeError as error:
            if is_out_of_memory(error):
                self._too_large.add(kind)
            else:
                self.refuse(device, error)
            return None
        self._captures.setdefault(kind, []).append(capture)
        return capture

    def _make_room(self, device: torch.device, size: int) -> bool:
        """Drop stale captures, least recently used first, until there is room; returns whether."""
        limit = max_bytes(device)

        def full() -> bool:
            captures = self._all()
            held = sum(capture.bytes for capture in captures if capture.device == device)
            return len(captures) >= MAX_CAPTURES or held + size > limit

        for capture in sorted(self._all(), key=lambda capture: capture.last_use):
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
        kept = {
            kind: [capture for capture in held if capture not in captures]
            for kind, held in self._captures.items()
        }
        self._captures = {kind: held for kind, held in kept.items() if held}
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
