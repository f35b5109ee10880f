"""Models compared on the same data: budgets, the table, longer sequences, the pictures."""

import json
import re

import pytest
import torch
from runs import COPY, model_config, rows, trained, training_config
from test_models import run

from dnc_fast.cli.compare import ENDLESS, _budget, _limit, _matched
from dnc_fast.cli.options import UserError
from dnc_fast.models import count_parameters
from dnc_fast.pictures import comparison_curves, comparison_of_lengths
from dnc_fast.pictures.comparison import _side_by_side
from dnc_fast.presets import model_config as config_of
from dnc_fast.tasks import AssociativeRecallTask, CopyTask, EchoTask, KeyValueTask, RepeatCopyTask
from dnc_fast.training import (
    Compared,
    Evaluation,
    Finished,
    Outcome,
    Trainer,
    comparison_table,
    finished,
)
from dnc_fast.training.evaluation import evaluate

TINY = ["--max-length", 2, "--num-bits", 2, "--evaluate-every", 2, "--evaluation-size", 4,
        "--batch-size", 2, "--progress", "off"]  # fmt: skip


def test_models_are_compared_and_the_comparison_goes_on(tmp_path):
    pytest.importorskip("matplotlib")
    command = ("compare", "copy", *TINY, "--models", "dnc,lstm", "--seeds", 2, "--out", tmp_path)
    budget = ("--budget", "steps=4", "parameters=2000")
    printed = run(*command, *budget)
    models, table = printed.split("\n\n")[1:3]
    counts = [line.split("|")[2].strip() for line in models.splitlines()[2:]]
    assert all(abs(int(count.replace(",", "")) - 2000) < 200 for count in counts)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["dnc", "lstm"]
    assert "| at 2 x length | at 4 x length | at 8 x length |" in table
    assert table in (tmp_path / "comparison.md").read_text()
    assert {path.stem for path in tmp_path.glob("*.png")} == {"curves", "longer", "gradient"}
    assert {path.parent.name for path in tmp_path.glob("lstm/*/checkpoint.pt")} == {
        "seed-0",
        "seed-1",
    }

    assert "holds a run already; continue with --resume" in run(*command, *budget, status=2)
    run(*command, "--budget", "steps=6", "parameters=2000", "--resume")
    last = (tmp_path / "lstm" / "seed-1" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["step"] == 6
    found = run(*command, "--budget", "steps=6", "parameters=3000", "--resume", status=2)
    assert "must hold a run with these options to continue" in found


def test_no_picture_of_gradients_without_any(tmp_path):
    """As where models read words."""
    pytest.importorskip("matplotlib")
    command = ("compare", "babi", *TINY[4:], "--models", "memn2n", "--seeds", 1, "--out", tmp_path)
    run(*command, "--budget", "steps=2")
    assert [path.stem for path in tmp_path.glob("*.png")] == ["curves"]


def test_all_see_the_same_data_and_seconds_end_runs(tmp_path):
    command = ("compare", "copy", *TINY, "--seeds", 1, "--out", tmp_path, "--solved-at", 2)
    run(*command, "--models", "rnn", "--budget", "seconds=0.3")
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "rnn" / "seed-0" / "metrics.jsonl").read_text().splitlines()
    ]
    assert 3 < steps[-1] < 3000
    again = run(*command, "--models", "rnn", "--budget", "seconds=0.3", "--resume")
    assert f"| {steps[-1]:,} |" in again, "its time is over"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--models", "dnc,lsmt"), "--models takes names of dnc, rnn, .*got 'lsmt'"),
        (("--models", "rnn,rnn"), "--models takes each name once"),
        (
            ("--models", "rnn", "--budget", "hours=3"),
            "--budget takes steps, seconds, parameters, got",
        ),
        (
            ("--models", "rnn", "--budget", "steps=x"),
            "--budget steps takes a whole number above 0, at most 1,000,000,000, got 'x'",
        ),
        (("--models", "rnn", "--budget", "steps=3", "steps=4"), "each name once, got steps twice"),
        (("--models", "rnn", "--budget", "seconds"), "--budget seconds needs a number"),
        (("--models", "rnn", "--seeds", 0), "--seeds must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_named(arguments, message, tmp_path):
    found = run("compare", "copy", "--out", tmp_path / "out", *arguments, status=2)
    assert re.search(message, found), found
    assert not (tmp_path / "out").exists()


def test_parameters_that_no_size_comes_close_to_are_named(tmp_path):
    command = ("compare", "copy", *TINY, "--models", "rnn,dnc", "--seeds", 1, "--out", tmp_path)
    found = run(*command, "--budget", "steps=2", "parameters=60")
    assert re.search("dnc has [0-9,]+ parameters, 60 are wanted: no hidden_size comes", found)
    assert "rnn has" not in found


def test_budgets():
    assert _budget(["steps=2000", "parameters"]) == {"steps": 2000.0, "parameters": None}
    for word in ("seconds=-1", "seconds=nan", "steps=0.4", "parameters=1e30"):
        with pytest.raises(UserError, match="above 0"):
            _budget([word])
    first, second = model_config(COPY), model_config(COPY, hidden_size=30)
    assert _matched([first, second], None) == [first, first]
    both = _matched([first, second], 3000.0)
    assert both[0] == both[1] and abs(count_parameters(both[0]) - 3000) < 150


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (["steps=7"], 7),
        (["steps=7", "seconds=3"], 7),
        (["steps"], 500),
        (["parameters=9"], 500),
        (["steps", "seconds=3"], 500),
        (["seconds=3"], ENDLESS),
    ],
)
def test_only_seconds_alone_leave_the_steps_without_a_limit(words, steps):
    assert _limit(500, _budget(words)) == {"max_steps": steps}
    own = {} if steps == 500 else {"max_steps": steps}
    assert _limit(None, _budget(words)) == own


