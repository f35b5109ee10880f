"""Time and peak memory of a training step on a GPU: `python -m bench.gpu_training SIZE PROVIDER`.

Forward, squared mean of the outputs as the loss, backward. Ours are compared with float64 first.
One line of JSON; `python -m bench.gpu` runs all of them, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
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
OURS = {
    "triton": {"backend": "triton"},
    "triton launched": {"backend": "triton", "cuda_graphs": False},
    "triton bfloat16": {"backend": "triton"},
    "eager": {"backend": "eager"},
    "eager launched": {"backend": "eager", "cuda_graphs": False},
    "reference": {"backend": "reference"},
}
"""Options of our own; "launched" is without CUDA graphs, "bfloat16" under autocast."""

PROVIDERS = (*OURS, "torch.compile", "dnc", "lstm")


def ours(size: Size, provider: str, device: torch.device, usage_order: str = "exact") -> DNC:
    torch.manual_seed(0)
    return DNC(
        size.X, size.H, num_cells=size.N, cell_size=size.W, num_read_heads=size.R,
        usage_order=usage_order, device=device, **OURS[provider],
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


def training_step(model: nn.Module, x: torch.Tensor, half: bool = False) -> torch.Tensor:
    """Forward, squared mean, backward; half: under autocast to bfloat16."""
    model.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
        output = model(x, None)[0]
    output.float().square().mean().backward()
    return output


def launches(step: Callable[[], Any]) -> dict[str, int]:
    """Kernels that a training step runs on the device, and launches that the CPU makes for it."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    asked = (
        "cudaLaunchKernel",
        "cuLaunchKernel",
        "cudaGraphLaunch",
        "cudaMemsetAsync",
        "cudaMemcpyAsync",
    )
    events = profile.events()
    cuda = torch.autograd.DeviceType.CUDA
    on_device = [e for e in events if e.device_type == cuda and not e.is_user_annotation]
    by_cpu = [event for event in events if event.name.startswith(asked)]
    return {"kernels": len(on_device), "launches": len(by_cpu)}


def worst_error(size: Size, provider: str, device: torch.device) -> float:
    """Of outputs and gradients over 8 steps of two sequences, relative to float64.

    From the zero state the exact order can flip between precisions, so the robust one is taken.
    """
    x = torch.randn(8, min(size.B, 2), size.X, dtype=torch.float64, device=device)
    single = ours(size, provider, device, "robust")
    double = ours(size, "reference", device, "robust").double()
    half = provider.endswith("bfloat16")
    for _ in range(2):  # graphs are recorded at the second time
        found = training_step(single, x.float(), half)
    pairs = [(found, training_step(double, x))]
    pairs += [
        (a.grad, b.grad) for a, b in zip(single.parameters(), double.parameters(), strict=True)
    ]
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)


def measure(name: str, provider: str, device: torch.device) -> dict[str, Any]:
    size = SIZES[name]
    half = provider.endswith("bfloat16")
    row: dict[str, Any] = {"size": name, **size._asdict(), "provider": provider}
    if provider in OURS:
        row["error"] = worst_error(size, provider, device)
        allowed = 0.1 if half else 1e-3  # bfloat16 has 8 bits
        assert row["error"] < allowed, f"{provider} is {row['error']:.1e} away from float64"
    model = build(provider, size, device)
    x = torch.randn(size.T, size.B, size.X, device=device)
    if device.type == "cuda":
        torch.profiler._utils._init_for_cuda_graphs()  # else it cannot follow those made before it
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(device)
    for _ in range(3):  # kernels are compiled, graphs recorded
        training_step(model, x, half)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    row["seconds"] = seconds(lambda: training_step(model, x, half), device, rounds=7)
    if device.type == "cuda":
        # Reserved, for what graphs free while they are recorded is held all the same.
        row["peak_bytes"] = torch.cuda.max_memory_reserved(device) - before
        row |= launches(lambda: training_step(model, x, half))
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
