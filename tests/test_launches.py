"""How much a GPU is asked to launch for each time step of training, seen from outside.

Two runs of different lengths are counted: operations of torch that start a kernel, and launches of
Triton kernels. What the longer one has more, divided by its further steps, is what a step takes.
Tensors are on "meta": nothing is calculated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnc_fast import DNC

launch = pytest.importorskip("dnc_fast.kernels.gpu.launch", reason="needs Triton")

SHORT, LONG = 3, 6
"""Steps."""

LAUNCHES = {
    # B, N, W, R: forward, backward
    (16, 64, 32, 4): (5, 6),
    (8, 16, 16, 1): (5, 6),
    (32, 256, 64, 4): (10, 12),
    (8, 1024, 64, 4): (10, 12),
}
"""What a time step takes at most, with an LSTM of one layer and every link matrix kept."""


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


class Counts(NamedTuple):
    """Names of what was launched."""

    forward: list[str]
    backward: list[str]


def counted(work: Any) -> tuple[list[str], Any]:
    """What a function launches, and what it returns."""
    with Operations() as operations, launch.recorded() as launches:
        found = work()
    return operations.names + [one.kernel.fn.__name__ for one in launches], found


def training_step(sizes: tuple[int, int, int, int], steps: int, **options: Any) -> Counts:
    B, N, W, R = sizes
    model = DNC(
        8,
        128,
        num_cells=N,
        cell_size=W,
        num_read_heads=R,
        backend="triton",
        checkpoint_interval=1,
        cuda_graphs=False,
        device="meta",
        **options,
    )
    x = torch.empty(steps, B, 8, device="meta")
    forward, (output, _) = counted(lambda: model(x))
    backward, _ = counted(output.sum().backward)
    return Counts(forward, backward)


@pytest.fixture(autouse=True)
def _meta_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from dnc_fast.backends.triton.backend import TritonBackend

    monkeypatch.setattr(TritonBackend, "problem", lambda *_: None)


@pytest.mark.parametrize("sizes", LAUNCHES, ids=str)
def test_launches_of_a_time_step(sizes: tuple[int, int, int, int]) -> None:
    few, many = (training_step(sizes, steps) for steps in (SHORT, LONG))
    for direction, most in zip(Counts._fields, LAUNCHES[sizes], strict=True):
        short, long = getattr(few, direction), getattr(many, direction)
        more = len(long) - len(short)
        assert more <= most * (LONG - SHORT), (direction, more / (LONG - SHORT), long)
        assert more > 0, direction
