"""On a GPU the host reads how a step went after the next one was launched; here, on a CPU too."""

import math

import pytest
import torch
from runs import ECHO, LESSONS, assert_same_checkpoint, rows, trained, trainer_of, watch

from dnc_fast.training import Trainer, TrainingError


@pytest.fixture
def late(monkeypatch):
    """Fused optimizers on CPUs, so that steps are read late there."""
    monkeypatch.setattr("dnc_fast.training.optimization.FUSED_ON", ("cpu",))


def read_at_once(trainer):
    trainer._steps._late = False
    return trainer


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 11, **LESSONS},
        {"max_steps": 7, "accumulate": 2, "precision": "bfloat16"},
        {"max_steps": 8, "task": ECHO},
    ],
    ids=["lessons", "accumulate", "carried"],
)
def test_a_run_is_the_same_as_if_each_step_were_read_at_once(tmp_path, late, options):
    found, expected, again = (tmp_path / name for name in ("late", "at once", "in parts"))
    assert trainer_of(found / "unused")._steps._late
    trained(found / "run", **options)
    read_at_once(trainer_of(expected, **options)).train("off")
    trained(again, **options | {"max_steps": 4})
    Trainer.resume(again, max_steps=options["max_steps"]).train("off")
    for folder in (found / "run", again):
        metrics = (folder / "metrics.jsonl").read_text()
        assert metrics == (expected / "metrics.jsonl").read_text()
    assert_same_checkpoint(found / "run", expected)


def test_a_step_is_read_after_the_next_one_was_launched(tmp_path, late):
    trainer = trainer_of(tmp_path)
    batches = [chunks[0] for chunks in trainer.curriculum.draw(0, 0)]
    first, second, last = (
        trainer._steps.take(1, batches),
        trainer._steps.take(2, batches),
        trainer._steps.settle(),
    )
    assert [report.step for report in first + second + last] == [1, 2]
    assert (first, len(second), trainer._steps.settle()) == ([], 1, [])


@pytest.mark.parametrize("change", [{"spikes": "skip"}, {"optimizer": "rmsprop"}])
def test_the_host_reads_at_once_what_it_must_decide(tmp_path, late, change):
    trainer = trainer_of(tmp_path, **change)
    batches = [chunks[0] for chunks in trainer.curriculum.draw(0, 0)]
    assert [report.step for report in trainer._steps.take(1, batches)] == [1]


@pytest.mark.parametrize("at_once", [False, True])
def test_a_bad_step_changes_no_parameter_and_is_named(tmp_path, late, at_once):
    trainer = trainer_of(tmp_path)
    if at_once:
        read_at_once(trainer)
    weight = trainer.model.cell.interface.weight
    launched = []

    def poison(gradient):  # the gradients of step 3, and those that are calculated to name it
        launched.append(weight.detach().clone())
        bad = (3,) if at_once else (3, 5)
        return gradient * math.nan if len(launched) in bad else gradient

    weight.register_hook(poison)
    with pytest.raises(
        TrainingError,
        match=r"at step 3: gradient of cell\.interface\.weight is nan at index .*; the parameters "
        "are those from before that step",
    ):
        trainer.train("off")
    assert all(torch.equal(weight, left) for left in launched[2:])
    assert not torch.equal(launched[1], weight)
    assert all(part.isfinite().all() for part in trainer.model.parameters())
    assert not (tmp_path / "checkpoint.pt").exists()
    batches = [chunks[0] for chunks in trainer.curriculum.draw(3, 0)]
    assert trainer._steps.take(4, batches) + trainer._steps.settle(), "the next step is a good one"
    assert not torch.equal(launched[2], weight)


def test_the_state_from_before_a_bad_step_is_left(tmp_path, late):
    trainer = trainer_of(tmp_path, ECHO)
    states = []
    trainer.model.cell.interface.weight.register_hook(
        lambda gradient: gradient * math.nan if trainer.step >= 2 else gradient
    )
    watch(trainer, lambda inputs, state: states.append(state))
    with pytest.raises(TrainingError, match="at step 3"):
        trainer.train("off")
    assert trainer._steps.carried[0] is states[2]


def test_a_spike_has_its_own_step_and_tensor(tmp_path, late):
    trainer = trainer_of(tmp_path, max_steps=64, clip_norm=1e6)
    for name, at in (("output", 60), ("interface", 61)):
        weight = getattr(trainer.model.cell, name).weight
        weight.register_hook(lambda g, at=at: 1e5 * g if trainer.step == at - 1 else g)
    trainer.train("off")
    found = [(spike["step"], spike["tensor"]) for spike in rows(trainer, "spike")]
    assert found == [(60, "cell.output.weight"), (61, "cell.interface.weight")]


@pytest.mark.parametrize("before", [("cpu",), ()])
def test_a_run_goes_on_with_the_other_kind_of_optimizer(tmp_path, monkeypatch, before):
    """As on a machine with a GPU, or without."""
    name = "dnc_fast.training.optimization.FUSED_ON"
    monkeypatch.setattr(name, before)
    trained(tmp_path, max_steps=3)
    monkeypatch.setattr(name, ("cpu",) if not before else ())
    resumed = Trainer.resume(tmp_path, max_steps=5)
    resumed.train("off")
    assert [row["step"] for row in rows(resumed, "train")] == [1, 2, 3, 4, 5]
    assert bool(resumed.optimization.optimizer.param_groups[0]["fused"]) == (not before)
