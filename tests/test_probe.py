"""Probing a model on one sequence, and the table of several seeds."""

import pytest
import torch

from dnc_fast import DNC
from dnc_fast.tasks import CopyTask, EchoTask, TemporalOrderTask
from dnc_fast.training import Evaluation, Outcome, describe, probe, summary_table
from dnc_fast.training.random import stream_generator


@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
@pytest.mark.parametrize("task", [CopyTask(1, 3), TemporalOrderTask()], ids=str)
def test_probe_is_the_longest_sequence_as_the_model_sees_it(task, controller):
    model = DNC(
        task.input_size,
        7,
        num_layers=2,
        num_cells=4,
        cell_size=3,
        num_read_heads=2,
        output_size=task.output_size,
        controller=controller,
    )
    found = probe(model, task, seed=3)
    batch = task.batch(16, stream_generator(3, "held-out"))
    place = int(batch.lengths.argmax())
    assert torch.equal(found.inputs, batch.inputs[:, place])
    assert torch.equal(found.targets, batch.targets[:, place])
    assert torch.equal(found.mask, batch.mask[:, place])
    outputs, state, trace = model(found.inputs, return_trace=True)
    torch.testing.assert_close(found.outputs, task.probabilities(outputs), rtol=1e-4, atol=1e-5)
    for mine, whole in zip(found.trace, trace, strict=True):
        torch.testing.assert_close(mine, whole, rtol=1e-4, atol=1e-5)
    steps = len(found.inputs)
    if controller == "feedforward":
        assert found.hidden.shape == (steps, 0)
    else:
        assert found.hidden.shape == (steps, 7)
        last = state.controller[-1]
        hidden = last[0] if isinstance(last, tuple) else last
        torch.testing.assert_close(found.hidden[-1], hidden.flatten(), rtol=1e-4, atol=1e-5)


def test_probe_of_a_long_stream_is_its_beginning():
    task = EchoTask()
    model = DNC(1, 4, num_cells=3, cell_size=2, num_read_heads=1, output_size=1)
    model.train()
    assert len(probe(model, task, 0).inputs) == 120 and model.training


EVALUATION = Evaluation(loss=0.6931472, wrong=1.5, right=0.875, solved=0.25)


def test_published_figures_in_words():
    assert describe(CopyTask(), EVALUATION) == (
        "1.50 bits wrong per sequence, 25.0 % of sequences right"
    )
    assert describe(EchoTask(), EVALUATION) == "87.50 % of bits right"
    assert EVALUATION.bits == pytest.approx(1.0)


def test_table_of_seeds_by_hand():
    other = Evaluation(loss=0.0, wrong=0.5, right=1.0, solved=0.75)
    outcomes = [Outcome(3, 100, 10.0, False, EVALUATION), Outcome(4, 300, 20.0, True, other)]
    assert summary_table(CopyTask(), outcomes).splitlines() == [
        "| seed | solved | steps | seconds | bits wrong per sequence | bits right | "
        "sequences right |",
        "|---|---|---|---|---|---|---|",
        "| 3 | no | 100 | 10 | 1.500 | 87.50 % | 25.0 % |",
        "| 4 | yes | 300 | 20 | 0.500 | 100.00 % | 75.0 % |",
        "| mean | 1 of 2 | 200 | 15 | 1.000 | 93.75 % | 50.0 % |",
        "| standard deviation |  | 141 | 7 | 0.707 | 8.84 % | 35.4 % |",
    ]
    assert len(summary_table(CopyTask(), outcomes[:1]).splitlines()) == 4
