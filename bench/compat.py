"""A training step of pytorch-dnc and of `dnc_fast.compat`: `python -m bench.compat`.

Both are built with the same arguments, pytorch-dnc's defaults except for the sizes, and take turns.
The table shows the CPU time of one thread, of the fastest step of each, so that it can be measured
on a machine that has other work too.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import dnc
import torch
from torch import Tensor

from dnc_fast import compat

from .harness.provenance import provenance
from .harness.sizes import CPU_SIZES
from .reports.tables import print_head, print_row


def step_seconds(model: Any, x: Tensor) -> float:
    """The CPU time of a training step: forward and backward."""
    model.zero_grad()
    started = time.process_time()
    output, _ = model(x, (None, None, None), reset_experience=True)
    output.square().mean().backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=CPU_SIZES, default=["c1", "c2"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_head(provenance(), "size", "dnc, ms", "compat, ms", "faster")
    for name in options.sizes:
        size = CPU_SIZES[name]
        x = torch.randn(size.B, size.T, size.X)
        models = [
            package.DNC(size.X, size.H, nr_cells=size.N, cell_size=size.W, read_heads=size.R)
            for package in (dnc, compat)
        ]
        rounds = [[step_seconds(model, x) for model in models] for _ in range(options.rounds)]
        theirs, ours = (1e3 * min(times) for times in zip(*rounds, strict=True))
        print_row(size, f"{theirs:.1f}", f"{ours:.1f}", f"{theirs / ours:.1f} x")


if __name__ == "__main__":
    main()
