"""What tests see of the engine and the kernels from inside: one way for each subject, all here.

Everything else that tests do goes through what users have. conftest.py makes the fixtures known.
"""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from recorded_graph import RecordedGraph, recorded_launch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dnc_fast.backends import choice
from dnc_fast.engine import captures, rehearsal
from dnc_fast.engine.cuda_graph import CudaGraph
from dnc_fast.engine.memory_tape import MemoryTape
from dnc_fast.engine.passes import Passes
from dnc_fast.engine.recording import Recording

# Backends


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Makes a package impossible to import; starts with no backend loaded and no warning given."""

    def remove(package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setattr(choice, "_found", {})

    monkeypatch.setattr(choice, "_found", {})
    choice._warn_once.cache_clear()
    yield remove
    choice._warn_once.cache_clear()


# The engine


def at_results(monkeypatch: pytest.MonkeyPatch, look: Callable[[Recording], Any]) -> None:
    """Call `look` with each forward pass of the engine when it has finished."""
    results = Recording.results

    def watched(recording: Recording) -> list[Tensor]:
        look(recording)
        return results(recording)

    monkeypatch.setattr(Recording, "results", watched)


@pytest.fixture
def engine_runs(monkeypatch: pytest.MonkeyPatch) -> list[Passes]:
    """What the engine ran."""
    runs: list[Passes] = []
    at_results(monkeypatch, lambda recording: runs.append(recording.passes))
    return runs


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """A rehearsal of each run of the engine that begins, to be called afterwards."""
    found: list[Callable[[], None]] = []
    begin = Recording.__init__

    def watched(recording: Recording, passes: Passes, given: tuple[Tensor, ...]) -> None:
        if passes.device.type != "meta":
            found.append(partial(rehearsal.rehearse, Recording, passes, given))
        begin(recording, passes, given)

    monkeypatch.setattr(Recording, "__init__", watched)
    return found


class Kept:
    """Weak references to what forward passes of the memory allocate."""

    def __init__(self) -> None:
        self.tapes: list[weakref.ref] = []
        self.matrices: list[weakref.ref] = []
        """One for each memory and its link matrix; those that were given are not among them."""

    def alive(self) -> tuple[int, int]:
        """How many tapes and matrices are still in memory."""
        both = self.tapes, self.matrices
        tapes, matrices = (sum(one() is not None for one in references) for references in both)
        return tapes, matrices


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """What the engine keeps, with the garbage collector off: only reference cycles would stay."""
    found, init, new = Kept(), MemoryTape.__init__, MemoryTape._new_matrices

    def record_tape(tape: MemoryTape, *args: Any, **options: Any) -> None:
        init(tape, *args, **options)
        found.tapes.append(weakref.ref(tape))

    def record_matrices(tape: MemoryTape, *args: Any) -> tuple[Tensor, Tensor]:
        pair = new(tape, *args)
        found.matrices.append(weakref.ref(pair[0]))
        return pair

    monkeypatch.setattr(MemoryTape, "__init__", record_tape)
    monkeypatch.setattr(MemoryTape, "_new_matrices", record_matrices)
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


# Recorded runs


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls made to graphs, in order, starting without captures; a CPU uses a stand-in."""
    graphs = {"cpu": RecordedGraph, "cuda": CudaGraph}
    monkeypatch.setattr(captures, "CAPTURES", captures.Captures(graphs))
    monkeypatch.setattr(RecordedGraph, "calls", [])
    return RecordedGraph.calls


def captures_held() -> int:
    return len(captures.CAPTURES)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets how many captures are held, such as `limits(MAX_CAPTURES=2)`."""

    def limit(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setattr(captures, name, value)

    return limit


@pytest.fixture
def recorded_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes launches in Triton's interpreter recordable."""
    launch = pytest.importorskip("dnc_fast.kernels.gpu.launch")
    monkeypatch.setattr(launch, "run", recorded_launch(launch.run))


# What a GPU is asked for


class Operations(TorchDispatchMode):
    """Collects the names of torch's operations that start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results, name = func._schema.returns, func._schema.name.removeprefix("aten::")
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in results)
        if not view and "empty" not in name and name != "_unsafe_view":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


# Threads of the CPU kernels


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many threads the kernels use, also for the smallest steps; torch keeps to one."""
    from dnc_fast.backends.cpu import fused

    def use(count: int) -> None:
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)
        monkeypatch.setattr(fused, "PARALLEL_FROM", 1)
        monkeypatch.setattr(fused, "PARALLEL_STEPS_FROM", 1)

    return use


@pytest.fixture(params=["torch's team", "pool"])
def every_team(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of either kind."""
    from dnc_fast.backends.cpu import thread_team

    if request.param == "pool":
        monkeypatch.setattr(thread_team, "_team", None)
    elif thread_team._team is None:
        pytest.skip("no GNU OpenMP in this torch")


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Into how many parts the work was split, each time."""
    from dnc_fast.backends.cpu import fused, thread_team

    counts: list[int] = []

    def record(ranges: list, function: Callable[..., None], *arguments: Any) -> None:
        counts.append(len(ranges))
        thread_team.run_ranges(ranges, function, *arguments)

    monkeypatch.setattr(fused, "run_ranges", record)
    return counts


# Tiles of the GPU kernels


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets sizes of tiles, such as `tiles(SMALL_CELLS=0)`: every memory is divided into tiles.

    Small tiles give many programs and blocks, as only large memories have.
    """
    from dnc_fast.kernels.gpu import launch

    def use(**sizes: Any) -> None:
        for name, size in sizes.items():
            monkeypatch.setattr(launch, name, size)

    return use
