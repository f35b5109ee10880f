"""Time and bandwidth of each kernel of a memory or LSTM step: `python -m bench.gpu_kernels`.

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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from dnc_fast.kernels.arrays import Adjoint, Step
from dnc_fast.kernels.gpu import launch, lstm
from dnc_fast.kernels.gpu import step as kernels
from torch import Tensor

from dnc_fast import MemoryState, memory_step
from dnc_fast.interface import interface_size
from dnc_fast.state import MemorySizes, memory_state_shapes

from .provenance import provenance


class LSTMSizes(NamedTuple):
    """Of an LSTM layer."""

    batch_size: int
    hidden_size: int


SIZES: dict[str, MemorySizes | LSTMSizes] = {
    "s1": MemorySizes(16, 64, 32, 4, 1),
    "s2": MemorySizes(32, 256, 64, 4, 1),
    "s3": MemorySizes(8, 1024, 64, 4, 1),
    "s4": MemorySizes(1, 4096, 64, 4, 1),
    "s5": MemorySizes(1, 16384, 64, 4, 1),
    "l1": LSTMSizes(16, 128),
    "l2": LSTMSizes(32, 256),
    "l3": LSTMSizes(4096, 1024),
}
IN_PLACE = {"pass_backward_kernel": ("d_link",), "backward_kernel": ("d_cells",)}
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
    return worst_error(sizes, (reads, *found), (true_reads, *true))


def worst_error(sizes: Any, found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Of all results, relative; few enough to time the kernels."""
    pairs = zip(found, true, strict=True)
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


def lstm_step(
    sizes: LSTMSizes, device: torch.device
) -> tuple[float, dict[str, list[launch.Launch]]]:
    """The worst relative error of an LSTM step and its gradients, and the launches."""
    b, H = sizes
    product, x_part, active, d_active = torch.randn(4, b, 4 * H, device=device)
    state = torch.randn(7, b, H, device=device)
    cells0, cells1, squashed, hidden, d_output, d_last, d_cells = state
    leaves = [tensor.double().requires_grad_() for tensor in (product, cells0)]
    entry, forget, change, output = (leaves[0] + x_part).chunk(4, dim=1)
    true_cells = forget.sigmoid() * leaves[1] + entry.sigmoid() * change.tanh()
    true_hidden = output.sigmoid() * true_cells.tanh()
    cotangents = (d_output.double() + d_last, d_cells.double())
    gradients = torch.autograd.grad((true_hidden, true_cells), leaves, cotangents)
    with launch.recorded() as forward:
        lstm.forward(product, x_part, cells0, active, cells1, squashed, hidden)
    with launch.recorded() as backward:
        lstm.backward(active, squashed, cells0, d_output, d_last, None, d_cells, d_active)
    true = (true_hidden.detach(), true_cells.detach(), *gradients)
    error = worst_error(sizes, (hidden, cells1, d_active, d_cells), true)
    return error, {"forward": forward, "backward": backward}


def moved(call: launch.Launch) -> int:
    """The bytes that a launch must move at the least."""
    found, seen = 0, set()
    for name, tensor in zip(call.kernel.arg_names, call.arguments, strict=False):
        if not isinstance(tensor, Tensor):  # a stride
            continue
        size = tensor.numel() * tensor.element_size()
        in_place = name in IN_PLACE.get(call.kernel.__name__, ())
        if tensor.data_ptr() not in seen:
            found += 2 * size if in_place else size
        seen.add(tensor.data_ptr())
    return found


def measure(
    name: str, sizes: MemorySizes | LSTMSizes, device: torch.device
) -> list[dict[str, Any]]:
    """A row for each launch of a step."""
    if isinstance(sizes, LSTMSizes):
        error, launches = lstm_step(sizes, device)
    else:
        error, launches = check(sizes, device), step_launches(sizes, device)
    rows = []
    for direction, calls in launches.items():
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
