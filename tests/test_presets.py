"""Options that suit a task: the defaults of each, and every number of the paper's table."""

import pytest

from dnc_fast.cli import main
from dnc_fast.presets import PUBLISHED, model_config, model_options, training_options
from dnc_fast.tasks import TASKS, CopyTask, EchoTask
from dnc_fast.training import TrainingConfig, load_checkpoint

# Graves et al. 2016, Extended Data Table 2: layers, LSTM, N, W, R, batch, learning rate.
TABLE = {
    "paper-babi-dnc1": ("babi", 1, 256, 256, 64, 4, 1, 1e-4),
    "paper-babi-dnc2": ("babi", 1, 256, 256, 32, 8, 1, 1e-4),
    "paper-shortest-path": ("shortest-path", 2, 256, 128, 50, 5, 1, 3e-6),
    "paper-traversal": ("traversal", 3, 256, 256, 50, 5, 2, 1e-5),
    "paper-inference": ("inference", 3, 256, 128, 50, 5, 32, 1e-5),
    "paper-shrdlu": ("shrdlu", 2, 250, 32, 100, 3, 32, 3e-5),
}
# Likewise, then what makes the variant; momentum is 0.9 and gradients are clipped at 10 in both.
VARIANTS = {
    "csordas2019": (
        *("babi", 1, 256, 256, 64, 4, 2, 1e-4),
        {"masked_lookup": True, "mask_floor": 0.0, "deallocate": True},
    ),
    "franke2018": (
        *("babi", 1, 172, 128, 64, 4, 32, 3e-5),
        {
            "controller": "layer_norm_lstm",
            "bidirectional_controller": True,
            "interface_norm": True,
            "bypass_dropout": 0.1,
            "linkage": "none",
        },
    ),
}
LAST_LESSONS = {
    "paper-shortest-path": (20, 25, 2, 6, 2, 5),
    "paper-traversal": (10, 40, 2, 6, 1, 20),
    "paper-inference": (20, 25, 2, 4, 2, 5),
    "paper-shrdlu": (10, 10, 6, 6, 1, 6, 1, 7),
}
TESTS_OF_LESSONS = {  # share that passes, steps between tests, share of earlier lessons
    "paper-shortest-path": (0.8, 2000, 0.0),
    "paper-traversal": (0.9, 100, 0.1),
    "paper-inference": (0.9, 100, 0.1),
    "paper-shrdlu": (0.85, 400, 0.1),
}


SLOW = {"learning_rate": 1e-3, "clip_norm": 1.0}
GRAPHS = {
    **SLOW,
    "learning_rate": 2e-3,
    "batch_size": 32,
    "curriculum": "on",
    "max_steps": 100_000,
    "evaluate_every": 500,
    "evaluation_size": 500,
    "solved_at": 0.95,
}
BLOCKS = {**GRAPHS, "batch_size": 64, "lesson_pass": 0.85, "lesson_every": 200}
BLOCKS |= {"learning_rate": 3e-3, "warm_up": 300, "evaluate_every": 1000}
WORDS = {**GRAPHS, "learning_rate": 4e-3, "lesson_every": 200, "evaluation_size": 200}
REPEATS = {**SLOW, "max_steps": 40_000, "spikes": "skip", "curriculum": "on"}
BABI = {**SLOW, "max_steps": 100_000, "evaluate_every": 200}
BABI |= {"solved_at": 0.98, "solved_evaluations": 2}


def decaying(steps, **lessons):
    return {**SLOW, "schedule": "cosine", "decay_steps": steps, "max_steps": steps, **lessons}


