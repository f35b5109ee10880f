"""Training steps beside the PyPI package `dnc` and torch.compile.

`pytest bench/bench_training_step.py`

Forward, squared mean of the outputs as the loss, backward, with torch's two threads. Before a time
of ours is taken, outputs and all gradients are compared with float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from dnc_fast import DNC

from .sizes import SIZES, Size, peer_model

ROUNDS = 9


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def inputs(size: Size, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size.T, size.B, size.X, generator=generator, dtype=torch.float64)
    return x.to(dtype)


def training_step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    output = model(x, None)[0]
    output.square().mean().backward()
    return output


def ours(size: Size, backend: str, usage_order: str = "exact") -> DNC:
    torch.manual_seed(0)
    return DNC(
        size.X,
        size.H,
        num_cells=size.N,
        cell_size=size.W,
        num_read_heads=size.R,
        usage_order=usage_order,
        backend=backend,
    )


def relative_error(value: torch.Tensor, true: torch.Tensor) -> float:
    """Root mean square of the difference over that of the true values."""
    return ((value.double() - true).norm() / true.norm()).item()


def check_against_float64(size: Size, backend: str) -> None:
    """Outputs and gradients of the first 16 steps in float32, against the reference in float64.

    From the zero state the exact order can flip between precisions, so the robust one is taken.
    """
    size = size._replace(T=min(size.T, 16), B=min(size.B, 2))
    single = ours(size, backend, "robust")
    double = ours(size, "reference", "robust").double()
    output = training_step(single, inputs(size))
    true = training_step(double, inputs(size, torch.float64))
    assert relative_error(output, true) < 1e-5
    for (name, value), parameter in zip(
        single.named_parameters(), double.parameters(), strict=True
    ):
        # Gradients gather rounding over the steps; a wrong term would be of the order of 1.
        assert relative_error(value.grad, parameter.grad) < 1e-3, name


def compiled_reference(size: Size) -> DNC:
    """The reference with its step compiled by torch.compile."""
    model = ours(size, "reference")
    model.cell.step = torch.compile(model.cell.step)  # type: ignore[method-assign]
    return model


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("provider", ["cpu", "eager", "reference", "torch.compile", "dnc"])
def test_training_step(benchmark: Any, provider: str, name: str) -> None:
    size = SIZES[name]
    benchmark.group = f"{name} {' '.join(f'{k}={v}' for k, v in size._asdict().items())}"
    if provider == "dnc":
        model: nn.Module = pytest.importorskip("dnc", reason="pip install dnc==1.1.0") and (
            peer_model(size)
        )
    elif provider == "torch.compile":
        model = compiled_reference(size)
    else:
        check_against_float64(size, provider)
        model = ours(size, provider)
    benchmark.pedantic(training_step, (model, inputs(size)), rounds=ROUNDS, warmup_rounds=2)
