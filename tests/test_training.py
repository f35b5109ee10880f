"""Training: what a run depends on, checkpoints that are whole or not there, metrics, options."""

import math
import os
import random

import pytest
import torch
from runs import COPY, judge_by, model_config, rows, trained, trainer_of, training_config

import dnc_fast
from dnc_fast.tasks import MappingTask
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


def test_metrics_depend_on_the_seed_alone(tmp_path):
    """Not on the clock, nor on torch's default dtype."""
    first, other = (trained(tmp_path / str(seed), max_steps=10, seed=seed) for seed in (0, 1))
    torch.set_default_dtype(torch.float64)
    try:
        again = trained(tmp_path / "again", max_steps=10)
    finally:
        torch.set_default_dtype(torch.float32)
    assert again.metrics_path.read_bytes() == first.metrics_path.read_bytes()
    assert again.seconds != first.seconds and 0 <= first.waited < first.seconds
    assert rows(first, "train")[0]["loss"] != rows(other, "train")[0]["loss"]
    assert len(rows(first, "train")) == 10
    assert [row["step"] for row in rows(first, "evaluation")] == [5, 10]


def test_streams_of_a_seed_are_apart():
    seeds = {stream_seed(0, stream, index) for stream in STREAMS for index in range(100)}
    assert len(seeds) == 100 * len(STREAMS)


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    trainer = trainer_of(tmp_path, max_steps=3)
    descriptor = os.open(tmp_path, os.O_RDONLY)  # what another process would hold
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError, match="another process trains in"):
        trainer.train("off")
    os.close(descriptor)
    trainer.train("off")


def test_a_run_is_never_overwritten_cut_short_or_continued_without_its_metrics(tmp_path):
    trainer = trained(tmp_path, max_steps=3)
    with pytest.raises(FileExistsError, match="holds a run already"):
        trainer_of(tmp_path)
    with pytest.raises(ValueError, match="max_steps must be at least 3, got 2"):
        Trainer.resume(tmp_path, max_steps=2)
    trainer.metrics_path.unlink()
    with pytest.raises(ValueError, match=r"^\S+metrics.jsonl must have at least the \d+ bytes"):
        Trainer.resume(tmp_path)


def test_checkpoint_with_parts_missing_is_refused(tmp_path):
    trained(tmp_path, max_steps=1)
    content = load_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "checkpoint.pt", {"task": content["task"]})
    with pytest.raises(CheckpointError, match=r"does not hold a run.*lacks.*'parameters'"):
        Trainer.resume(tmp_path)
    for damage in ({"model": {}}, {"parameters": {}}, {"progress": {}}):
        save_checkpoint(tmp_path / "checkpoint.pt", {**content, **damage})
        with pytest.raises(CheckpointError, match="does not hold a run"):
            Trainer.resume(tmp_path)


def test_solved_stops_after_evaluations_in_a_row(tmp_path, monkeypatch):
    shares = iter([1.0, 0.0, 1.0, 1.0])
    judge_by(monkeypatch, lambda *_, **__: Evaluation(0.0, 0.0, 1.0, next(shares)))
    trainer = trained(tmp_path, solved_at=1.0, solved_evaluations=2, max_steps=100)
    assert trainer.solved and trainer.step == 4 * trainer.config.evaluate_every
    Trainer.resume(tmp_path).train("off")  # solved is solved
    assert load_checkpoint(tmp_path)["progress"]["step"] == trainer.step


def test_evaluation_leaves_the_model_as_it_was(tmp_path):
    model = trainer_of(tmp_path, model={"num_layers": 2, "dropout": 0.2}).model
    first, again = (evaluate(model, COPY, 7, seed=1) for _ in range(2))
    assert first == again  # dropout is off meanwhile
    assert model.training and all(p.grad is None for p in model.parameters())
    assert evaluate(model, COPY, 7, seed=2) != first
    assert evaluate(model, COPY, 7, seed=1, stream="validation") != first
    assert evaluate(model, COPY, 7, seed=1, num_cells=9).loss != first.loss


def test_restored_model_computes_the_same(tmp_path):
    trainer = trained(tmp_path, max_steps=2)
    content = load_checkpoint(tmp_path)
    assert evaluate(restore_model(content), COPY, 9, 0) == evaluate(trainer.model, COPY, 9, 0)
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


def test_load_run_in_two_lines(tmp_path):
    trainer = trained(tmp_path, max_steps=2)
    for path in (str(tmp_path), tmp_path / "checkpoint.pt"):
        model, task = dnc_fast.load_run(path)
        assert task == COPY and not model.training
        batch = task.batch(3, torch.Generator().manual_seed(0))
        outputs, _ = model(batch.inputs)
        assert torch.equal(outputs, trainer.model(batch.inputs)[0])
        assert task.probabilities(outputs).shape == batch.targets.shape


def test_a_folder_where_the_checkpoint_belongs(tmp_path):
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt must be .* a file, but is a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"checkpoint\.pt must be .* but is a folder"):
        trained(tmp_path, max_steps=2)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_no_checkpoint(tmp_path, seed):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(random.Random(seed).randbytes(3000))
    with pytest.raises(CheckpointError, match=r"checkpoint.pt is not a dnc_fast checkpoint"):
        load_checkpoint(path)


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "other program": lambda path: torch.save({"state_dict": {}}, path),
    "code": lambda path: torch.save({"format": "dnc_fast checkpoint", "code": os.system}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_checkpoints_are_refused(tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"value": torch.zeros(100)})
    DAMAGES[damage](path)
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be finite, above 0, got -1.0"),
        ({"learning_rate": math.nan}, "learning_rate must be finite, above 0, got nan"),
        ({"optimizer": "sgd"}, "optimizer must be one of .*got 'sgd'"),
        ({"momentum": 0.5}, "momentum must be 0 with the optimizer adam, got 0.5"),
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
        training_config(**changes)


def test_model_must_fit_the_task(tmp_path):
    with pytest.raises(ValueError, match="must have input_size 8 and output_size 8"):
        Trainer(MappingTask(), model_config(COPY), training_config(), tmp_path)
    with pytest.raises(ValueError, match="controller must be a name"):
        trainer_of(tmp_path, model={"controller": lambda size: torch.nn.Linear(size, 3)})


def test_training_learns(tmp_path):
    task = MappingTask(num_symbols=3, length=2)
    config = TrainingConfig(max_steps=400, evaluate_every=20, evaluation_size=20)
    trainer = Trainer(task, model_config(task, hidden_size=16), config, tmp_path)
    trainer.train("off")
    assert trainer.solved