# The task's options, hidden_size, num_cells, cell_size, num_read_heads, training.
DEFAULTS = [
    ("copy", {}, (64, 16, 16, 1), {}),
    ("copy", {"max_length": 20, "num_bits": 3, "num_sequences": 4}, (64, 40, 16, 1), {}),
    ("repeat-copy", {}, (64, 16, 16, 1), decaying(30_000, curriculum="off")),
    ("repeat-copy", {"max_length": 10}, (64, 20, 16, 1), REPEATS),
    ("repeat-copy", {"max_repeats": 10}, (64, 16, 16, 1), REPEATS),
    (
        "associative-recall",
        {"max_items": 7, "item_length": 2},
        (64, 18, 16, 1),
        {
            **decaying(20_000, curriculum="on"),
            **{"learning_rate": 2e-3, "warm_up": 500, "batch_size": 64},
        },
    ),
    ("key-value", {"max_items": 80}, (128, 80, 40, 1), SLOW),
    ("priority-sort", {}, (64, 40, 16, 1), decaying(30_000)),
    ("priority-sort", {"num_items": 6, "num_sorted": 4}, (64, 12, 16, 1), decaying(30_000)),
    ("temporal-order", {"difficulty": "hard"}, (64, 16, 16, 1), {"curriculum": "on"}),
    ("echo", {"delay": 3}, (64, 6, 16, 1), {"evaluation_size": 100}),
    ("autoencoding", {"max_length": 20}, (64, 42, 16, 1), decaying(40_000)),
    ("characters", {}, (128, 32, 16, 1), {"evaluation_size": 50}),
    ("sort", {}, (64, 10, 16, 1), {}),
    ("mapping", {"num_symbols": 20}, (64, 8, 16, 1), {}),
    ("babi", {"tasks": "all"}, (128, 32, 32, 4), BABI),
    ("traversal", {}, (128, 48, 32, 4), GRAPHS),
    ("traversal", {"max_nodes": 40, "max_degree": 6}, (128, 256, 32, 4), GRAPHS),
    (
        "shortest-path",
        {"max_nodes": 25, "max_degree": 6},
        (128, 160, 32, 4),
        {**GRAPHS, "lesson_pass": 0.8, "lesson_share": 0.0, "lesson_every": 500},
    ),
    ("inference", {}, (128, 16, 32, 4), GRAPHS),
    ("inference", {"max_nodes": 12, "max_degree": 4}, (128, 64, 32, 4), GRAPHS),
    ("graphs-in-words", {}, (64, 32, 32, 4), WORDS),
    ("shrdlu", {}, (256, 16, 32, 2), BLOCKS),
]


@pytest.mark.parametrize(("name", "options", "sizes", "training"), DEFAULTS)
def test_the_defaults_of_each_task(name, options, sizes, training):
    task = TASKS[name](**options)
    names = ("hidden_size", "num_cells", "cell_size", "num_read_heads")
    kinds = {
        "key-value": {"controller": "feedforward", "linkage": "none"},
        "associative-recall": {"input_gain": 4.0},
        "graphs-in-words": {"input_gain": 16.0},
        "shrdlu": {"controller": "feedforward", "input_gain": 8.0},
    }.get(name, {})
    assert model_options(task) == {**dict(zip(names, sizes, strict=True)), **kinds}
    for controller in ("lstm", "gru", "rnn", "feedforward"):
        model = model_config(task, controller=controller)
        other = {"learning_rate": 1e-3} if (name, controller) == ("copy", "feedforward") else {}
        assert training_options(task, model) == {**training, **other}


def test_the_defaults_of_every_task_are_checked():
    assert {name for name, *_ in DEFAULTS} == set(TASKS)


def test_a_model_has_the_sizes_of_its_task_and_the_changes():
    config = model_config(CopyTask(num_bits=3), num_cells=9, controller="gru")
    assert (config.input_size, config.output_size) == (5, 3)
    assert (config.hidden_size, config.num_cells, config.controller) == (64, 9, "gru")


def test_a_task_of_a_known_kind_has_its_defaults():
    class Other(EchoTask):
        pass

    model = model_config(EchoTask(), "gru")
    assert training_options(Other(), model) == training_options(EchoTask(), model)


def test_no_preset_is_missing():
    found = {name: task for task, presets in PUBLISHED.items() for name in presets}
    assert found == {name: task for name, (task, *_) in (TABLE | VARIANTS).items()}


def numbers_of(preset):
    sizes = ("num_layers", "hidden_size", "num_cells", "cell_size", "num_read_heads")
    rates = ("batch_size", "learning_rate")
    return [*map(preset.model.get, sizes), *map(preset.training.get, rates)]


@pytest.mark.parametrize("name", VARIANTS)
def test_presets_of_variants(name):
    task, *numbers, options = VARIANTS[name]
    preset = PUBLISHED[task][name]
    assert numbers_of(preset) == numbers and preset.task == {"tasks": "all"}
    config = model_config(TASKS[task](**preset.task), **preset.model)
    assert {option: getattr(config, option) for option in options} == options
    assert not config.idle_options() and config.activation_clip is None
    training = TrainingConfig(**preset.training)
    assert (training.optimizer, training.momentum, training.clip_norm) == ("rmsprop", 0.9, 10.0)
    assert training.curriculum == "off"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_of_a_variant(name, tmp_path):
    few = ["--max-steps", "1", "--evaluation-size", "2", "--no-pictures", "--out", str(tmp_path)]
    few += ["--batch-size", "2", "--hidden-size", "8", "--num-cells", "6", "--progress", "off"]
    assert main(["train", "babi", "--preset", name, *few]) == 0
    content = load_checkpoint(tmp_path)
    assert content["training"]["momentum"] == 0.9
    assert content["optimizer"]["param_groups"][0]["momentum"] == 0.9
    *_, options = VARIANTS[name]
    assert {option: content["model"][option] for option in options} == options


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_the_numbers_of_the_table(name):
    task, *numbers = TABLE[name]
    preset = PUBLISHED[task][name]
    model, training = preset.model, preset.training
    assert numbers == numbers_of(preset)
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
