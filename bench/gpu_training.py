"""Time and peak memory of a training step on a GPU: `python -m bench.gpu_training SIZE PROVIDER`.

Forward, squared mean of the outputs as the loss, backward. Ours are compared with float64 first.
One line of JSON; `python -m bench.gpu` runs all of them, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import nn

from dnc_fast import DNC

from .gpu_kernels import seconds
from .provenance import provenance
from .sizes import Size, peer_model

SIZES = {
    "g1": Size(16, 64, 64, 32, 4, 128, 64),
    "g2": Size(32, 64, 256, 64, 4, 256, 64),
    "g3": Size(8, 64, 1024, 64, 4, 256, 64),
    "g4": Size(1, 64, 4096, 64, 4, 256, 64),
    "g5": Size(1, 32, 16384, 64, 4, 256, 64),
}
OURS = ("triton", "eager", "reference")
PROVIDERS = (*OURS, "torch.compile", "dnc", "lstm")


def ours(size: Size, backend: str, device: torch.device, usage_order: str = "exact") -> DNC:
    torch.manual_seed(0)
    return DNC(
        size.X, size.H, num_cells=size.N, cell_size=size.W, num_read_heads=size.R,
        usage_order=usage_order, backend=backend, device=device,
    )  # fmt: skip


def build(provider: str, size: Size, device: torch.device) -> nn.Module:
    """The model of a provider; `lstm` is torch's own, the floor without any memory."""
    if provider == "dnc":
        model = peer_model(size, 0 if device.type == "cuda" else -1)
        return model.to(device)
    if provider == "lstm":
        return nn.LSTM(size.X, size.H, device=device)
    if provider == "torch.compile":
        model = ours(size, "reference", device)
        model.cell.step = torch.compile(model.cell.step, mode="reduce-overhead")
        return model
    return ours(size, provider, device)


def training_step(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    output = model(x, None)[0]
    output.square().mean().backward()
    return output


def worst_error(size: Size, provider: str, device: torch.device) -> float:
    """Of outputs and gradients over 8 steps of two sequences, relative to float64.

    From the zero state the exact order can flip between precisions, so the robust one is taken.
    """
    x = torch.randn(8, min(size.B, 2), size.X, dtype=torch.float64, device=device)
    single = ours(size, provider, device, "robust")
    double = ours(size, "reference", device, "robust").double()
    found, true = training_step(single, x.float()), training_step(double, x)
    pairs = [(found, true)]
    pairs += [
        (a.grad, b.grad) for a, b in zip(single.parameters(), double.parameters(), strict=True)
    ]
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)


def measure(name: str, provider: str, device: torch.device) -> dict[str, Any]:
    size = SIZES[name]
    row: dict[str, Any] = {"size": name, **size._asdict(), "provider": provider}
    if provider in OURS:
        row["error"] = worst_error(size, provider, device)
        assert row["error"] < 1e-3, f"{provider} is {row['error']:.1e} away from float64"
    model = build(provider, size, device)
    x = torch.randn(size.T, size.B, size.X, device=device)
    training_step(model, x)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    row["seconds"] = seconds(lambda: training_step(model, x), device, rounds=7)
    if device.type == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated(device) - before
    return row | {"provenance": provenance()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("--device", default="cuda", type=torch.device)
    options = parser.parse_args()
    print(json.dumps(measure(options.size, options.provider, options.device)))


if __name__ == "__main__":
    main()
