"""Recall among many pairs by a model trained on few: `python -m bench.key_value RUN`.

RUN is a folder of `dnc-fast train key-value`. Runs one episode for each number of pairs, with a
tenth more cells, and each number of entries that weightings keep (0: all). Prints a Markdown table:
the share of values and of bits that are right, and the largest read weight.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from dnc_fast.tasks import KeyValueTask
from dnc_fast.training import read_run, restore_model, restore_task
from dnc_fast.training.random import stream_generator

from .harness.provenance import provenance
from .reports.tables import print_head, print_row


def recall(run: Path, pairs: int, kept: int, queries: int, seed: int) -> None:
    """Store the pairs of one episode, ask for some, and print a row."""
    content = read_run(run)
    sizes = {"min_items": pairs, "max_items": pairs, "num_queries": queries}
    task = restore_task(content, **sizes)
    assert isinstance(task, KeyValueTask)
    cells, topk = pairs + pairs // 10, kept or None
    model = restore_model(content, num_cells=cells, read_topk=topk, write_topk=topk).eval()
    batch = task.batch(1, stream_generator(seed, "held-out"))
    answers, largest = [], []
    with torch.no_grad():
        model(batch.inputs[:2])  # compile outside the timed part
        started = time.perf_counter(), time.process_time()
        _, state = model(batch.inputs[:pairs])
        seconds, worked = time.perf_counter() - started[0], time.process_time() - started[1]
        for query in batch.inputs[pairs:].split(1):
            answer, state = model(query, state)
            answers.append(answer)
            largest.append(state.memory.read_weights.max().item())
    wrong = task.wrong(torch.cat(answers), batch.targets[pairs:])
    values, bits = (100 * (1 - part.double().mean().item()) for part in (wrong.any(-1), wrong))
    share = torch.tensor(largest).median().item()
    print_row(f"{pairs:,}", f"{cells:,}", kept or "all", f"{values:.1f} %", f"{bits:.1f} %",
              f"{share:.2f}", f"{seconds:.0f}", f"{worked:.0f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--pairs", nargs="+", type=int, default=[16, 100, 1000, 10_000, 30_000])
    parser.add_argument("--kept", nargs="+", type=int, default=[0, 8, 1])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the episodes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print_head(provenance(), "pairs", "cells", "entries kept", "values right", "bits right",
               "largest read weight, median", "seconds to store", "CPU seconds")  # fmt: skip
    for pairs in options.pairs:
        for kept in options.kept:
            recall(options.run, pairs, kept, options.queries, options.seed)


if __name__ == "__main__":
    main()
