"""What a user adds from outside, through the public ways, trains like what is built in."""

from dataclasses import dataclass

import torch

from dnc_fast.cli import main
from dnc_fast.presets import model_config, model_options, training_options
from dnc_fast.tasks import TASKS, Batch, BitTask
from dnc_fast.training import Trainer, TrainingConfig, load_checkpoint, read_metrics


def losses(folder):
    """The mean training loss at the beginning and at the end of a run."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    found = [row["loss"] for row in rows]
    return sum(found[:5]) / 5, sum(found[-5:]) / 5


# A task: its class, and one line in TASKS.


@dataclass(frozen=True)
class Toy(BitTask):
    """See a bit, answer it some steps later."""

    delay: int = 2

    input_size = 1
    output_size = 1

    def batch(self, batch_size, generator):
        inputs = torch.zeros(self.delay + 1, batch_size, 1)
        inputs[0] = torch.randint(0, 2, (batch_size, 1), generator=generator)
        mask = torch.zeros(self.delay + 1, batch_size, dtype=torch.bool)
        mask[-1] = True
        lengths = torch.full((batch_size,), self.delay + 1)
        return Batch(inputs, inputs.flip(0), mask, lengths)


def test_a_task_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "toy", Toy)
    task = Toy(delay=3)
    model = model_config(task, hidden_size=16, num_cells=4, cell_size=4)
    training = TrainingConfig(learning_rate=0.02, max_steps=60, evaluate_every=60)
    trainer = Trainer(task, model, training, tmp_path)
    trainer.train("off")
    first, last = losses(tmp_path)
    assert last < 0.2 * first
    again = Trainer.resume(tmp_path)
    assert again.task == task and again.held_out().right > 0.95


def test_a_task_is_trained_and_scored_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "toy", Toy)
    options = ["--delay", "1", "--learning-rate", "0.02", "--max-steps", "60", "--no-pictures"]
    assert main(["train", "toy", *options, "--out", str(tmp_path)]) == 0
    first, last = losses(tmp_path)
    assert last < 0.2 * first
    content = load_checkpoint(tmp_path)
    assert content["task"] == {"name": "toy", "options": {"delay": 1}}
    assert main(["eval", str(tmp_path), "--task", "delay=2"]) == 0
    assert main(["tasks"]) == 0
    assert "\ntoy " in capsys.readouterr().out


def test_a_task_without_defaults_of_its_own_gets_common_ones():
    assert training_options(Toy(), "lstm") == {}
    sizes = {"hidden_size": 64, "cell_size": 16, "num_read_heads": 1}
    assert model_options(Toy()) == {**sizes, "num_cells": 16}

    class Loaded(Toy):
        memory_load = 5

    assert model_options(Loaded()) == {**sizes, "num_cells": 10}
