"""What each kernel takes of a training step on a GPU: `python -m bench.profile_steps g1 g4`."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from dnc_fast import DNC, release_cuda_graphs

from .harness.sizes import GPU_SIZES, Size

ROUNDS, WARM_UPS = 20, 4
SHOWN = 16


def training_step(size: Size) -> Callable[[], None]:
    """A training step of a model of this size, in float32."""
    torch.manual_seed(0)
    options = {"num_cells": size.N, "cell_size": size.W, "num_read_heads": size.R}
    model = DNC(size.X, size.H, **options, backend="triton", device="cuda")
    x = torch.randn(size.T, size.B, size.X, device="cuda")

    def step() -> None:
        model.zero_grad()
        output, _ = model(x)
        output.square().sum().backward()

    return step


def milliseconds(call: Callable[[], None]) -> float:
    """Until all of a call is done."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started)


def report(name: str, size: Size) -> None:
    """Print the time of a step, alone and many in a row, and of each kernel, us a time step."""
    step = training_step(size)
    for _ in range(WARM_UPS):
        step()
    alone = median(milliseconds(step) for _ in range(ROUNDS))
    in_a_row = milliseconds(lambda: [step() for _ in range(ROUNDS)] and None) / ROUNDS
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    times: Counter[str] = Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name.split("(")[0].split("<")[0]] += event.time_range.elapsed_us() / size.T
    print(f"{name} {size}: {alone:.3f} ms alone, {in_a_row:.3f} ms in a row", end="")
    print(f" ({1e3 * in_a_row / size.T:.1f} us a time step); kernels {times.total():.1f} us")
    for kernel, took in times.most_common(SHOWN):
        print(f"  {took:9.2f} us  {kernel}")
    release_cuda_graphs()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", default=list(GPU_SIZES), choices=list(GPU_SIZES))
    for name in parser.parse_args().sizes:
        report(name, GPU_SIZES[name])
