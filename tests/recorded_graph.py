"""A stand-in for CUDA graphs on a CPU: it records what is done to which tensors, and does it again.

Like a graph it knows tensors, not Python: what depends on anything else while it is recorded comes
out wrong when it is replayed. And it refuses what a graph cannot have: a look at a tensor's value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

LOOKS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
"""Operations that wait for a device and read from it."""

EMPTY = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
}


def storages(nest: Any) -> set[int]:
    parts = [part for part in tree_leaves(nest) if isinstance(part, Tensor)]
    return {part.untyped_storage()._cdata for part in parts if part.numel()}


def poison(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        tensor.data.fill_(torch.nan)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        assert func not in LOOKS, f"{func} reads a tensor's value while a graph is recorded"
        found = func(*args, **kwargs)
        known = storages((args, kwargs))
        new = [
            part
            for part in tree_leaves(found)
            if isinstance(part, Tensor) and part.numel() and not storages(part) & known
        ]

        def again() -> None:
            if func in EMPTY:
                for part in new:
                    poison(part)
                return
            result = [part for part in tree_leaves(func(*args, **kwargs))]
            fresh = [
                part
                for part in result
                if isinstance(part, Tensor) and part.numel() and not storages(part) & known
            ]
            for old, part in zip(new, fresh, strict=True):
                old.data.copy_(part)  # a replay does not change a tensor's version

        self.graph.tape.append(again)
        return found


_recording: list[RecordedGraph] = []


def recorded_launch(run: Callable[..., None]) -> Callable[..., None]:
    """Launches of Triton's interpreter: recorded as they are, not what the interpreter does."""

    def launch(*args: Any, **kwargs: Any) -> None:
        with _disable_current_modes():
            run(*args, **kwargs)
        for graph in _recording:
            graph.tape.append(lambda: run(*args, **kwargs))

    return launch


class RecordedGraph:
    """What `dnc_fast.engine.captures.CudaGraph` is, on a CPU."""

    calls: ClassVar[list[str]] = []
    """What was asked of all of them, in order."""

    current_stream: int | None = 0
    bytes = 0

    def __init__(self, device: torch.device, beside: RecordedGraph | None = None) -> None:
        assert device.type == "cpu"
        self.name = "forward" if beside is None else "backward"
        self.tape: list[Callable[[], None]] = []

    @classmethod
    def stream(cls, device: torch.device) -> int | None:
        return cls.current_stream

    @classmethod
    def settle(cls, device: torch.device) -> None:
        cls.calls.append("settle")

    def record(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        self.calls.append(f"record {self.name}")
        work()
        _recording.append(self)
        try:
            with _Recorder(self):
                results = work()
        finally:
            _recording.remove(self)
        for result in results:  # recording calculates nothing
            poison(result)
        return results

    def replay(self) -> None:
        self.calls.append(f"replay {self.name}")
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            for again in self.tape:
                again()
