"""What a training step takes of the CPU while a GPU only replays: `python -m bench.host_time`.

On a GPU: the time until the forward and the backward call return, without waiting for the device,
which is idle when they begin. Without one: the same by graphs that do nothing, of a model so small
that the operations around them take no time of their own; a GPU's launches take longer than these.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from dnc_fast import DNC
from dnc_fast.engine import captures

from .harness.sizes import GPU_SIZES


class Nothing:
    """A graph whose replay does nothing: results are those of the recording."""

    bytes = 0

    def __init__(self, device: torch.device, beside: Any = None) -> None:
        pass

    @staticmethod
    def stream(device: torch.device) -> int:
        return 0

    @classmethod
    def settle(cls, device: torch.device) -> None:
        pass

    def record(self, work: Any) -> Any:
        return work()

    def replay(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=GPU_SIZES, default="g1", help="on a GPU")
    parser.add_argument("--steps", type=int, default=64, help="T, without a GPU")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if torch.cuda.is_available():
        size, device = GPU_SIZES[options.size], "cuda"
        X, H, B, T, N, W, R = size.X, size.H, size.B, size.T, size.N, size.W, size.R
        settle: Any = torch.cuda.synchronize
    else:
        X, H, B, T, N, W, R, device = 3, 8, 2, options.steps, 4, 3, 4, "cpu"
        captures.CAPTURES = captures.Captures({"cpu": Nothing})
        settle = int
    backend = "auto" if device == "cuda" else "eager"
    model = DNC(X, H, num_cells=N, cell_size=W, num_read_heads=R, backend=backend, device=device)
    x = torch.randn(T, B, X, device=device)
    times: dict[str, list[float]] = {"forward": [], "backward": []}
    for _ in range(3 + options.repeats):
        model.zero_grad()
        settle()
        begin = time.perf_counter()
        output, _ = model(x)
        times["forward"].append(time.perf_counter() - begin)
        gradient = torch.ones_like(output)
        settle()
        begin = time.perf_counter()
        output.backward(gradient)
        times["backward"].append(time.perf_counter() - begin)
    found = {name: 1e6 * statistics.median(all_[3:]) for name, all_ in times.items()}
    print(
        f"{device}: " + ", ".join(f"{name} {value:.0f} us" for name, value in found.items()),
        f"sum {sum(found.values()):.0f} us",
        sep=", ",
    )


if __name__ == "__main__":
    main()
