"""What guesses score, where it is known."""

import math

import pytest

from dnc_fast.tasks import (
    BabiTask,
    CharactersTask,
    CopyTask,
    MappingTask,
    RepeatCopyTask,
    ShortestPathTask,
    TemporalOrderTask,
)
from dnc_fast.training import guess

COMPLETE = ShortestPathTask(
    min_nodes=3, max_nodes=3, min_degree=2, max_degree=2, min_path=1, max_path=1, slack=0
)
"""Two ways lead from each node, and one of them to the destination."""


@pytest.mark.parametrize(
    ("task", "right"),
    [
        (CopyTask(), 1 / 2),
        (MappingTask(num_symbols=8), 7 / 8),  # "no" is right for seven of eight
        (TemporalOrderTask(), 1 / 4),
        (BabiTask(tasks="6"), 1 / 2),  # yes or no
        (COMPLETE, 1 / 2),
    ],
    ids=str,
)
def test_guesses_are_as_often_right_as_is_known(task, right):
    found = guess(task, 400, seed=0)
    assert abs(found.right - right) < 2 / math.sqrt(400)  # four standard deviations of 400 coins
    assert guess(task, 400, seed=0) == found and guess(task, 400, seed=1) != found


def test_the_only_way_is_found_by_guessing():
    one_way = ShortestPathTask(min_degree=1, max_degree=1)
    assert guess(one_way, 100, seed=0).solved == 1.0


def test_a_guess_is_the_most_frequent_answer():
    task = RepeatCopyTask(1, 1, 9, 9, num_bits=1)  # ten steps, nine with a bit, and then the end
    found = guess(task, 400, seed=0)
    assert found.solved == 0.0 and abs(found.right - (0.55 + 0.9) / 2) < 0.05


def test_guesses_have_the_entropy_of_the_characters(tmp_path):
    file = tmp_path / "text"
    file.write_text("aaab" * 1000)
    task = CharactersTask(str(file), chunk_length=20, num_chunks=2)
    found = guess(task, 100, seed=0)
    entropy = -sum(share * math.log2(share) for share in (0.75, 0.25))
    assert abs(found.bits - entropy) < 0.01 and abs(found.right - 0.75) < 0.01
