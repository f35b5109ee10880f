"""How often float32 and float64 part ways, by usage order: `python -m bench.usage_order`.

From the zero state, unwritten cells' usages soon differ in their last bits only, so the free list,
and all that follows, can depend on rounding. Counts the sequences whose read vectors differ by more
than 1e-3 between the two precisions within T steps: for random interface vectors, and for a model
that has learned copy (`--checkpoint`), there with its logits.
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

APART = 1e-3


def random_interfaces(usage_order: str, steps: int, batch: int, seed: int) -> torch.Tensor:
    """(B) bool: which sequences of random interface vectors part ways; N=64, W=16, R=4."""
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
    """(B) bool: which held-out sequences of a trained model part ways in their logits."""
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
    print(provenance())
    print("\n| inputs | usage order | sequences | apart |\n|---|---|---|---|")
    with torch.no_grad():
        for order in USAGE_ORDERS:
            apart = torch.cat(
                [
                    random_interfaces(order, options.steps, options.batch, seed)
                    for seed in range(options.seeds)
                ]
            )
            print_row(f"random, {options.steps} steps", order, apart)
        for checkpoint in options.checkpoint:
            for order in USAGE_ORDERS:
                print_row(str(checkpoint), order, trained_model(order, checkpoint, 1000))


def print_row(inputs: str, order: str, apart: torch.Tensor) -> None:
    share = apart.double().mean().item()
    print(f"| {inputs} | {order} | {len(apart)} | {100 * share:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
