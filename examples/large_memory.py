"""A memory of many thousands of cells: learn to recall from 16 pairs, then recall from thousands.

python examples/large_memory.py                     about half a minute on a CPU
python examples/large_memory.py --items 30000       about five minutes

The parameters of a DNC do not depend on the number of cells, so a model that was trained with 16
cells runs with any number. Here writes are not linked in time (linkage="none"), so the time and
memory of a step are proportional to the number of cells.
"""

import argparse
import dataclasses
import time

import torch

from dnc_fast import DNC
from dnc_fast.presets import model_config
from dnc_fast.tasks import KeyValueTask

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1000, help="training steps (%(default)s)")
parser.add_argument(
    "--items",
    type=int,
    nargs="+",
    default=[16, 100, 1000],
    help="pairs to recall from (%(default)s)",
)
options = parser.parse_args()

torch.manual_seed(0)
torch.set_num_threads(1)
task = KeyValueTask(min_items=2, max_items=16)
config = model_config(task)
dnc = DNC.from_config(config)
optimizer = torch.optim.Adam(dnc.parameters(), lr=1e-3)
generator = torch.Generator().manual_seed(1)

for step in range(1, options.steps + 1):
    batch = task.batch(16, generator)
    logits, _ = dnc(batch.inputs)
    loss = task.loss(logits, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(dnc.parameters(), 1.0)
    optimizer.step()
    if step % 100 == 0 or step == options.steps:
        print(f"step {step}: loss {loss:.4f}", flush=True)

for items in options.items:
    large = dataclasses.replace(task, min_items=items, max_items=items, num_queries=64)
    batch = large.batch(1, generator)
    for kept, words in ((None, "all entries"), (1, "the largest entry")):  # of each weighting
        changed = dataclasses.replace(config, read_topk=kept, write_topk=kept)
        model = DNC.from_config(changed)
        model.load_state_dict(dnc.state_dict())
        started = time.perf_counter()
        with torch.no_grad():
            logits, _ = model(batch.inputs, model.zero_state(1, num_cells=items + 64))
        seconds = time.perf_counter() - started
        wrong = large.wrong(logits, batch.targets).any(-1)[batch.mask]
        print(
            f"{items} pairs in {items + 64} cells, {words} of each weighting: "
            f"{(~wrong).sum()} of {len(wrong)} values right, {seconds:.1f} s",
            flush=True,
        )
