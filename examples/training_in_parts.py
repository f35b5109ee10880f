"""A long run in parts, with lessons: stop after some time, continue later, read the metrics.

python examples/training_in_parts.py      about half a minute on a CPU
"""

import argparse
import tempfile

import torch

from dnc_fast.presets import model_config
from dnc_fast.tasks import TemporalOrderTask
from dnc_fast.training import Trainer, TrainingConfig, describe, read_metrics

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=3000, help="training steps (%(default)s)")
parser.add_argument("--minutes", type=float, default=0.2, help="for each part (%(default)s)")
options = parser.parse_args()

torch.set_num_threads(1)
task = TemporalOrderTask("moderate")  # its lessons: "easy", then "moderate"
model = model_config(task)
config = TrainingConfig(
    max_steps=options.steps, curriculum="on", schedule="cosine", decay_steps=10_000, warm_up=50
)

with tempfile.TemporaryDirectory() as folder:
    trainer = Trainer(task, model, config, folder)
    trainer.train("off", max_minutes=options.minutes)
    while not trainer.finished:
        print(f"out of time at step {trainer.step}")
        trainer = Trainer.resume(folder)  # as a new process would
        trainer.train("off", max_minutes=options.minutes)
    for row in read_metrics(trainer.metrics_path):
        if row["kind"] == "lesson":
            print(f"step {row['step']}: lesson {row['lesson']}, {100 * row['share']:.0f} % right")
    print(f"{trainer.step} steps; held out: {describe(task, trainer.held_out())}")
