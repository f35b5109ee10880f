"""Tiny training runs: what they train on, what happens at a step, how two of them compare."""

import torch

from dnc_fast import DNCConfig
from dnc_fast.tasks import CopyTask, EchoTask
from dnc_fast.training import Trainer, TrainingConfig, load_checkpoint, read_metrics
from dnc_fast.training.distributed import ALONE

COPY = CopyTask(1, 4, num_bits=2)
ECHO = EchoTask(delay=3, chunk_length=4, num_chunks=3)
LESSONS = {"curriculum": "on", "lesson_every": 3, "lesson_pass": 0.4, "lesson_share": 0.5}

TINY_OPTIONS = {
    "--max-length": 2,
    "--num-bits": 2,
    "--hidden-size": 8,
    "--cell-size": 3,
    "--batch-size": 2,
    "--evaluate-every": 5,
    "--evaluation-size": 4,
    "--threads": 1,
    "--progress": "off",
}
"""Of `dnc-fast train copy`."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def model_config(task=COPY, **changes):
    sizes = {"hidden_size": 8, "num_cells": 4, "cell_size": 3, "num_read_heads": 1}
    return DNCConfig(
        input_size=task.input_size, output_size=task.output_size, **{**sizes, **changes}
    )


def training_config(**changes):
    tiny = {"batch_size": 2, "evaluate_every": 5, "evaluation_size": 3, "max_steps": 26}
    return TrainingConfig(**{**tiny, "solved_at": 2.0, **changes})


def trainer_of(folder, task=COPY, model=(), metrics_format="jsonl", ranks=ALONE, **training):
    """A run that has not started, with some options of model and training changed."""
    configs = (model_config(task, **dict(model)), training_config(**training))
    return Trainer(task, *configs, folder, metrics_format=metrics_format, ranks=ranks)


def trained(folder, *args, **options):
    """The run of `trainer_of`, finished."""
    trainer = trainer_of(folder, *args, **options)
    trainer.train("off")
    return trainer


def rows(trainer, kind):
    return [row for row in read_metrics(trainer.metrics_path) if row["kind"] == kind]


def watch(trainer, see):
    """Call `see` with the inputs and the state of each forward pass of training, before it."""

    def hook(model, args):
        if model.training:
            see(*args)

    return trainer.model.register_forward_pre_hook(hook)


def at_step(trainer, number, action):
    """Call `action` once with what the model sees in the training step of that number."""

    def see(inputs, state):
        if trainer.step + 1 == number:
            handle.remove()
            action(inputs, state)

    handle = watch(trainer, see)


def judge_by(monkeypatch, judge):
    """Let `judge` take the place of the trainer's evaluations."""
    monkeypatch.setattr("dnc_fast.training.trainer.evaluate", judge)


def contents_equal(a, b):
    """Whether two nests of tensors and values are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(contents_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(contents_equal, a, b))
    return a == b


def assert_same_checkpoint(a, b):
    """Two runs ended with the same checkpoint, apart from times."""
    a, b = map(load_checkpoint, (a, b))
    for content in (a, b):
        content["progress"].pop("seconds"), content["progress"].pop("waited")
    assert contents_equal(a, b)
