"""Time and bandwidth of each kernel of a memory or LSTM step: `python -m bench run kernels`.

A step runs once to record its launches; then each launch is repeated by itself and timed with the
device's own events. The bytes are those of its arguments, each once, those changed in place twice:
the least that it must move. The share is that of a device-to-device copy measured in the same job.
Results and gradients are first compared with the reference in float64.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dnc_fast.interface import interface_size
from dnc_fast.kernels.arrays import Adjoint, Step
from dnc_fast.kernels.gpu import launch, lstm
from dnc_fast.kernels.gpu import step as kernels
from dnc_fast.state import MemorySizes

from .harness import gate
from .harness.cases import Case, random_state
from .harness.clock import copy_bandwidth, queued, spread
from .harness.jobs import Job, Settings
from .harness.providers import PROVIDERS
from .harness.results import Record
from .harness.sizes import Size


class LSTMSizes(NamedTuple):
    """The sizes of an LSTM layer."""

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
DRY_SIZES: dict[str, MemorySizes | LSTMSizes] = {
    "small": MemorySizes(2, 8, 4, 2, 1),
    "tiled": MemorySizes(1, 80, 4, 1, 1),
    "lstm": LSTMSizes(2, 8),
}
IN_PLACE = {
    "pass_backward_kernel": ("d_link",),
    "backward_kernel": ("d_cells",),
    "strip_backward_kernel": ("d_link", "d_memory"),
    "gradients_kernel": ("d_memory",),
}


def step_launches(sizes: MemorySizes, device: torch.device) -> dict[str, list[launch.Launch]]:
    """The launches of a step forward and backward, on arrays of these sizes."""
    B, _, W, R, Hw = sizes
    state, new_state, gradient = (random_state(sizes).to(device) for _ in range(3))
    vector = torch.randn(B, interface_size(W, R, Hw), device=device)
    reads = torch.randn(B, R, W, device=device)
    step = Step(vector, *(t for pair in zip(state, new_state, strict=True) for t in pair), reads)
    scratch = kernels.make_scratch(*sizes, torch.float32, device)
    kept = kernels.make_kept(step)
    with launch.recorded() as forward:
        kernels.forward(step, scratch, False, kept)
    adjoint = Adjoint(torch.empty_like(vector), *gradient)
    with launch.recorded() as backward:
        kernels.backward(step, adjoint, scratch, False, kept)
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
    found = (hidden, cells1, d_active, d_cells)
    error = max(gate.relative_error(a, b) for a, b in zip(found, true, strict=True))
    if not error < 1e-5:
        raise gate.Refused(f"{sizes}: the kernels are {error:.1e} away from the reference")
    return error, {"forward": forward, "backward": backward}


def moved(call: launch.Launch) -> int:
    """The fewest bytes that a launch must move."""
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


def check(sizes: MemorySizes, device: str) -> float | None:
    """The worst relative error of a step's results and gradients against float64."""
    B, N, W, R, _ = sizes
    size = Size(B, 1, N, W, R, 1, 1)
    return gate.check(Case("memory_step", "forward+backward", size, PROVIDERS["triton"], device))


def measure(name: str, sizes: MemorySizes | LSTMSizes, device: str) -> list[Record]:
    """A record for each launch of a step."""
    where = torch.device(device)
    if isinstance(sizes, LSTMSizes):
        error, launches = lstm_step(sizes, where)
    else:
        error, launches = check(sizes, device), step_launches(sizes, where)
    bandwidth = copy_bandwidth(device)
    records = []
    for direction, calls in launches.items():
        for call in (call for call in calls if hasattr(call.kernel, "arg_names")):
            options = {"num_warps": call.num_warps, **call.constants}
            again = partial(launch.run, call.kernel, call.grid, *call.arguments, **options)
            seconds = queued(again, device, 20 if device == "cuda" else 2)
            records.append(
                {
                    "kind": "kernel",
                    "size": name,
                    "sizes": sizes._asdict(),
                    "direction": direction,
                    "kernel": call.kernel.__name__,
                    "seconds": seconds,
                    "least_bytes": moved(call),
                    "copy_bytes_per_second": bandwidth,
                    "share_of_copy": moved(call) / spread(seconds).median / bandwidth,
                    "error": error,
                }
            )
    return records


def measured(name: str, sizes: MemorySizes | LSTMSizes, device: str) -> list[Record]:
    """The records of a size, or why there are none."""
    try:
        return measure(name, sizes, device)
    except (gate.Refused, RuntimeError) as error:
        return [{"kind": "kernel", "size": name, "provider": "triton", "failed": str(error)[:300]}]


def kernel_jobs(settings: Settings) -> list[Job]:
    """A job for each size."""
    return [
        Job(f"kernels {name}", partial(measured, name, sizes, settings.device))
        for name, sizes in (DRY_SIZES if settings.dry else SIZES).items()
    ]
