"""A DNC in a plain PyTorch training loop: learn to copy short sequences.

python examples/own_training_loop.py          about ten seconds on a CPU
"""

import argparse

import torch

from dnc_fast import DNC
from dnc_fast.tasks import CopyTask

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1000, help="training steps (%(default)s)")
steps = parser.parse_args().steps

torch.manual_seed(0)
torch.set_num_threads(1)  # the fastest for a model as small as this
task = CopyTask(max_length=8, num_bits=6)
dnc = DNC(
    task.input_size, 64, num_cells=16, cell_size=16, num_read_heads=1, output_size=task.output_size
)
optimizer = torch.optim.Adam(dnc.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(1)

for step in range(1, steps + 1):
    batch = task.batch(16, generator)
    logits, _ = dnc(batch.inputs)
    loss = task.loss(logits, batch)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(dnc.parameters(), 10.0)
    optimizer.step()
    if step % 100 == 0 or step == steps:
        with torch.no_grad():
            batch = task.batch(200, generator)
            wrong = task.score(dnc(batch.inputs)[0], batch).wrong
        right = (wrong == 0).float().mean()
        print(f"step {step}: loss {loss:.4f}, {100 * right:.1f} % of sequences right")
