"""A run in parts, cut off by time and killed, equals the unbroken run bit for bit."""

import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from test_training import assert_same_checkpoint

from dnc_fast import DNCConfig
from dnc_fast.state import tensors
from dnc_fast.tasks import CopyTask, EchoTask
from dnc_fast.training import Trainer, TrainingConfig, load_checkpoint, read_metrics

COPY = CopyTask(1, 4, num_bits=2)
ECHO = EchoTask(delay=3, chunk_length=4, num_chunks=3)
LESSONS = {"curriculum": "on", "lesson_every": 3, "lesson_pass": 0.4, "lesson_share": 0.5}
CASES = {
    "dropout, lessons": (
        COPY,
        {"num_layers": 2, "dropout": 0.3},
        {**LESSONS, "lesson_pass": 0.01},
    ),
    "carried state, lessons, accumulation, schedule": (
        ECHO,
        {},
        {**LESSONS, "accumulate": 2, "schedule": "cosine", "decay_steps": 20},
    ),
    "carried state, bfloat16": (
        ECHO,
        {},
        {"precision": "bfloat16", "optimizer": "rmsprop", "warm_up": 7},
    ),
}


def options(task, model, training):
    """Sizes and options of a tiny run."""
    sizes = {"hidden_size": 8, "num_cells": 4, "cell_size": 3, "num_read_heads": 1}
    return (
        DNCConfig(input_size=task.input_size, output_size=task.output_size, **{**sizes, **model}),
        TrainingConfig(
            **{
                "batch_size": 2,
                "evaluate_every": 5,
                "evaluation_size": 3,
                "solved_at": 2.0,
                "max_steps": 26,
                **training,
            }
        ),
    )


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from dnc_fast.training import Trainer
    torch.set_num_threads(1)
    trainer = Trainer.resume(Path(sys.argv[1]))
    step = trainer._training_step
    first = trainer.step
    def step_and_die():
        if trainer.step == first + 12:  # an evaluation, and so a checkpoint, lies before it
            os.kill(os.getpid(), signal.SIGKILL)
        return step()
    trainer._training_step = step_and_die
    trainer.train("off")
"""


@pytest.mark.parametrize("case", CASES)
def test_run_in_five_parts_and_killed_once_equals_an_unbroken_one(tmp_path, case):
    task = CASES[case][0]
    model, training = options(*CASES[case])
    whole = Trainer(task, model, training, tmp_path / "whole")
    whole.train("off")
    assert whole.finished and not whole.out_of_time

    parts = tmp_path / "parts"
    part = Trainer(task, model, training, parts)
    for number in range(1, 5):  # so little time that each part is one step
        part.train("off", max_minutes=1e-9)
        assert part.out_of_time and not part.finished
        assert load_checkpoint(parts)["progress"]["step"] == part.step
        if number == 2:
            killed = [sys.executable, "-c", textwrap.dedent(KILLED), str(parts)]
            done = subprocess.run(killed, capture_output=True, text=True, timeout=120)
            assert done.returncode == -signal.SIGKILL, done.stderr
            assert load_checkpoint(parts)["progress"]["step"] == 10
        torch.manual_seed(number)  # a new process starts with another random state
        part = Trainer.resume(parts)
    assert part.step == 12
    part.train("off")
    assert part.finished
    assert (parts / "metrics.jsonl").read_bytes() == whole.metrics_path.read_bytes()
    assert_same_checkpoint(parts, tmp_path / "whole")
    kinds = {row["kind"] for row in read_metrics(whole.metrics_path)}
    assert ("lesson" in kinds) == (training.curriculum == "on")


def test_state_is_carried_from_chunk_to_chunk_and_cut_at_the_stream(tmp_path):
    model, training = options(ECHO, {}, {})
    trainer = Trainer(ECHO, model, training, tmp_path)
    seen = []
    forward = trainer.model.forward

    def watch(inputs, state=None, **rest):
        seen.append((inputs, state))
        return forward(inputs, state, **rest)

    trainer.model.forward = watch
    trainer.config = TrainingConfig(**{**vars(training), "max_steps": 4, "evaluate_every": 100})
    trainer.train("off")
    inputs, states = zip(*seen, strict=True)
    assert [len(chunk) for chunk in inputs] == [4] * 4
    assert [state is None for state in states] == [True, False, False, True]
    assert all(not part.requires_grad for part in tensors(states[1]))
    assert any(part.abs().sum() > 0 for part in tensors(states[1]))
    first = torch.cat(inputs[:3])
    assert any(
        torch.equal(first, chunk)
        for chunk in [torch.cat([part.inputs for part in trainer._draw(0, 0)[0]])]
    )


def test_metrics_hold_nothing_of_the_clock(tmp_path):
    model, training = options(COPY, {}, LESSONS)
    runs = [Trainer(COPY, model, training, tmp_path / name) for name in "ab"]
    for run in runs:
        run.train("off")
    a, b = (run.metrics_path.read_bytes() for run in runs)
    assert a == b and runs[0].seconds != runs[1].seconds
    assert 0 <= runs[0].waited < runs[0].seconds


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_must_be_some(tmp_path, minutes):
    model, training = options(COPY, {}, {})
    trainer = Trainer(COPY, model, training, tmp_path)
    with pytest.raises(ValueError, match="max_minutes must be finite, above 0"):
        trainer.train("off", max_minutes=minutes)


AFTER_OTHERS = """
    import sys, tempfile
    import torch
    from dnc_fast import DNCConfig
    from dnc_fast.tasks import CopyTask
    from dnc_fast.training import Trainer, TrainingConfig
    torch.set_num_threads(1)
    def metrics(**changes):
        task = CopyTask(1, 4, num_bits=2)
        model = DNCConfig(
            input_size=4, output_size=2, hidden_size=8, num_cells=4, cell_size=3,
            num_read_heads=1, **changes,
        )
        config = TrainingConfig(batch_size=2, max_steps=26, evaluation_size=3)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(task, model, config, folder)
            trainer.train("off")
            return trainer.metrics_path.read_text()
    if sys.argv[1] == "after others":  # dropout takes the steps one by one
        metrics(num_layers=2, dropout=0.3)
    print(metrics())
"""


def test_a_run_does_not_depend_on_what_its_process_did_before():
    printed = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(AFTER_OTHERS), when],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout
        for when in ("first", "after others")
    ]
    assert printed[0] == printed[1] and len(printed[0]) > 1000
