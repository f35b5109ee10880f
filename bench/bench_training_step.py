"""One training step beside the PyPI package `dnc`: `pytest bench/bench_training_step.py`.

B=16, T=64, N=64, W=32, R=4, H=128, X=16, two threads: forward, squared mean as the loss, backward.
The package feeds every step the read vectors of the initial state instead of r_{t-1}, so it does
less work than it should, and its outputs cannot be compared with ours, only its time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dnc_fast import DNC

B, T, N, W, R, H, X = 16, 64, 64, 32, 4, 128, 16


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inputs(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T, B, X, generator=generator, dtype=torch.float64).to(dtype)


def training_step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    output = model(x, None)[0]
    output.square().mean().backward()
    return output


def ours(usage_order: str) -> DNC:
    torch.manual_seed(0)
    return DNC(X, H, num_cells=N, cell_size=W, num_read_heads=R, usage_order=usage_order)


def relative_error(value: torch.Tensor, true: torch.Tensor) -> float:
    """Root mean square of the difference over that of the true values."""
    return ((value.double() - true).norm() / true.norm()).item()


def check_against_float64() -> None:
    """Outputs and gradients of a float32 step against float64, or no time is taken.

    From the zero state the exact order may flip between precisions, so the robust order is used.
    """
    single, double = ours("robust"), ours("robust").double()
    output = training_step(single, inputs())
    true = training_step(double, inputs(torch.float64))
    assert relative_error(output, true) < 1e-5
    for (name, value), parameter in zip(
        single.named_parameters(), double.parameters(), strict=True
    ):
        # The gradient gathers rounding over T steps; 1e-3 is far below any wrong term.
        assert relative_error(value.grad, parameter.grad) < 1e-3, name


def test_dnc_fast_reference(benchmark: pytest.FixtureRequest) -> None:
    check_against_float64()
    benchmark.pedantic(training_step, (ours("exact"), inputs()), rounds=20, warmup_rounds=2)


def test_pypi_dnc(benchmark: pytest.FixtureRequest) -> None:
    peer = pytest.importorskip("dnc", reason="pip install dnc==1.1.0")
    torch.manual_seed(0)
    model = peer.DNC(
        X, H, rnn_type="lstm", nr_cells=N, cell_size=W, read_heads=R, batch_first=False, gpu_id=-1
    )
    benchmark.pedantic(training_step, (model, inputs()), rounds=20, warmup_rounds=2)
