"""Learn to echo a stream of bits in chunks, with the state carried from chunk to chunk.

python examples/carried_state.py          about ten seconds on a CPU
"""

import argparse

import torch

from dnc_fast import DNC
from dnc_fast.tasks import EchoTask

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--streams", type=int, default=60, help="training streams (%(default)s)")
streams = parser.parse_args().streams

torch.manual_seed(0)
torch.set_num_threads(1)  # the fastest for a model as small as this
task = EchoTask(delay=5, chunk_length=10, num_chunks=20)
dnc = DNC(1, 64, num_cells=10, cell_size=16, num_read_heads=1, output_size=1)
optimizer = torch.optim.Adam(dnc.parameters(), lr=3e-3)
generator = torch.Generator().manual_seed(1)

for number in range(1, streams + 1):
    state = None  # a new stream starts with an empty memory
    for chunk in task.batch(16, generator).split(task.num_chunks):
        logits, state = dnc(chunk.inputs, state)
        loss = task.loss(logits, chunk)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(dnc.parameters(), 10.0)
        optimizer.step()
        state = state.detach()  # keep the state, drop its graph
    if number % 10 == 0 or number == streams:
        with torch.no_grad():
            batch = task.batch(50, generator)
            score = task.score(dnc(batch.inputs)[0], batch)
        right = 1 - score.wrong.sum() / score.counted.sum()
        print(f"stream {number}: loss {loss:.4f}, {100 * right:.2f} % of bits right")
