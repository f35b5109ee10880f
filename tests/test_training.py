"""Training: exact resume, interrupts, checkpoints that are whole or not there, metrics."""

import json
import math
import os
import signal

import pytest
import torch

from dnc_fast import DNCConfig
from dnc_fast.tasks import CopyTask, MappingTask
from dnc_fast.training import (
    CheckpointError,
    Evaluation,
    Trainer,
    TrainingConfig,
    evaluate,
    load_checkpoint,
    read_metrics,
    restore_model,
    save_checkpoint,
)
from dnc_fast.training.metrics import MetricsWriter
from dnc_fast.training.random import STREAMS, stream_seed

TASK = CopyTask(1, 2, num_bits=2)
MODEL = DNCConfig(
    input_size=TASK.input_size,
    output_size=TASK.output_size,
    hidden_size=8,
    num_layers=2,
    dropout=0.2,
    num_cells=4,
    cell_size=3,
    num_read_heads=1,
)


def config(**changes):
    return TrainingConfig(
        **{"batch_size": 2, "evaluate_every": 4, "evaluation_size": 3, "solved_at": 2.0, **changes}
    )


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
    """Two runs ended alike, but for the clock."""
    a, b = map(load_checkpoint, (a, b))
    for content in (a, b):
        content["progress"].pop("seconds"), content["progress"].pop("waited")
    assert contents_equal(a, b)


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
@pytest.mark.parametrize("metrics_format", ["jsonl", "csv"])
def test_resumed_run_equals_unbroken_run_bit_for_bit(tmp_path, optimizer, metrics_format):
    options = {"optimizer": optimizer, "max_steps": 10}
    whole = Trainer(TASK, MODEL, config(**options), tmp_path / "a", metrics_format=metrics_format)
    whole.train("off")

    options["max_steps"] = 3
    part = Trainer(TASK, MODEL, config(**options), tmp_path / "b", metrics_format=metrics_format)
    part.train("off")
    with open(part.metrics_path, "a") as file:
        file.write("rows that were written after the last checkpoint")
    torch.manual_seed(123)  # a new process starts with another random state
    for max_steps in (6, 10):
        Trainer.resume(tmp_path / "b", max_steps=max_steps).train("off")

    metrics = f"metrics.{metrics_format}"
    assert (tmp_path / "a" / metrics).read_bytes() == (tmp_path / "b" / metrics).read_bytes()
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b")


def test_resume_refuses_fewer_steps_than_were_taken(tmp_path):
    Trainer(TASK, MODEL, config(max_steps=3), tmp_path).train("off")
    with pytest.raises(ValueError, match="max_steps must be at least 3, got 2"):
        Trainer.resume(tmp_path, max_steps=2)


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    trainer = Trainer(TASK, MODEL, config(max_steps=3), tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)  # what another process would hold
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another process trains in"):
        trainer.train("off")
    os.close(descriptor)
    trainer.train("off")


def test_checkpoint_with_parts_missing_is_refused(tmp_path):
    Trainer(TASK, MODEL, config(max_steps=1), tmp_path).train("off")
    content = load_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "checkpoint.pt", {"task": content["task"]})
    with pytest.raises(CheckpointError, match=r"does not hold a run.*lacks.*'parameters'"):
        Trainer.resume(tmp_path)
    for damage in ({"model": {}}, {"parameters": {}}, {"progress": {}}):
        save_checkpoint(tmp_path / "checkpoint.pt", {**content, **damage})
        with pytest.raises(CheckpointError, match="does not hold a run"):
            Trainer.resume(tmp_path)


def test_default_dtype_does_not_matter(tmp_path):
    def run(name):
        trainer = Trainer(TASK, MODEL, config(max_steps=2), tmp_path / name)
        trainer.train("off")
        return trainer.metrics_path.read_bytes()

    expected = run("a")
    torch.set_default_dtype(torch.float64)
    try:
        assert run("b") == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_seeds_are_reproducible_and_differ(tmp_path):
    def losses(name, seed):
        trainer = Trainer(TASK, MODEL, config(max_steps=2, seed=seed), tmp_path / name)
        trainer.train("off")
        return [row["loss"] for row in read_metrics(trainer.metrics_path)]

    assert losses("a", 0) == losses("b", 0) != losses("c", 1)


