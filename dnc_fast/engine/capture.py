"""One run as CUDA graphs: what determines it, what it is given, its forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..state import MemorySizes, tensors
from .cuda_graph import Graph
from .from_inputs import (
    RecordingFromInputs,
    plain_mode,
    with_parameters,
)
from .interface_layer import InterfaceForm
from .passes import Passes
from .plan import Plan, Start


class Work(NamedTuple):
    """What determines the work of a run, except dtypes and shapes of its inputs and parameters.

    | field      | what                                                                       |
    |------------|----------------------------------------------------------------------------|
    | plan       | how to run                                                                 |
    | controller | `Layers.key`                                                               |
    | sizes      | of the memory                                                              |
    | keep       | whether a backward pass may follow                                         |
    | device     | where                                                                      |
    | stream     | on which it is replayed                                                    |
    | interface  | which tensors the interface layer has                                      |
    """

    plan: Plan
    controller: Any
    sizes: MemorySizes
    keep: bool
    device: torch.device
    stream: int
    interface: InterfaceForm


class Kind(NamedTuple):
    """What determines a capture.

    | field    | what                                                                         |
    |----------|------------------------------------------------------------------------------|
    | work     | what is run                                                                  |
    | steps    | T                                                                            |
    | wanted   | see `RecordingFromInputs`                                                    |
    | shapes   | of all inputs, and their dtypes                                              |
    | settings | of torch                                                                     |
    """

    work: Work
    steps: int
    wanted: tuple[bool, ...]
    shapes: tuple[Any, ...]
    settings: tuple[Any, ...]


class Given(NamedTuple):
    """The tensors of a run, and what makes passes over it.

    | field      | what                                                                       |
    |------------|----------------------------------------------------------------------------|
    | inputs     | x, the controller's parameters, tensors of the interface layer, and of the |
    |            | state unless it is all zeros                                               |
    | leaves     | the number of the first two                                                |
    | controller | the module                                                                 |
    | start      | the state                                                                  |
    | passes     | makes the passes over so many steps                                        |
    """

    inputs: list[Tensor]
    leaves: int
    controller: Any
    start: Start
    passes: Callable[[int], Passes]


class _Results(list[Tensor]):
    """The results of a recording, which they keep: that of a warm-up goes with its results.

    So its memory is free before the next call is recorded, while nothing can be freed.
    """

    def __init__(self, recording: RecordingFromInputs) -> None:
        super().__init__(one.contiguous() for one in recording.results())
        self.recording = recording


class Capture:
    """The captured forward and backward pass over a batch.

    Args:
        kind: which it is.
        given: what to capture.
        graph: the class of graphs for the device.
        refuse: called if the backward pass cannot be captured.
    """

    def __init__(
        self,
        kind: Kind,
        passes: Passes,
        given: Given,
        graph: type[Graph],
        refuse: Callable[[torch.device, RuntimeError], None],
    ) -> None:
        self.kind, self.passes = kind, passes
        self.device = passes.device
        self.bytes = passes.held_bytes
        self.taken = False
        self.last_use = 0
        self._graph_type, self._refuse = graph, refuse
        self._graph = graph(passes.device)
        with plain_mode(passes.device):
            contiguous = torch.contiguous_format
            self._own = [torch.empty_like(one, memory_format=contiguous) for one in given.inputs]
            _copy(self._own, given.inputs)
            start = given.start
            self._zeros = list(tensors(start.zeros())) if start.state is None else []
            self._controller = with_parameters(given.controller, self._own[1 : given.leaves])
            self._results = self._graph.record(self._forward)
            assert isinstance(self._results, _Results)
            self._recording = self._results.recording
        self.bytes = max(self.bytes, self._graph.bytes)
        self._gradients: list[Tensor] = []
        self._filled = [False] * len(self._results)
        self._backward_graph: Graph | None = None
        self._found: dict[int, Tensor] = {}  # by place among the inputs, then the zeros

    def _forward(self) -> _Results:
        given, wanted = [*self._own, *self._zeros], self.kind.wanted
        return _Results(RecordingFromInputs(self.passes, self._controller, given, wanted))

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The results of the forward pass."""
        _copy(self._own, inputs)
        self._graph.replay()
        return _copies(self._results)

    def backward(
        self, gradients: Sequence[Tensor | None], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """`RecordingFromInputs.backward`, any number of times after `forward`.

        Args:
            gradients: of the results; None means zeros.
            needed: of which inputs gradients are needed; None is returned for the others.
        """
        if self._backward_graph is None:
            with plain_mode(self.device):
                self._gradients = [torch.zeros_like(one) for one in self._results]
                self._fill(gradients)
                self._backward_graph = self._record_backward()
        else:
            self._fill(gradients)
        if not self._found:  # it could not be recorded
            with plain_mode(self.device):
                return self._recording.backward(tuple(self._gradients))[: len(needed)]
        self._backward_graph.replay()
        places = [place for place in self._found if place < len(needed) and needed[place]]
        found: list[Tensor | None] = [None] * len(needed)
        for place, copy in zip(places, _copies([self._found[p] for p in places]), strict=True):
            found[place] = copy
        return found

    def _fill(self, gradients: Sequence[Tensor | None]) -> None:
        """Copy what is given, and zero what was given the last time only."""
        given = [one is not None for one in gradients]
        for own, is_given, was_given in zip(self._gradients, given, self._filled, strict=True):
            if was_given and not is_given:
                own.zero_()
        self._filled = given
        _copy(list(compress(self._gradients, given)), [one for one in gradients if one is not None])

    def _record_backward(self) -> Graph:
        back = self._graph_type(self.device, beside=self._graph)
        gradients = tuple(self._gradients)
        places: list[int] = []

        def work() -> list[Tensor]:
            found = self._recording.backward(gradients)
            places[:] = [place for place, one in enumerate(found) if one is not None]
            return [one.contiguous() for one in found if one is not None]

        try:
            found = back.record(work)
            self._found = dict(zip(places, found, strict=True))
        except RuntimeError as error:
            if not is_out_of_memory(error):
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
        self.kind, self.passes = capture.kind, capture.passes
        self.forward, self.backward = capture.forward, capture.backward

    def __del__(self) -> None:
        self._capture.taken = False


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether that is why something could not be recorded, and another recording may succeed."""
    return any(isinstance(one, torch.OutOfMemoryError) for one in (error, error.__context__))


def _copy(own: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    """Copy tensors with one launch for each dtype, if none of those that are given is strided."""
    with torch.no_grad():
        for dtype in {one.dtype for one in own}:
            same = [one.dtype == dtype for one in own]
            torch._foreach_copy_(list(compress(own, same)), list(compress(given, same)))


def _copies(results: list[Tensor]) -> list[Tensor]:
    """Copies, all made by one call: times one, which changes no bit."""
    with torch.no_grad():
        return list(torch._foreach_mul(results, 1.0))
