"""Time and bandwidth of each kernel of a memory step: `python -m bench.gpu_kernels`.

A step is run once to learn its launches; then each launch is repeated by itself and timed with the
device's own events. Bytes are those of its arguments, each once, those changed in place twice: the
least that it must move. The share is that of a device-to-device copy measured in the same run.
Results are compared with the reference in float64 first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from dnc_fast.kernels.arrays import Adjoint, Step
from dnc_fast.kernels.gpu import launch
from dnc_fast.kernels.gpu import step as kernels

from dnc_fast import MemoryState, memory_step
from dnc_fast.interface import interface_size
from dnc_fast.state import MemorySizes, memory_state_shapes

from .provenance import provenance

SIZES = {
    "s1": MemorySizes(16, 64, 32, 4, 1),
    "s2": MemorySizes(32, 256, 64, 4, 1),
    "s3": MemorySizes(8, 1024, 64, 4, 1),
    "s4": MemorySizes(1, 4096, 64, 4, 1),
    "s5": MemorySizes(1, 16384, 64, 4, 1),
}
IN_PLACE = {"pass_backward_kernel": ("d_link",)}
ROUNDS = 20


def seconds(function: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Median time of a call; on a GPU what the device takes, not what launching takes."""
    function()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            started = time.perf_counter()
            function()
            times.append(time.perf_counter() - started)
        return statistics.median(times)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for first, last in pairs:
        first.record()
        function()
        last.record()
    torch.cuda.synchronize(device)
    return statistics.median(first.elapsed_time(last) for first, last in pairs) / 1e3


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second read and written by a large copy on the device."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**22, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device)


def random_state(sizes: MemorySizes, device: torch.device) -> MemoryState:
    """A memory in the middle of a run, float32, its usages apart."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, device=device)

    shapes = memory_state_shapes(sizes)
    B, N = shapes["usage"]
    fields = {name: draw(*shape) / N for name, shape in shapes.items()}
    fields["memory"] = draw(*shapes["memory"]) - 0.5
    fields["usage"] = (draw(B, N).argsort(-1) + 0.5) / N
    fields["link"].diagonal(dim1=-2, dim2=-1).zero_()
    return MemoryState(**fields)


def check(sizes: MemorySizes, device: torch.device) -> float:
    """The worst relative error of a step's results against the reference in float64."""
    state = random_state(sizes, device)
    vector = torch.randn(sizes.batch_size, interface_size(*sizes[2:]), device=device)
    reads, found = memory_step(vector, state, backend="triton")
    true_reads, true = memory_step(vector.double(), state.to(torch.float64), backend="reference")
    pairs = zip((reads, *found), (true_reads, *true), strict=True)
    error = max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)
    assert error < 1e-5, f"{sizes}: the kernels are {error:.1e} away from the reference"
    return error


def step_launches(sizes: MemorySizes, device: torch.device) -> dict[str, list[launch.Launch]]:
    """The launches of a step forward and backward, on arrays of these sizes."""
    B, _, W, R, Hw = sizes
    state, new_state, gradient = (random_state(sizes, device) for _ in range(3))
    vector = torch.randn(B, interface_size(W, R, Hw), device=device)
    reads = torch.randn(B, R, W, device=device)
    step = Step(vector, *(t for pair in zip(state, new_state, strict=True) for t in pair), reads)
    scratch = kernels.make_scratch(*sizes, torch.float32, device)
    with launch.recorded() as forward:
        kernels.forward(step, scratch, False)
    adjoint = Adjoint(torch.empty_like(vector), *gradient)
    with launch.recorded() as backward:
        kernels.backward(step, adjoint, scratch, False)
    return {"forward": forward, "backward": backward}


def moved(call: launch.Launch) -> int:
    """The bytes that a launch must move at the least."""
    found, seen = 0, set()
    for name, tensor in zip(call.kernel.arg_names, call.arguments, strict=False):
        size = tensor.numel() * tensor.element_size()
        in_place = name in IN_PLACE.get(call.kernel.__name__, ())
        if tensor.data_ptr() not in seen:
            found += 2 * size if in_place else size
        seen.add(tensor.data_ptr())
    return found


def measure(name: str, sizes: MemorySizes, device: torch.device) -> list[dict[str, Any]]:
    """A row for each launch of a step."""
    error, rows = check(sizes, device), []
    for direction, calls in step_launches(sizes, device).items():
        for call in (call for call in calls if hasattr(call.kernel, "arg_names")):

            def again(call: launch.Launch = call) -> None:
                launch.run(
                    call.kernel, call.grid, *call.arguments, num_warps=call.num_warps,
                    **call.constants,
                )  # fmt: skip

            rows.append(
                {
                    "size": name,
                    **sizes._asdict(),
                    "direction": direction,
                    "kernel": call.kernel.__name__,
                    "seconds": seconds(again, device),
                    "bytes": moved(call),
                    "error": error,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    options = parser.parse_args()
    bandwidth = copy_bandwidth(options.device)
    print(json.dumps({"provenance": provenance(), "copy_bytes_per_second": bandwidth}))
    for name in options.sizes:
        for row in measure(name, SIZES[name], options.device):
            row["share_of_copy"] = row["bytes"] / row["seconds"] / bandwidth
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