def test_streams_of_a_seed_are_apart():
    seeds = {stream_seed(0, stream, index) for stream in STREAMS for index in range(100)}
    assert len(seeds) == 100 * len(STREAMS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_and_can_be_resumed(tmp_path, number):
    trainer = Trainer(TASK, MODEL, config(max_steps=50), tmp_path)
    step = trainer._training_step

    def step_and_interrupt():
        loss = step()
        if trainer.step == 6:
            os.kill(os.getpid(), number)
        return loss

    trainer._training_step = step_and_interrupt
    before = signal.getsignal(number)
    trainer.train("off")
    assert signal.getsignal(number) is before
    assert trainer.interrupted == number
    assert load_checkpoint(tmp_path)["progress"]["step"] == 6
    assert Trainer.resume(tmp_path).step == 6


def test_solved_stops_after_evaluations_in_a_row(tmp_path, monkeypatch):
    shares = iter([1.0, 0.0, 1.0, 1.0])
    monkeypatch.setattr(
        "dnc_fast.training.trainer.evaluate", lambda *_: Evaluation(0.0, 0.0, 1.0, next(shares))
    )
    options = config(solved_at=1.0, solved_evaluations=2, max_steps=100)
    trainer = Trainer(TASK, MODEL, options, tmp_path)
    trainer.train("off")
    assert trainer.solved and trainer.step == 4 * options.evaluate_every
    Trainer.resume(tmp_path).train("off")  # solved is solved
    assert load_checkpoint(tmp_path)["progress"]["step"] == trainer.step


def test_a_run_is_never_overwritten(tmp_path):
    Trainer(TASK, MODEL, config(max_steps=1), tmp_path).train("off")
    with pytest.raises(FileExistsError, match="holds a run already"):
        Trainer(TASK, MODEL, config(), tmp_path)


def test_evaluation_leaves_the_model_as_it_was(tmp_path):
    model = Trainer(TASK, MODEL, config(), tmp_path).model
    first, again = (evaluate(model, TASK, 7, seed=1) for _ in range(2))
    assert first == again  # dropout is off meanwhile
    assert model.training and all(p.grad is None for p in model.parameters())
    assert evaluate(model, TASK, 7, seed=2) != first
    assert evaluate(model, TASK, 7, seed=1, stream="validation") != first
    assert evaluate(model, TASK, 7, seed=1, num_cells=9).loss != first.loss


def test_restored_model_computes_the_same(tmp_path):
    trainer = Trainer(TASK, MODEL, config(max_steps=2), tmp_path)
    trainer.train("off")
    content = load_checkpoint(tmp_path)
    assert evaluate(restore_model(content), TASK, 9, 0) == evaluate(trainer.model, TASK, 9, 0)
    assert restore_model(content, num_cells=7).config.num_cells == 7


def test_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": 1})

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, {"value": 2})
    assert load_checkpoint(path)["value"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not a checkpoint")


def other_program(path):
    torch.save({"state_dict": {}}, path)


def with_code(path):
    torch.save({"format": "dnc_fast checkpoint", "code": os.system}, path)


@pytest.mark.parametrize("damage", [truncated, empty, text, other_program, with_code])
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": torch.zeros(100)})
    damage(path)
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is not a dnc_fast checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("version", [1, 99])
def test_checkpoint_of_another_version_is_refused(tmp_path, version):
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": "dnc_fast checkpoint", "version": version}, path)
    with pytest.raises(CheckpointError, match=f"version {version}, this dnc_fast reads version 2"):
        load_checkpoint(path)


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*checkpoint\.pt"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
def test_metrics_round_trip(tmp_path, name):
    path = tmp_path / name
    writer = MetricsWriter(path)
    writer.add("train", step=1, loss=0.1, gradient_norm=1e-17)
    size = writer.flush()
    writer.add("evaluation", step=1, loss=0.5, wrong=3.0, solved=0.25)
    writer.add("lesson", step=1, lesson=2, share=0.5)
    writer.flush()
    train = {"kind": "train", "step": 1, "loss": 0.1, "gradient_norm": 1e-17}
    evaluation = {"kind": "evaluation", "step": 1, "loss": 0.5, "wrong": 3.0, "solved": 0.25}
    lesson = {"kind": "lesson", "step": 1, "lesson": 2, "share": 0.5}
    assert read_metrics(path) == [train, evaluation, lesson]
    path.write_text(path.read_text()[:-3])
    assert read_metrics(path) == [train, evaluation]
    MetricsWriter(path, size).flush()
    assert read_metrics(path) == [train]


def test_lost_metrics_are_noticed(tmp_path):
    Trainer(TASK, MODEL, config(max_steps=2), tmp_path).train("off")
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl must have at least the \d+ bytes"):
        Trainer.resume(tmp_path)


def test_metrics_are_valid_json_lines(tmp_path):
    trainer = Trainer(TASK, MODEL, config(max_steps=8), tmp_path)
    trainer.train("off")
    rows = [json.loads(line) for line in trainer.metrics_path.read_text().splitlines()]
    assert [row["kind"] for row in rows].count("train") == 8
    assert [row["step"] for row in rows if row["kind"] == "evaluation"] == [4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be finite, above 0, got -1.0"),
        ({"learning_rate": math.nan}, "learning_rate must be finite, above 0, got nan"),
        ({"optimizer": "sgd"}, "optimizer must be one of .*got 'sgd'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"max_steps": "9"}, "max_steps must be an integer, got '9'"),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"schedule": "step"}, "schedule must be one of .*got 'step'"),
        ({"precision": "int8"}, "precision must be one of .*got 'int8'"),
        ({"curriculum": "yes"}, "curriculum must be one of .*got 'yes'"),
        ({"lesson_share": 1.5}, "lesson_share must be finite, at least 0 and at most 1, got 1.5"),
        (
            {"schedule": "cosine", "warm_up": 50, "decay_steps": 50},
            "warm_up must be less than decay_steps, 50, got 50",
        ),
    ],
)
def test_bad_training_options_are_named(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        config(**changes)


def test_model_must_fit_the_task(tmp_path):
    with pytest.raises(ValueError, match="must have input_size 8 and output_size 8"):
        Trainer(MappingTask(), MODEL, config(), tmp_path)
    own = DNCConfig(**{**vars(MODEL), "controller": lambda size: torch.nn.Linear(size, 3)})
    with pytest.raises(ValueError, match="controller must be a name"):
        Trainer(TASK, own, config(), tmp_path)


def test_training_learns(tmp_path):
    task = MappingTask(num_symbols=3, length=2)
    model = DNCConfig(
        input_size=3, output_size=3, hidden_size=16, num_cells=2, cell_size=2, num_read_heads=1
    )
    trainer = Trainer(
        task, model, TrainingConfig(max_steps=400, evaluate_every=20, evaluation_size=20), tmp_path
    )
    trainer.train("off")
    assert trainer.solved