def test_longer_tasks():
    assert CopyTask(1, 8).longer(4) == CopyTask(32, 32)
    assert RepeatCopyTask().longer(2) == RepeatCopyTask(min_length=4, max_length=4)
    assert AssociativeRecallTask().longer(2) == AssociativeRecallTask(min_items=12, max_items=12)
    assert KeyValueTask().longer(2) == KeyValueTask(min_items=32, max_items=32)
    assert EchoTask().longer(2) is None


def test_a_finished_run_is_scored_on_longer_sequences_with_more_cells(tmp_path):
    trainer = trained(tmp_path, max_steps=3)
    found = finished(trainer, (2,))
    expected = evaluate(trainer.model, CopyTask(8, 8, num_bits=2), 3, 0, num_cells=8)
    assert found.longer == {2: expected.right} and found.step_seconds > 0
    assert found.outcome.steps == 3 and len(rows(trainer, "train")) == 3
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_learned_cells_stay_on_longer_sequences(tmp_path):
    trainer = Trainer(COPY, config_of(COPY, "dntm", hidden_size=8), training_config(), tmp_path)
    found = finished(trainer, (2,))
    expected = evaluate(trainer.model, CopyTask(8, 8, num_bits=2), 3, 0)
    assert found.longer == {2: expected.right}


def test_table_has_means_and_deviations():
    def finished_run(seed, right, solved):
        outcome = Outcome(
            seed, 100 + 100 * seed, 2.0, solved, Evaluation(0.1, 1.0, right, right / 2), {}
        )
        return Finished(outcome, 0.0123, {2: right - 0.1}, None)

    runs = [finished_run(0, 0.9, True), finished_run(1, 0.7, False)]
    config = model_config(COPY, hidden_size=9)
    lines = comparison_table(COPY, [Compared(config, 1234, runs), Compared(config, 5, runs[:1])])
    assert lines.splitlines() == [
        "| model | parameters | hidden size | solved | steps | seconds | ms per step | "
        "sequences right | bits right | at 2 x length |",
        "|---|---|---|---|---|---|---|---|---|---|",
        "| dnc | 1,234 | 9 | 1 of 2 | 150 ± 71 | 2.0 ± 0.0 | 12.3 | 40.0 ± 7.1 % | "
        "80.00 ± 14.14 % | 70.0 ± 14.1 % |",
        "| dnc | 5 | 9 | 1 of 1 | 100 | 2.0 | 12.3 | 45.0 % | 90.00 % | 80.0 % |",
    ]


def test_curves_hold_the_last_value_of_a_run_that_ended():
    def column(*pairs):
        steps, values = zip(*pairs, strict=True)
        return {"step": torch.tensor(steps), "loss": torch.tensor(values)}

    steps, values = _side_by_side(
        [column((1, 5.0), (2, 4.0)), column((1, 3.0), (3, 2.0))], "loss", 4
    )
    assert steps.tolist() == [1, 2, 3, 4]
    assert values.tolist() == [[5.0, 4.0, 4.0, 4.0], [3.0, 3.0, 2.0, 2.0]]


def test_pictures_show_a_line_and_a_band_for_each_model():
    pytest.importorskip("matplotlib")
    seeds = [[{"step": 10 * n, "loss": 1.0 / n, "solved": 0.5} for n in (1, 2, 3)]] * 2
    figure = comparison_curves({"dnc": seeds, "lstm": seeds[:1], "rnn": [[]]}, "title")
    for axes in figure.axes:
        assert [line.get_label() for line in axes.lines] == ["dnc", "lstm"]
        assert len(axes.collections) == 1, "one seed has no band"
    assert figure.axes[1].lines[0].get_ydata().tolist() == [50.0, 50.0, 50.0]
    figure = comparison_of_lengths({"dnc": [{1: 1.0, 2: 0.75}, {1: 0.5, 2: 0.25}]}, "title")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [75.0, 50.0]
