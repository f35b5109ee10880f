"""`dnc-fast campaign`: recipes, milestones, the table, and a run that is interrupted and moved."""

import shutil

import pytest
from runs import assert_same_checkpoint

from dnc_fast.cli import main
from dnc_fast.cli.campaign import lesson_table
from dnc_fast.presets import CAMPAIGNS, model_config
from dnc_fast.tasks import TASKS
from dnc_fast.training import TrainingConfig, read_metrics

SMALL = {
    "traversal": "--min-nodes 3 --max-nodes 4 --min-degree 2 --max-degree 2 --max-path 2",
    "shortest-path": "--min-nodes 5 --max-nodes 10 --min-degree 1 --max-degree 2 --max-path 2",
    "inference": "--min-nodes 3 --max-nodes 3 --min-degree 2 --max-degree 2 --max-relation 2",
}
TINY = (
    "--hidden-size 8 --num-cells 6 --cell-size 4 --num-read-heads 1 --batch-size 2 --warm-up 0 "
    "--lesson-every 2 --lesson-pass 0.0001 --milestone-every 3 --evaluate-every 4 "
    "--evaluation-size 2"
)
QUIET = "--no-pictures --progress off"


def campaign(name, folder, steps, options=""):
    words = f"campaign {name} --out {folder} --max-steps {steps} {QUIET} {options}".split()
    assert main(words) == 0
    return read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_recipes_fit_their_tasks(name):
    recipe = CAMPAIGNS[name]
    task = TASKS[recipe.task](**recipe.preset.task) if name != "babi-joint" else TASKS["babi"]()
    model_config(task, **recipe.preset.model)
    config = TrainingConfig(**recipe.preset.training)
    if recipe.milestone:
        assert len(task.lessons()) == len(recipe.published), "a result for each lesson"
        assert recipe.milestone in task.milestones()
        assert config.curriculum == "on" and config.milestone_every


@pytest.mark.parametrize("name", SMALL)
def test_milestones_are_of_a_known_graph(name):
    recipe = CAMPAIGNS[name]
    task = TASKS[recipe.task](**recipe.preset.task)
    for milestone, known in task.milestones().items():
        assert known.graph != "random" and known.graph in milestone
        (low, high) = task.RANGES[-1]
        assert getattr(known, low) == getattr(known, high) == int(milestone.split(", ")[1][0])
        assert (known.input_size, known.output_size) == (task.input_size, task.output_size)


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_and_moved_campaign_equals_a_whole_one(name, tmp_path, capsys):
    options = f"{SMALL[name]} {TINY}"
    whole = campaign(name, tmp_path / "whole", 8, options)
    kinds = {row["kind"] for row in whole}
    assert {"train", "evaluation", "milestone"} <= kinds
    campaign(name, tmp_path / "first", 5, options)
    shutil.move(tmp_path / "first", tmp_path / "second")
    assert campaign(name, tmp_path / "second", 8) == whole
    assert_same_checkpoint(tmp_path / "second", tmp_path / "whole")
    tables = [(tmp_path / run / "campaign.md").read_text() for run in ("whole", "second")]
    assert tables[0] == tables[1] and "At step 8 (16 examples)" in tables[0]
    assert tables[0] in capsys.readouterr().out


def test_the_table_shows_when_lessons_were_passed():
    recipe = CAMPAIGNS["traversal"]
    task = TASKS["traversal"](**recipe.preset.task)
    known = recipe.milestone

    def lesson(step, number, share):
        return {"kind": "lesson", "step": step, "lesson": number, "share": share}

    rows = [
        lesson(100, 1, 0.5),
        {"kind": "milestone", "step": 150, "name": known, "share": 0.25},
        {"kind": "milestone", "step": 150, "name": "another", "share": 0.75},
        lesson(200, 1, 0.9),
        lesson(300, 2, 0.89),
    ]
    lines = lesson_table(recipe, task, rows, recipe.preset.training, 64).splitlines()
    assert lines[2] == "| 1 | 3 to 10 | 2 to 4 | 1 | 200 | 12,800 | 25 % | 0.0 % |"
    assert lines[3] == "| 2 | 3 to 10 | 2 to 4 | 1 to 2 |  |  |  | 0.0 % |"
    assert lines[15].endswith("| 1 to 20 |  |  |  | 98.8 % |"), "not reached yet"
    assert "lesson 2: 89 % right" in lines[-1] and "another: 75 %" in lines[-1]


def test_options_are_refused_where_the_run_has_others(tmp_path, capsys):
    campaign("traversal", tmp_path, 1, f"{SMALL['traversal']} {TINY}")
    assert main(f"campaign traversal --out {tmp_path} --hidden-size 9".split()) == 2
    assert "--hidden-size must stay 8" in capsys.readouterr().err
    assert main(f"campaign inference --out {tmp_path}".split()) == 2
    assert "holds a run of the task 'traversal'" in capsys.readouterr().err


def test_a_lower_rate_from_a_step_on(tmp_path):
    options = f"{SMALL['traversal']} {TINY}".replace("--warm-up 0", "--warm-up 4")
    campaign("traversal", tmp_path, 2, f"{options} --learning-rate 0.004")
    campaign("traversal", tmp_path, 4, "--learning-rate 0.002")
    rows = campaign("traversal", tmp_path, 6)
    rates = [row["learning_rate"] for row in rows if row["kind"] == "train"]
    assert rates == pytest.approx([0.0008, 0.0016, 0.0012, 0.0016, 0.002, 0.002])


def test_the_joint_campaign_needs_the_files(tmp_path, capsys):
    assert main(f"campaign babi-joint --out {tmp_path}".split()) == 2
    assert "--data must name the folder or archive of bAbI" in capsys.readouterr().err
