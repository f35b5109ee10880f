"""What float16 checkpoints of the link matrix do to gradients and to learning.

`python -m bench.narrow_checkpoints`: the error of the gradient that suffers most, relative to the
float64 reference, and the steps until the copy task is solved. Tables in Markdown.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from dnc_fast import DNC, DNCConfig
from dnc_fast.tasks import CopyTask
from dnc_fast.training import Trainer, TrainingConfig

from .harness.provenance import provenance

DTYPES = (None, torch.float16, torch.bfloat16)
SIZES = ((16, 64, 4), (64, 64, 8), (64, 256, 16), (256, 128, 11))
"""N, T, K."""


def name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def model(num_cells: int, backend: str, interval: int, dtype: torch.dtype | None) -> DNC:
    """Lively weights: sharp keys and open gates, so that the link matrix matters."""
    torch.manual_seed(0)
    dnc = DNC(
        8, 64, num_cells=num_cells, cell_size=16, num_read_heads=2, usage_order="robust",
        backend=backend, checkpoint_interval=interval, checkpoint_dtype=dtype,
    )  # fmt: skip
    with torch.no_grad():
        dnc.cell.interface.weight.mul_(8)
    return dnc


def gradients(dnc: DNC, x: Tensor) -> list[Tensor]:
    """Of the read modes, by which the link matrix is seen, and of all other parameters."""
    dnc(x)[0].square().mean().backward()
    modes = dnc.cell.interface.weight.grad[-dnc.config.num_read_heads * 3 :]
    return [modes.double(), *(p.grad.double() for p in dnc.parameters())]


def gradient_errors() -> None:
    print("| N | T | K | " + " | ".join(map(name, DTYPES)) + " |")
    print("|---|---|---|" + "---|" * len(DTYPES))
    for N, T, K in SIZES:
        x = torch.randn(T, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        exact = gradients(model(N, "reference", K, None).double(), x)
        errors = []
        for dtype in DTYPES:
            found = gradients(model(N, "auto", K, dtype), x.float())
            pairs = zip(found, exact, strict=True)
            errors.append(max(((a - b).norm() / b.norm()).item() for a, b in pairs))
        print(f"| {N} | {T} | {K} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")


def steps_to_solve(dtype: torch.dtype | None, seed: int) -> int | None:
    """Training steps until copying 1 to 8 vectors is solved; None where 3,000 were not enough."""
    task = CopyTask()
    sizes = {"num_cells": 16, "cell_size": 16, "num_read_heads": 1}
    config = DNCConfig(
        input_size=task.input_size, output_size=task.output_size, hidden_size=64,
        checkpoint_interval=4, checkpoint_dtype=dtype, **sizes,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(seed=seed, max_steps=3000)
        trainer = Trainer(task, config, training, Path(folder))
        trainer.train(progress="off")
    return trainer.step if trainer.solved else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(provenance())
    gradient_errors()
    print("\n| seed | " + " | ".join(map(name, DTYPES[:2])) + " |\n|---|---|---|")
    for seed in range(options.seeds):
        steps = [steps_to_solve(dtype, seed) for dtype in DTYPES[:2]]
        print(f"| {seed} | " + " | ".join(map(str, steps)) + " |", flush=True)


if __name__ == "__main__":
    main()
