"""A character language model: train it on a text file, score it, and let it write.

python examples/character_model.py [--file FILE]      about half a minute on a CPU
"""

import argparse
import tempfile

import torch

from dnc_fast import DNCConfig
from dnc_fast.tasks import CharactersTask
from dnc_fast.training import Trainer, TrainingConfig, describe, write

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--file", default="", help="default: the help texts that come with Python")
parser.add_argument("--steps", type=int, default=1000, help="training steps (%(default)s)")
parser.add_argument("--hidden-size", type=int, default=128, help="of the LSTM (%(default)s)")
options = parser.parse_args()

torch.set_num_threads(1)
task = CharactersTask(options.file, chunk_length=50, num_chunks=4)
model = DNCConfig(
    input_size=task.input_size,
    output_size=task.output_size,
    hidden_size=options.hidden_size,
    num_cells=32,
    cell_size=16,
    num_read_heads=1,
)
config = TrainingConfig(max_steps=options.steps, evaluate_every=500, evaluation_size=50)
with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(task, model, config, folder)
    trainer.train("off")
print(f"{options.steps} steps; held out: {describe(task, trainer.held_out())}")

print(write(trainer.model, task, length=300))
