"""Presets of the paper: every number of its table, on the command line and in a run."""

import pytest

from dnc_fast.cli import main
from dnc_fast.tasks import TASKS
from dnc_fast.training import load_checkpoint

# Graves et al. 2016, Extended Data Table 2: layers, LSTM, N, W, R, batch, learning rate.
TABLE = {
    "paper-babi-dnc1": ("babi", 1, 256, 256, 64, 4, 1, 1e-4),
    "paper-babi-dnc2": ("babi", 1, 256, 256, 32, 8, 1, 1e-4),
    "paper-shortest-path": ("shortest-path", 2, 256, 128, 50, 5, 1, 3e-6),
    "paper-traversal": ("traversal", 3, 256, 256, 50, 5, 2, 1e-5),
    "paper-inference": ("inference", 3, 256, 128, 50, 5, 32, 1e-5),
}
LAST_LESSONS = {
    "paper-shortest-path": (20, 25, 2, 6, 2, 5),
    "paper-traversal": (10, 40, 2, 6, 1, 20),
    "paper-inference": (20, 25, 2, 4, 2, 5),
}
TESTS_OF_LESSONS = {  # share that passes, steps between tests, share of earlier lessons
    "paper-shortest-path": (0.8, 2000, 0.0),
    "paper-traversal": (0.9, 100, 0.1),
    "paper-inference": (0.9, 100, 0.1),
}


def test_no_preset_is_missing():
    assert {name for kind in TASKS.values() for name in kind.presets()} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_numbers_of_the_table(name):
    task, *numbers = TABLE[name]
    preset = TASKS[task].presets()[name]
    model, training = preset.model, preset.training
    assert numbers == [
        model["num_layers"],
        model["hidden_size"],
        model["num_cells"],
        model["cell_size"],
        model["num_read_heads"],
        training["batch_size"],
        training["learning_rate"],
    ]
    assert model["activation_clip"] == 10.0 and training["optimizer"] == "rmsprop"
    if task == "babi":
        assert preset.task == {"tasks": "all"} and training["curriculum"] == "off"
        return
    made = TASKS[task](**preset.task)
    options = (getattr(made, option) for ends in made.RANGES for option in ends)
    assert tuple(options) == LAST_LESSONS[name]
    lessons = ("lesson_pass", "lesson_every", "lesson_share")
    assert tuple(training[option] for option in lessons) == TESTS_OF_LESSONS[name]


def test_a_run_takes_the_preset_and_what_is_given_beside_it(tmp_path, capsys):
    few = ["--max-steps", "1", "--evaluation-size", "2", "--no-pictures", "--out", str(tmp_path)]
    few += ["--max-nodes", "11", "--hidden-size", "8", "--num-cells", "6", "--progress", "off"]
    assert main(["train", "shortest-path", "--preset", "paper-shortest-path", *few]) == 2
    assert "max_nodes must be at least 20, got 11" in capsys.readouterr().err
    few[few.index("11")] = "20"
    assert main(["train", "shortest-path", "--preset", "paper-shortest-path", *few]) == 0
    content = load_checkpoint(tmp_path)
    assert content["task"]["options"]["max_nodes"] == 20
    assert content["task"]["options"]["max_degree"] == 6
    sizes = [content["model"][name] for name in ("num_layers", "hidden_size", "cell_size")]
    assert sizes == [2, 8, 50] and content["training"]["learning_rate"] == 3e-6
    again = ["train", "shortest-path", "--out", str(tmp_path), "--resume"]
    capsys.readouterr()
    assert main([*again, "--preset", "paper-shortest-path"]) == 2
    assert "--max-nodes must stay 20 when a run is resumed, got 25" in capsys.readouterr().err


def test_only_tasks_with_presets_take_one(capsys):
    with pytest.raises(SystemExit):
        main(["train", "copy", "--preset", "paper-copy"])
    with pytest.raises(SystemExit):
        main(["train", "babi", "--preset", "paper"])
    assert "invalid choice: 'paper' (choose from" in capsys.readouterr().err
