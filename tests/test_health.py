"""The first value that is not finite is named: its step, its tensor, its index."""

import math

import pytest
import torch
from runs import ECHO, at_step, trainer_of

from dnc_fast.training import TrainingError, load_checkpoint
from dnc_fast.training.health import first_bad_index, named_tensors


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
