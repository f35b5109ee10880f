"""What each variant of docs/variants.md adds to a training step: `python -m bench.variants`.

The table shows the CPU time of one thread, of the fastest step of each, and its ratio to that of
the paper's model. All take turns, so that it can be measured on a machine that has other work too.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from dnc_fast import DNC
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES

from .harness.provenance import provenance
from .harness.sizes import CPU_SIZES, Size
from .reports.tables import print_head, print_row

CSORDAS = ("masked_lookup", "deallocate", "link_sharpness")
FRANKE: dict[str, Any] = {
    "linkage": "none",
    "controller": "layer_norm_lstm",
    "interface_norm": True,
    "bypass_dropout": 0.1,
    "bidirectional_controller": True,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "the paper": {},
    **{f"similarity={kind}": {"similarity": kind} for kind in SIMILARITIES[1:]},
    **{f"allocation={kind}": {"allocation": kind} for kind in ALLOCATIONS[1:]},
    **{name: {name: True} for name in CSORDAS},
    "these three": dict.fromkeys(CSORDAS, True),
    **{f"{name}={value}": {name: value} for name, value in FRANKE.items()},
    "these five": FRANKE,
}


def model(size: Size, options: dict[str, Any]) -> DNC:
    sizes = {"num_cells": size.N, "cell_size": size.W, "num_read_heads": size.R}
    return DNC(size.X, size.H, **sizes, **options)


def step_seconds(dnc: DNC, x: Tensor) -> float:
    """The CPU time of a training step: forward and backward."""
    dnc.zero_grad()
    started = time.process_time()
    output, _ = dnc(x)
    output.square().mean().backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=CPU_SIZES, default=["c2", "c3"])
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = [title for name in options.sizes for title in (f"{name}, ms", "ratio")]
    print_head(provenance(), "variant", *heads)
    fastest = []
    for name in options.sizes:
        size = CPU_SIZES[name]
        x = torch.randn(size.T, size.B, size.X)
        models = [model(size, one) for one in VARIANTS.values()]
        rounds = [[step_seconds(one, x) for one in models] for _ in range(1 + options.rounds)]
        fastest.append([1e3 * min(times) for times in zip(*rounds[1:], strict=True)])
    for title, *times in zip(VARIANTS, *fastest, strict=True):
        pairs = zip(times, (column[0] for column in fastest), strict=True)
        print_row(
            title, *(text for ms, base in pairs for text in (f"{ms:.1f}", f"{ms / base:.2f}"))
        )


if __name__ == "__main__":
    main()
