"""How much a GPU is asked to launch for each time step of training, seen from outside.

Two runs of different lengths are counted: operations of torch that start a kernel, and launches of
Triton kernels. What the longer one has more, divided by its further steps, is what a step takes.
Tensors are on "meta": nothing is calculated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from inside import Operations

from dnc_fast import DNC

launch = pytest.importorskip("dnc_fast.kernels.gpu.launch", reason="needs Triton")

SHORT, LONG = 3, 6
"""Steps."""

LAUNCHES = {
    # B, N, W, R: forward, backward
    (16, 64, 32, 4): (4, 4),
    (8, 16, 16, 1): (3, 4),
    (32, 256, 64, 4): (7, 7),
    (8, 1024, 64, 4): (7, 7),
    (1, 4096, 64, 4): (7, 8),
}
"""What a time step takes at most, with an LSTM of one layer and every link matrix kept."""


EVERYTHING: dict[str, Any] = {
    **{"masked_lookup": True, "deallocate": True, "link_sharpness": True},
    **{"similarity": "manhattan", "allocation": "softmax"},
}
"""All variants of the memory step at once."""

OFFICIAL: dict[str, Any] = {"strengths": "softplus", "usage_gradient": False}
"""What models of the official code need."""


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
    """Of a run with some steps, forward and backward."""
    model, x = model_and_input(sizes, steps, **options)
    forward, (output, _) = counted(lambda: model(x))
    backward, _ = counted(output.sum().backward)
    return Counts(forward, backward)


def inference(sizes: tuple[int, int, int, int], steps: int) -> list[str]:
    """Of a run with some steps."""
    model, x = model_and_input(sizes, steps)
    return counted(lambda: model(x))[0]


def model_and_input(
    sizes: tuple[int, int, int, int], steps: int, **options: Any
) -> tuple[DNC, torch.Tensor]:
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
    return model, torch.empty(steps, B, 8, device="meta")


@pytest.fixture(autouse=True)
def _meta_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", minversion="3.6")
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


@pytest.mark.parametrize(
    ("options", "forward", "backward"),
    [
        ({"controller": "gru", "num_layers": 2}, 5, 6),
        ({"num_layers": 3}, 6, 8),
        ({"controller": "rnn"}, 4, 4),
        ({"controller": "feedforward"}, 4, 4),
    ],
    ids=str,
)
def test_a_layer_takes_one_launch_forward_and_two_backward(
    options: dict[str, Any], forward: int, backward: int
) -> None:
    few, many = (training_step((16, 64, 32, 4), steps, **options) for steps in (SHORT, LONG))
    more = [len(long) - len(short) for short, long in zip(few, many, strict=True)]
    assert more == [forward * (LONG - SHORT), backward * (LONG - SHORT)], many


@pytest.mark.parametrize(
    ("options", "forward", "backward"),
    [
        ({"similarity": "euclidean"}, 4, 4),
        ({"allocation": "softmax"}, 4, 4),
        ({"masked_lookup": True}, 4, 4),
        ({"deallocate": True}, 4, 4),
        ({"link_sharpness": True}, 4, 4),
        ({"strengths": "softplus"}, 4, 4),
        ({"usage_gradient": False}, 4, 4),
        (OFFICIAL, 4, 4),
        (OFFICIAL | {"value_clip": 20.0}, 4, 4),
        (EVERYTHING, 4, 4),
        ({"interface_norm": True}, 9, 12),
        ({"controller": "layer_norm_lstm"}, 16, 30),
        ({"bidirectional_controller": True}, 10, 10),
        ({"bypass_dropout": 0.1}, 4, 4),
    ],
    ids=lambda given: ",".join(given) if isinstance(given, dict) else None,
)
def test_what_variants_launch_at_most(options: dict[str, Any], forward: int, backward: int) -> None:
    """As docs/variants.md has it."""
    few, many = (training_step((16, 64, 32, 4), steps, **options) for steps in (SHORT, LONG))
    for short, long, most in zip(few, many, (forward, backward), strict=True):
        assert 0 < len(long) - len(short) <= most * (LONG - SHORT)


@pytest.mark.parametrize(("N", "forward", "backward"), [(256, 7, 7), (1024, 8, 7), (4096, 8, 8)])
def test_what_all_variants_launch_in_large_memories(N: int, forward: int, backward: int) -> None:
    """One more in each direction than the paper's, where links are sharpened; smooth allocation
    takes one less for many cells."""
    few, many = (training_step((1, N, 64, 4), steps, **EVERYTHING) for steps in (SHORT, LONG))
    more = [len(long) - len(short) for short, long in zip(few, many, strict=True)]
    assert more == [forward * (LONG - SHORT), backward * (LONG - SHORT)], many


def test_a_step_without_gradients() -> None:
    with torch.no_grad():
        few, many = (inference((16, 64, 32, 4), steps) for steps in (SHORT, LONG))
    assert len(many) - len(few) == 4 * (LONG - SHORT), many
