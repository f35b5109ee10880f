"""A training step of pytorch-dnc and of `dnc_fast.compat`: `python -m bench.compat`.

Both are built with the same arguments, pytorch-dnc's defaults except for the sizes, and take turns;
the table shows the fastest step of each. pytorch-dnc does less, see `PEER_FAULT`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import dnc
import torch
from torch import Tensor

from dnc_fast import compat

from .harness.clock import Rounds, interleaved
from .harness.provenance import provenance
from .harness.sizes import CPU_SIZES, Size
from .reports.tables import print_head, print_row


def step(model: Any, x: Tensor) -> None:
    """A training step: forward, backward, no update."""
    output, _ = model(x, (None, None, None), reset_experience=True)
    model.zero_grad()
    output.square().mean().backward()


def steps(size: Size) -> dict[str, Callable[[], None]]:
    """A training step of each package, with the same arguments."""
    x = torch.randn(size.B, size.T, size.X)
    return {
        name: partial(
            step,
            package.DNC(size.X, size.H, nr_cells=size.N, cell_size=size.W, read_heads=size.R),
            x,
        )
        for name, package in (("dnc", dnc), ("compat", compat))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=CPU_SIZES, default=["c1", "c2"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print_head(provenance(), "size", "dnc, ms", "compat, ms", "faster")
    for name in options.sizes:
        size = CPU_SIZES[name]
        times = interleaved(steps(size), "cpu", Rounds(0, options.rounds, options.rounds))
        theirs, ours = (1e3 * min(times[package]) for package in ("dnc", "compat"))
        print_row(size, f"{theirs:.1f}", f"{ours:.1f}", f"{theirs / ours:.1f} x")


if __name__ == "__main__":
    main()
