"""Values that are not finite, and spikes, are named: their step, their tensor, their size."""

import math

import pytest
import torch
from runs import ECHO, at_step, rows, trained, trainer_of

from dnc_fast.training import TrainingError, load_checkpoint
from dnc_fast.training.health import UsualNorm, first_bad_index, named_tensors


def assert_stops(trainer, message):
    with pytest.raises(TrainingError, match=message):
        trainer.train("off")


def test_a_parameter_is_named_and_nothing_is_touched(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.save()
    with torch.no_grad():
        trainer.model.cell.output.bias[1] = math.nan
    before = trainer.model.cell.interface.weight.clone()
    message = r"got nan and nan at step 1: parameter\.cell\.output\.bias is nan at index \(1,\)"
    assert_stops(trainer, message)
    assert torch.equal(trainer.model.cell.interface.weight, before)
    assert load_checkpoint(tmp_path)["progress"]["step"] == 0


def test_a_gradient_is_named(tmp_path):
    trainer = trainer_of(tmp_path)
    weight = trainer.model.cell.interface.weight
    at_step(trainer, 3, lambda *_: weight.register_hook(lambda gradient: gradient / 0))
    message = r"at step 3: gradient of cell\.interface\.weight is (inf|-inf|nan) at index \(0, 0\)"
    assert_stops(trainer, message)


def test_an_activation_is_named_with_its_time_step(tmp_path):
    trainer = trainer_of(tmp_path)

    @torch.no_grad()
    def poison(inputs, state):  # finite, but their product with the start cue is not
        trainer.model.cell.interface.weight.fill_(3e38)
        trainer.model.cell.interface.bias.fill_(3e38)

    at_step(trainer, 2, poison)
    assert_stops(
        trainer, r"at step 2: activation \w+ is \S+ at time step 0 of sequence 0, index \(0"
    )


def test_gradients_that_are_finite_but_too_large_are_named(tmp_path):
    trainer = trainer_of(tmp_path)
    poisoned = trainer.model.cell.output.bias
    poisoned.register_hook(lambda gradient: torch.full_like(gradient, 3e38))
    message = r"and inf at step 1: gradient of cell\.output\.bias, the largest, .* 3e\+38"
    assert_stops(trainer, message)


def test_a_carried_state_is_named(tmp_path):
    trainer = trainer_of(tmp_path, ECHO)
    at_step(trainer, 2, lambda inputs, state: state.memory.link.mul_(math.nan))
    assert_stops(trainer, r"at step 2: state\.memory\.link is nan at index \(0, 0, 0, 0\)")


def test_names_of_nested_tensors():
    one = torch.zeros(1)
    nest = {"a": [one, (one, None)], "b": {"c": one}}
    assert [name for name, _ in named_tensors("x", nest)] == ["x.a[0]", "x.a[1][0]", "x.b.c"]
    assert first_bad_index(torch.tensor([[1.0, 2.0], [math.inf, 0.0]])) == (1, 0)
    assert first_bad_index(torch.zeros(3)) is None


# Spikes


def test_a_spike_is_many_times_the_usual():
    usual = UsualNorm(factor=10.0)
    assert [usual.spike(1000.0 / (step + 1)) for step in range(5)] == [None] * 5
    usual = UsualNorm(factor=10.0)
    assert all(usual.spike(2.0) is None for _ in range(60))
    assert usual.spike(19.0) is None
    assert usual.spike(60.0) == pytest.approx(60 / 2.0, rel=0.1)
    assert usual.spike(0.0) is None
    assert any(usual.spike(60.0) is None for _ in range(1000)), "a lasting change becomes usual"


def trained_with_a_spike(folder, **options):
    """A run in whose 60th step a gradient is many times as large."""
    trainer = trainer_of(folder, max_steps=64, clip_norm=1e6, **options)
    weight = trainer.model.cell.interface.weight
    at = {}

    def enlarge(*_):
        at["before"] = weight.detach().clone()
        weight.register_hook(lambda gradient: 1e5 * gradient if trainer.step == 59 else gradient)

    at_step(trainer, 60, enlarge)
    at_step(trainer, 61, lambda *_: at.setdefault("after", weight.detach().clone()))
    trainer.train("off")
    return trainer, at


@pytest.mark.parametrize("spikes", ["note", "skip"])
def test_a_spike_is_recorded_and_skipped_if_wanted(tmp_path, spikes):
    trainer, weight = trained_with_a_spike(tmp_path, spikes=spikes)
    (spike,) = rows(trainer, "spike")
    assert spike["step"] == 60 and spike["tensor"] == "cell.interface.weight"
    assert spike["factor"] > 20
    assert torch.equal(weight["before"], weight["after"]) == (spikes == "skip")


def test_what_is_usual_is_in_the_checkpoint(tmp_path):
    whole = trained(tmp_path / "whole", max_steps=6)
    parts = trained(tmp_path / "parts", max_steps=3)
    parts = type(parts).resume(tmp_path / "parts", max_steps=6)
    parts.train("off")
    assert parts._steps.usual_norm.state == whole._steps.usual_norm.state
    assert whole._steps.usual_norm.state[1] == 6


def test_old_csv_metrics_keep_their_columns(tmp_path):
    trainer = trainer_of(tmp_path, max_steps=1, metrics_format="csv")
    trainer.train("off")
    path = tmp_path / "metrics.csv"
    header, *lines = path.read_text().splitlines()
    old = header.removesuffix(",factor,tensor,name")
    path.write_text("\n".join([old, *(line.removesuffix(",,,") for line in lines)]) + "\n")
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    content["progress"]["metrics_size"] = path.stat().st_size
    torch.save(content, tmp_path / "checkpoint.pt")
    resumed = type(trainer).resume(tmp_path, max_steps=2)
    resumed.train("off")
    assert {line.count(",") for line in path.read_text().splitlines()} == {old.count(",")}
    assert [row["step"] for row in rows(resumed, "train")] == [1, 2]
