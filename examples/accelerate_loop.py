"""A DNC in a training loop with Hugging Face Accelerate: one process or many, float32 or bfloat16.

pip install -e ".[examples]"
python examples/accelerate_loop.py                          about ten seconds on a CPU
python examples/accelerate_loop.py --precision bf16         matrix products in bfloat16
python examples/accelerate_loop.py --resume --steps 2000    continues where the last call ended
accelerate launch examples/accelerate_loop.py               as `accelerate config` says
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator

from dnc_fast import DNC
from dnc_fast.tasks import CopyTask

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=1000, help="in all, with those before a --resume")
parser.add_argument("--precision", choices=["no", "bf16", "fp16"], default="no")
parser.add_argument("--folder", type=Path, default="runs/accelerate", help="for the checkpoint")
parser.add_argument("--seed", type=int, default=0, help="of the initial parameters")
parser.add_argument("--resume", action="store_true", help="continue from the folder's checkpoint")
options = parser.parse_args()


class Progress:
    """The steps taken so far, as a part of the checkpoint."""

    steps = 0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


torch.set_num_threads(1)  # the fastest for a model as small as this
torch.manual_seed(options.seed)
accelerator = Accelerator(mixed_precision=options.precision)
task = CopyTask(max_length=8, num_bits=6)
dnc = DNC(
    task.input_size, 64, num_cells=16, cell_size=16, num_read_heads=1, output_size=task.output_size
)
optimizer = torch.optim.Adam(dnc.parameters(), lr=3e-3)
dnc, optimizer = accelerator.prepare(dnc, optimizer)
progress = Progress()
accelerator.register_for_checkpointing(progress)
if options.resume:
    accelerator.load_state(options.folder)


def batch_of(number, batch_size):
    """The batch of that number, for this process, on its device."""
    seed = number * accelerator.num_processes + accelerator.process_index
    return task.batch(batch_size, torch.Generator().manual_seed(seed)).to(accelerator.device)


while progress.steps < options.steps:
    progress.steps += 1
    batch = batch_of(progress.steps, 16)
    logits, _ = dnc(batch.inputs)
    loss = task.loss(logits, batch)
    optimizer.zero_grad()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(dnc.parameters(), 10.0)
    optimizer.step()
    if progress.steps % 100 == 0 or progress.steps == options.steps:
        with torch.no_grad():
            batch = batch_of(0, 200)
            wrong = accelerator.gather(task.score(dnc(batch.inputs)[0], batch).wrong)
        right = 100 * (wrong == 0).float().mean()
        accelerator.print(
            f"step {progress.steps}: loss {loss:.4f}, {right:.1f} % of sequences right"
        )
accelerator.save_state(options.folder)
