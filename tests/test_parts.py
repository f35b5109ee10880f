"""A run that is split, runs out of time or is killed equals an uninterrupted one bit for bit."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from runs import (
    COPY,
    ECHO,
    LESSONS,
    assert_same_checkpoint,
    at_step,
    rows,
    trained,
    trainer_of,
    watch,
)

from dnc_fast.state import tensors
from dnc_fast.training import Trainer, load_checkpoint

CASES = {
    "dropout, lessons": {
        "task": COPY,
        "model": {"num_layers": 2, "dropout": 0.3},
        **LESSONS,
        "lesson_pass": 0.01,
    },
    "carried state, lessons, accumulation, schedule, csv": {
        "task": ECHO,
        "metrics_format": "csv",
        **LESSONS,
        "accumulate": 2,
        "schedule": "cosine",
        "decay_steps": 20,
    },
    "carried state with integers, bfloat16": {
        "task": ECHO,
        "model": {"linkage": "sparse", "link_fan_out": 2},
        "precision": "bfloat16",
        "optimizer": "rmsprop",
        "warm_up": 7,
    },
}


def python(code, *arguments):
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from dnc_fast.training import Trainer
    torch.set_num_threads(1)
    trainer = Trainer.resume(Path(sys.argv[1]))
    first = trainer.step
    def die(model, args):
        if trainer.step == first + 12:  # after an evaluation, and so a checkpoint
            os.kill(os.getpid(), signal.SIGKILL)
    trainer.model.register_forward_pre_hook(die)
    trainer.train("off")
"""


@pytest.mark.parametrize("case", CASES)
def test_run_in_five_parts_and_killed_once_equals_an_uninterrupted_one(tmp_path, case):
    whole = trained(tmp_path / "whole", **CASES[case])
    assert whole.finished and not whole.out_of_time

    parts = tmp_path / "parts"
    part = trainer_of(parts, **CASES[case], max_steps=24)
    for number in range(1, 5):  # so little time that each part is one step
        part.train("off", max_minutes=1e-9)
        assert part.out_of_time and not part.finished
        assert load_checkpoint(parts)["progress"]["step"] == part.step
        if number == 2:
            done = python(KILLED, parts)
            assert done.returncode == -signal.SIGKILL, done.stderr
            assert load_checkpoint(parts)["progress"]["step"] == 10
        with open(part.metrics_path, "a") as file:
            file.write("rows that were written after the last checkpoint")
        torch.manual_seed(number)  # a new process starts with another random state
        part = Trainer.resume(parts, max_steps=26)
    assert part.step == 12
    part.train("off")
    assert part.finished
    assert part.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    assert_same_checkpoint(parts, tmp_path / "whole")
    assert bool(rows(whole, "lesson")) == (whole.config.curriculum == "on")


def test_state_is_carried_from_chunk_to_chunk_and_ends_with_the_stream(tmp_path):
    trainer = trainer_of(tmp_path, ECHO, max_steps=4, evaluate_every=100)
    seen = []
    watch(trainer, lambda *args: seen.append(args))
    trainer.train("off")
    inputs, states = zip(*seen, strict=True)
    assert [len(chunk) for chunk in inputs] == [4] * 4
    assert [state is None for state in states] == [True, False, False, True]
    assert all(not part.requires_grad for part in tensors(states[1]))
    assert any(part.abs().sum() > 0 for part in tensors(states[1]))
    (chunks,) = trainer.curriculum.draw(0, 0)
    assert torch.equal(torch.cat(inputs[:3]), torch.cat([chunk.inputs for chunk in chunks]))


@pytest.mark.parametrize("minutes", [0, -1.0, float("nan")])
def test_minutes_must_be_some(tmp_path, minutes):
    with pytest.raises(ValueError, match="max_minutes must be finite, above 0"):
        trainer_of(tmp_path).train("off", max_minutes=minutes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_can_be_resumed(tmp_path, number):
    trainer = trainer_of(tmp_path)
    at_step(trainer, 6, lambda *_: signal.raise_signal(number))
    before = signal.getsignal(number)
    trainer.train("off")
    assert signal.getsignal(number) is before
    assert trainer.interrupted == number
    assert load_checkpoint(tmp_path)["progress"]["step"] == 6
    assert Trainer.resume(tmp_path).step == 6


AFTER_OTHERS = """
    import sys, tempfile
    import torch
    sys.path.insert(0, sys.argv[1])
    from runs import trained
    torch.set_num_threads(1)
    def metrics(**model):
        with tempfile.TemporaryDirectory() as folder:
            return trained(folder, model=model).metrics_path.read_text()
    if sys.argv[2] == "after others":  # dropout takes the steps one by one
        metrics(num_layers=2, dropout=0.3)
    print(metrics())
"""


def test_a_run_does_not_depend_on_what_its_process_did_before():
    folder = Path(__file__).parent
    first, after = (python(AFTER_OTHERS, folder, when) for when in ("first", "after others"))
    assert first.returncode == after.returncode == 0, first.stderr + after.stderr
    assert first.stdout == after.stdout and len(first.stdout) > 1000
