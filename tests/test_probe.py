"""Probing a model on one sequence, and the table of several seeds."""

import pytest
import torch

from dnc_fast import DNC
from dnc_fast.tasks import BabiTask, CharactersTask, CopyTask, EchoTask, TemporalOrderTask
from dnc_fast.training import Evaluation, Outcome, describe, probe, summary_table, transcript
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


@pytest.mark.parametrize("linkage", ["dense", "sparse"])
def test_probe_keeps_moments_of_small_memories(linkage):
    task = CopyTask(3, 3)
    sizes = {"num_cells": 4, "cell_size": 3, "output_size": task.output_size, "linkage": linkage}
    model = DNC(task.input_size, 7, **sizes)
    found = probe(model, task, seed=3)
    steps = [moment.step for moment in found.moments]
    assert steps[0] == 0 and steps[-1] == len(found.inputs) - 1
    _, state = model(found.inputs)
    last = found.moments[-1]
    torch.testing.assert_close(last.memory, state.memory.memory, rtol=1e-4, atol=1e-5)
    if linkage == "dense":
        torch.testing.assert_close(last.link, state.memory.link, rtol=1e-4, atol=1e-5)
    else:
        assert last.link is None
    torch.testing.assert_close(found.cells[-1], state.controller[-1][1], rtol=1e-4, atol=1e-5)
    assert not probe(DNC(task.input_size, 7, **{**sizes, "num_cells": 300}), task, 3).moments


def test_words_of_a_story_and_its_transcript():
    task = BabiTask()
    batch = task.batch(1, torch.Generator().manual_seed(0))
    words = task.words(batch.inputs[:, 0])
    wanted = task.words(batch.targets[:, 0])
    assert {"?", "."} <= set(words) and all(words)
    counts = batch.mask[:, 0]
    lines = transcript(words, counts, wanted, wanted).splitlines()
    assert all(line[-1] == "." or "?" in line for line in lines)
    answers = [word for word, counted in zip(wanted, counts, strict=True) if counted]
    assert [line.split("? ")[1] for line in lines if "?" in line] == answers
    wrong = transcript(words, counts, wanted, ["garden's end"] * len(words))
    assert f"garden's end (the answer is {answers[0]})" in wrong


def test_words_of_a_text_and_its_transcript():
    task = CharactersTask(chunk_length=20, num_chunks=1)
    batch = task.batch(1, torch.Generator().manual_seed(0))
    read, wanted = (task.words(part[:, 0]) for part in (batch.inputs, batch.targets))
    assert read[1:] == wanted[:-1] and " " not in read
    text = transcript(read, batch.mask[:, 0], wanted, wanted)
    assert text.splitlines()[0] == "read    " + "".join(read)
    assert CopyTask().words(torch.zeros(2, 8)) is None
    apart = transcript(["+"] * 2, torch.ones(2), ["+", "a"], ["the", "the"])
    assert apart.splitlines() == ["read    + +", "wanted  + a", "said    the the"]


def test_ranges_are_said_as_people_do():
    assert str(CopyTask(1, 8)).startswith("copy 1 to 8 vectors")
    assert str(CopyTask(3, 3)).startswith("copy 3 vectors")


EVALUATION = Evaluation(loss=0.6931472, wrong=1.5, right=0.875, solved=0.25)


def test_published_figures_in_words():
    assert describe(CopyTask(), EVALUATION) == (
        "1.50 bits wrong per sequence, 25.0 % of sequences right"
    )
    assert describe(EchoTask(), EVALUATION) == "87.50 % of bits right"
    assert EVALUATION.bits == pytest.approx(1.0)


def test_table_of_seeds_by_hand():
    other = Evaluation(loss=0.0, wrong=0.5, right=1.0, solved=0.75)
    first = Outcome(3, 100, 10.0, False, EVALUATION, {})
    outcomes = [first, Outcome(4, 300, 20.0, True, other, {})]
    assert summary_table(CopyTask(), outcomes).splitlines() == [
        "copy 1 to 8 vectors of 6 bits, trained with each seed and scored on held-out sequences:",
        "",
        "| seed | solved | steps | seconds | bits wrong per sequence | bits right | "
        "sequences right |",
        "|---|---|---|---|---|---|---|",
        "| 3 | no | 100 | 10 | 1.500 | 87.50 % | 25.0 % |",
        "| 4 | yes | 300 | 20 | 0.500 | 100.00 % | 75.0 % |",
        "| mean | 1 of 2 | 200 | 15 | 1.000 | 93.75 % | 50.0 % |",
        "| standard deviation |  | 141 | 7 | 0.707 | 8.84 % | 35.4 % |",
    ]
    assert len(summary_table(CopyTask(), outcomes[:1]).splitlines()) == 6
