"""Recipes for the paper's flagship results: what `dnc-fast campaign NAME` trains.

They train a model of about the paper's size with larger batches and larger steps than the paper's.
With such a model the gain of the input weights decides how soon the first lessons are passed, see
docs/results.md.
"""

from __future__ import annotations

from typing import NamedTuple

from .paper import BABI, INFERENCE, LESSONS, PATH, PATH_LESSONS, TRAVERSAL, Preset

MODEL = {
    "hidden_size": 256,
    "num_cells": 256,
    "cell_size": 64,
    "num_read_heads": 4,
    "input_gain": 8.0,
}
TRAINING = {
    "batch_size": 128,
    "learning_rate": 3e-3,
    "warm_up": 1000,
    "clip_norm": 1.0,
    "max_steps": 10_000_000,
    "evaluate_every": 1000,
    "evaluation_size": 250,
    "milestone_every": 1000,
    "solved_at": 0.99,
}


class Published(NamedTuple):
    """What the paper's DNC could do after a lesson, in per cent.

    known: on the known graph; final: in the last lesson.
    """

    known: float
    final: float


class Campaign(NamedTuple):
    """A task, a recipe for it, and the paper's results.

    | field     | what                                                                           |
    |-----------|--------------------------------------------------------------------------------|
    | task      | its name in `TASKS`                                                            |
    | preset    | the options of the run                                                         |
    | milestone | the milestone that `Published.known` is about; "" where there are no lessons   |
    | published | the paper's results after each lesson (Extended Data Tables 3 to 5)            |
    """

    task: str
    preset: Preset
    milestone: str = ""
    published: tuple[Published, ...] = ()


def _results(*pairs: tuple[float, float]) -> tuple[Published, ...]:
    return tuple(Published(*pair) for pair in pairs)


CAMPAIGNS: dict[str, Campaign] = {
    "traversal": Campaign(
        "traversal",
        Preset({**TRAVERSAL, "few_names": 0.5}, MODEL, {**TRAINING, **LESSONS}),
        "the underground, 7 edges",
        _results(
            (0.0, 10.7), (0.0, 19.7), (0.0, 27.3), (0.0, 38.2), (0.0, 39.7), (0.0, 47.5),
            (0.1, 48.1), (13.6, 59.4), (15.0, 59.0), (72.8, 72.3), (88.6, 81.6), (91.8, 90.7),
            (96.0, 96.8), (98.8, 99.0),
        ),
    ),
    "shortest-path": Campaign(
        "shortest-path",
        Preset(
            {**PATH, "few_names": 0.5},
            MODEL,
            {**TRAINING, **PATH_LESSONS, "lesson_every": 500},
        ),
        "the underground, 4 edges",
        # Of the lessons 10 and 11, which are the same, the later.
        _results(
            (8.2, 11.2), (4.0, 12.7), (4.0, 13.2), (9.5, 13.7), (14.4, 22.8), (14.2, 27.6),
            (28.3, 34.0), (29.2, 39.7), (34.4, 41.1), (33.8, 44.0), (34.9, 47.2), (40.9, 54.3),
            (50.7, 54.0), (55.3, 64.0),
        ),
    ),
    "inference": Campaign(
        "inference",
        Preset(
            {**INFERENCE, "guided": 0.5},
            MODEL,
            {**TRAINING, **LESSONS},
        ),
        "the family, 4 edges",
        # Of the lessons 3 and 4, and 10 and 11, which are the same, the later.
        _results(
            (0.0, 2.3), (0.0, 8.9), (0.0, 15.5), (0.0, 22.7), (0.0, 25.8), (0.1, 31.2),
            (0.1, 47.6), (0.0, 55.1), (11.1, 50.2), (20.4, 66.3), (43.6, 78.9), (18.6, 68.6),
            (26.4, 78.4), (61.9, 91.1), (81.8, 95.5),
        ),
    ),
    "babi-joint": Campaign(
        "babi",
        Preset(
            BABI,
            {**MODEL, "input_gain": 1.0},
            {**TRAINING, "batch_size": 32, "learning_rate": 1e-3, "evaluation_size": 2000},
        ),
    ),
}  # fmt: skip
"""Campaigns by name; docs/campaigns.md says how far each was run."""
