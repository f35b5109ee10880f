"""Held-out sequences in words: what was seen, wanted and said."""

import pytest
import torch
from test_models import TINY, run
from torch import nn

from dnc_fast.tasks import TASKS, BabiTask, CopyTask, SortTask, TraversalTask
from dnc_fast.training.predictions import predictions
from dnc_fast.training.random import stream_generator

OWN_INPUTS = {"shortest-path", "shrdlu"}
"""Tasks whose inputs follow from a model's answers."""


class Knows(nn.Module):
    """Answers right, but for the last counted answer of the first sequence."""

    def __init__(self, task, number):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.batch = task.held_out().batch(number, stream_generator(0, "held-out"))

    def forward(self, inputs, state=None):
        outputs = 20 * self.batch.targets - 10
        last = int(self.batch.mask[:, 0].nonzero().max())
        outputs[last, 0] = -outputs[last, 0]
        return outputs, None


def lines_of(task, number=2):
    return predictions(Knows(task, number), task, number, 0).split("\n")


def test_bits_are_written_out():
    task = CopyTask(2, 2, num_bits=3)
    head, seen, wanted, said, blank, *second = lines_of(task)
    assert head == "sequence 1: 3 of 6 bits wrong" and blank == ""
    vectors = seen.split()[2:4]
    assert seen.split()[1] == "00010" and seen.split()[4:] == ["00001", ".", "."]
    spelled = [vector[:3] if "1" in vector else "." for vector in vectors]
    assert wanted.split()[1:] == spelled
    turned = "".join("10"[int(bit)] for bit in vectors[1][:3]) if "1" in vectors[1] else "111"
    assert said.split()[1:] == [spelled[0], turned if "1" in turned else "."]
    assert second[0] == "sequence 2: 0 of 6 bits wrong"
    assert second[2].split()[1:] == second[3].split()[1:]


def test_classes_are_numbers_and_numbers_have_two_digits():
    head, seen, wanted, said, *_ = lines_of(SortTask(3, 3))
    numbers = [float(step.split(",")[0]) for step in seen.split()[1:4]]
    assert head == "sequence 1: 1 of 3 places wrong"
    order = sorted(range(3), key=lambda place: numbers[place])
    assert wanted.split()[1:] == [str(place) for place in order]
    assert said.split()[1:3] == wanted.split()[1:3] and said.split()[3] != wanted.split()[3]


def test_stories_and_graphs_are_told():
    story = "\n".join(lines_of(BabiTask(), 1))
    assert "where is" in story and "(the answer is" in story
    graph = predictions(Knows(TraversalTask(), 2), TraversalTask(), 2, 0)
    assert graph.count("sequence") == 2 and len(graph.splitlines()) > 10


@pytest.mark.parametrize("name", sorted(TASKS.keys() - OWN_INPUTS))
def test_every_task_can_be_shown(name):
    task = TASKS[name]()
    text = predictions(Knows(task, 3), task, 3, 0)
    assert [f"sequence {row}" in text for row in (1, 2, 3)] == [True] * 3


def test_eval_shows_sequences(tmp_path):
    run("train", "copy", *TINY, "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    printed = run("eval", tmp_path, "--show", 2, "--sequences", 3)
    assert printed.count("wanted") == 2 and "3 held-out" in printed
    refused = run("eval", tmp_path, "--show", 0, status=2)
    assert "--show must be at least 1, got 0" in refused
    run("train", "shortest-path", "--max-steps", 1, "--no-pictures", "--out", tmp_path / "path",
        "--evaluation-size", 2, "--progress", "off", "--hidden-size", 8)  # fmt: skip
    assert "sequence 1: " in run("eval", tmp_path / "path", "--show", 1, "--sequences", 2)
