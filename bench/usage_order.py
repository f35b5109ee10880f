"""How often float32 and float64 diverge, by usage order: `python -m bench.usage_order`.

From the zero state, the usages of unwritten cells soon differ in their last bits only, so the free
list, and everything after it, can depend on rounding. Counts the sequences in which the two
precisions differ by more than 1e-3 within T steps: in the read vectors for random interface
vectors, and in the logits of a model that has learned copy (`--checkpoint`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from dnc_fast import MemoryState, memory_step
from dnc_fast.interface import interface_size
from dnc_fast.reference import USAGE_ORDERS
from dnc_fast.training import load_checkpoint, restore_model, restore_task
from dnc_fast.training.random import stream_generator

from .harness.provenance import provenance
from .reports.tables import print_head, print_row

APART = 1e-3


def random_interfaces(usage_order: str, steps: int, batch: int, seed: int) -> torch.Tensor:
    """(B) bool: which sequences of random interface vectors diverge; N=64, W=16, R=4."""
    N, W, R = 64, 16, 4
    generator = torch.Generator().manual_seed(seed)
    size = interface_size(W, R)
    vectors = torch.randn(steps, batch, size, generator=generator, dtype=torch.float64)
    states = [MemoryState.zeros(batch, N, W, R, dtype=d) for d in (torch.float32, torch.float64)]
    apart = torch.zeros(batch, dtype=torch.bool)
    for vector in vectors:
        reads = []
        for place, state in enumerate(states):
            read, states[place] = memory_step(
                vector.to(state.memory.dtype), state, usage_order=usage_order
            )
            reads.append(read.double())
        apart |= (reads[0] - reads[1]).abs().amax((1, 2)) > APART
    return apart


def trained_model(usage_order: str, checkpoint: Path, batch: int) -> torch.Tensor:
    """(B) bool: in which held-out sequences the logits of a trained model diverge."""
    content = load_checkpoint(checkpoint)
    task = restore_task(content)
    inputs = task.batch(batch, stream_generator(0, "held-out")).inputs
    model = restore_model(content, usage_order=usage_order).eval()
    single, _ = model(inputs)
    double, _ = model.double()(inputs.double())
    return (single - double).abs().amax((0, 2)) > APART


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    print_head(provenance(), "inputs", "usage order", "sequences", "apart")
    with torch.no_grad():
        for order in USAGE_ORDERS:
            found = [
                random_interfaces(order, options.steps, options.batch, seed)
                for seed in range(options.seeds)
            ]
            print_share(f"random, {options.steps} steps", order, torch.cat(found))
        for checkpoint in options.checkpoint:
            for order in USAGE_ORDERS:
                print_share(str(checkpoint), order, trained_model(order, checkpoint, 1000))


def print_share(inputs: str, order: str, apart: torch.Tensor) -> None:
    print_row(inputs, order, len(apart), f"{100 * apart.double().mean().item():.1f} %")


if __name__ == "__main__":
    main()
