"""What float16 checkpoints of the link matrix do to gradients and to learning.

`python -m bench.narrow_checkpoints`: the error of the gradient that suffers most, relative to the
float64 reference, and the steps until the copy task is solved. Tables in Markdown.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from dnc_fast import DNC

from .copy_task import learn
from .harness.provenance import provenance
from .reports.tables import print_head, print_row

DTYPES = (None, torch.float16, torch.bfloat16)
SIZES = ((16, 64, 4), (64, 64, 8), (64, 256, 16), (256, 128, 11))
"""N, T, K."""


def name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def model(num_cells: int, backend: str, interval: int, dtype: torch.dtype | None) -> DNC:
    """A model with large weights: sharp keys and open gates, so that the link matrix matters."""
    torch.manual_seed(0)
    dnc = DNC(
        8, 64, num_cells=num_cells, cell_size=16, num_read_heads=2, usage_order="robust",
        backend=backend, checkpoint_interval=interval, checkpoint_dtype=dtype,
    )  # fmt: skip
    with torch.no_grad():
        dnc.cell.interface.weight.mul_(8)
    return dnc


def gradients(dnc: DNC, x: Tensor) -> list[Tensor]:
    """Of the read modes, through which the link matrix acts, and of all parameters."""
    dnc(x)[0].square().mean().backward()
    modes = dnc.cell.interface.weight.grad[-dnc.config.num_read_heads * 3 :]
    return [modes.double(), *(p.grad.double() for p in dnc.parameters())]


def gradient_errors() -> None:
    print_head(provenance(), "N", "T", "K", *map(name, DTYPES))
    for N, T, K in SIZES:
        x = torch.randn(T, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        exact = gradients(model(N, "reference", K, None).double(), x)
        errors = []
        for dtype in DTYPES:
            found = gradients(model(N, "auto", K, dtype), x.float())
            pairs = zip(found, exact, strict=True)
            errors.append(max(((a - b).norm() / b.norm()).item() for a, b in pairs))
        print_row(N, T, K, *(f"{error:.1e}" for error in errors))


def steps_to_solve(dtype: torch.dtype | None, seed: int) -> int | None:
    """Training steps until copying 1 to 8 vectors is solved; None if 3,000 are not enough."""
    result = learn("lstm", seed, 3000, checkpoint_interval=4, checkpoint_dtype=dtype)
    return int(result.steps) if result.solved else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gradient_errors()
    print_head("", "seed", *map(name, DTYPES[:2]))
    for seed in range(options.seeds):
        print_row(seed, *(steps_to_solve(dtype, seed) for dtype in DTYPES[:2]))


if __name__ == "__main__":
    main()
