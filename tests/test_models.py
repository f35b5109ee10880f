"""What a DNC is compared with is trained, resumed, scored and drawn by the same commands."""

import io
import re
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from runs import COPY, ECHO, TINY_OPTIONS, training_config

import dnc_fast
from dnc_fast.baselines import StoryModel
from dnc_fast.cli import main
from dnc_fast.config import DNCConfig
from dnc_fast.models import MODELS, build_model, count_parameters, matched, model_name
from dnc_fast.presets import model_config
from dnc_fast.state import tensors
from dnc_fast.tasks import CopyTask
from dnc_fast.training import Trainer, TrainingError, load_checkpoint

TINY = [str(part) for pair in TINY_OPTIONS.items() for part in pair if "--cell-size" not in pair]
STORY_MODELS = [name for name, kind in MODELS.items() if issubclass(kind, StoryModel)]
SPECIAL = (*STORY_MODELS, "seq2seq", "pointer", "actor-critic")  # test_shrdlu.py has the last
every_model = pytest.mark.parametrize("name", [name for name in MODELS if name not in SPECIAL])


def run(*arguments, status=0):
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        found = main([str(argument) for argument in arguments])
    assert found == status, printed.getvalue()
    return printed.getvalue()


def trainer_of(folder, name, task=COPY, **training):
    return Trainer(
        task, model_config(task, name, hidden_size=8), training_config(**training), folder
    )


@every_model
def test_a_stopped_run_resumes_as_if_it_had_never_stopped(name, tmp_path):
    """On chunks, so that the state that is carried over is in the checkpoint too."""
    whole = trainer_of(tmp_path / "whole", name, ECHO, max_steps=11)
    whole.train("off")
    part = trainer_of(tmp_path / "part", name, ECHO, max_steps=5)
    part.train("off")
    again = Trainer.resume(tmp_path / "part", max_steps=11)
    assert type(again.model) is MODELS[name]
    carried = load_checkpoint(tmp_path / "part")["carried"][0]
    assert carried and any(tensor.abs().sum() > 0 for tensor in tensors(carried))
    again.train("off")
    assert again.metrics_path.read_bytes() == whole.metrics_path.read_bytes()
    for label, parameter in whole.model.state_dict().items():
        assert torch.equal(parameter, again.model.state_dict()[label]), label
    model, task = dnc_fast.load_run(tmp_path / "part")
    assert model.config == whole.model.config and task == ECHO and not model.training


@pytest.mark.parametrize("name", ["lstm", "ntm", "transformer", "seq2seq"])
def test_train_eval_and_show_by_command(name, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ("train", "copy", "--out", tmp_path)
    printed = run(*arguments, *TINY, "--model", name, "--max-steps", 5)
    assert "4 held-out sequences" in printed
    inside = "gates.png" if name in ("lstm", "ntm") else "attention.png"
    pictures = {"learning_curve.png", "hidden.png", inside}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures
    assert "after 6 steps" in run(*arguments, "--resume", "--max-steps", 6, "--no-pictures")
    run("show", tmp_path)
    assert {path.name for path in (tmp_path / "show").iterdir()} == pictures
    scored = run("eval", tmp_path, "--task", "max_length=3", "--sequences", 5)
    assert re.search(r"(lstm|4 cells|transformer|seq2seq), seed 0\n5 held-out", scored)
    refused = run("show", tmp_path, "--html", status=2)
    assert f"--html shows the memory of a DNC, got a run of the model '{name}'" in refused
    refused = run("compile", tmp_path, "--target", "sm_90", "--out", tmp_path / "k", status=2)
    assert (
        f"checkpoint must be of a DNC, whose kernels are compiled, got a run of the model '{name}'"
        in refused
    )


@pytest.mark.parametrize("name", STORY_MODELS)
def test_models_that_read_stories_are_trained_scored_and_asked(name, tmp_path):
    sizes = ("--hidden-size", 8, "--batch-size", 2, "--evaluation-size", 4, "--evaluate-every", 2)
    rest = ("--progress", "off", "--no-pictures", "--threads", 1)
    run("train", "babi", *sizes, *rest, "--model", name, "--max-steps", 2, "--out", tmp_path)
    run("train", "babi", *rest, "--resume", "--max-steps", 4, "--out", tmp_path)
    assert f"{name}, seed 0" in run("eval", tmp_path)
    said = run("ask", tmp_path, "Mary went to the garden. Where is Mary?")
    assert re.search(r"where is mary \? \S+  \(.*%", said)
    refused = run("train", "copy", "--model", name, "--out", tmp_path / "copy", status=2)
    stories = "so task must be 'babi' or 'graphs-in-words', got copy"
    assert f"model '{name}' answers stories, {stories}" in refused


def test_options_of_another_model_are_refused(tmp_path):
    def refused(*arguments):
        return run("train", "copy", *TINY, "--out", tmp_path, *arguments, status=2)

    found = refused("--model", "lstm", "--cell-size", 3)
    assert "--cell-size is no option of --model lstm; it has --hidden-size, --num-layers" in found
    assert "--max-shift is no option of --model dnc" in refused("--max-shift", 2)
    run("train", "copy", *TINY, "--out", tmp_path, "--model", "gru", "--max-steps", 1)
    found = refused("--resume", "--model", "lstm")
    assert f"{tmp_path} holds a run of the model 'gru', got 'lstm'" in found
    found = run("train", "copy", "--resume", "--out", tmp_path, "--hidden-size", 9, status=2)
    assert "--hidden-size must stay 8" in found
    assert "--linkage is no option of --model gru" in run(
        "eval", tmp_path, "--linkage", "none", status=2
    )
    preset = ("train", "babi", "--preset", "paper-babi-dnc1", "--model", "lstm")
    assert "--preset is a set of options of the DNC" in run(*preset, status=2)


def test_a_checkpoint_without_a_kind_is_of_a_dnc(tmp_path):
    trainer = trainer_of(tmp_path, "dnc", max_steps=1)
    trainer.train("off")
    content = load_checkpoint(tmp_path)
    assert content.pop("kind") == "dnc"
    torch.save(content, tmp_path / "checkpoint.pt")
    assert isinstance(dnc_fast.load_run(tmp_path)[0], dnc_fast.DNC)
    torch.save({**content, "kind": "other"}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="model 'other' is not one of"):
        dnc_fast.load_run(tmp_path)


def test_what_is_not_finite_is_named_without_a_trace(tmp_path):
    trainer = trainer_of(tmp_path, "lstm")
    with torch.no_grad():
        trainer.model.output.weight[1, 2] = 1e38
        trainer.model.output.weight[1, 3] = -1e38
        trainer.model.layers.weight_hh_l0.fill_(float("inf"))
    with pytest.raises(TrainingError, match=r"parameter\.layers\.weight_hh_l0 is inf"):
        trainer.train("off")


@every_model
def test_the_number_of_parameters_is_matched_by_hidden_size(name):
    config = model_config(CopyTask(), name)
    assert model_name(config) == name
    wanted = count_parameters(model_config(CopyTask()))
    found = matched(config, wanted)
    count = sum(parameter.numel() for parameter in build_model(found).parameters())
    assert count == count_parameters(found)
    step = getattr(config, "hidden_step", 1)
    for size in (found.hidden_size - step, found.hidden_size + step):
        other = matched(model_config(CopyTask(), name, hidden_size=size), wanted)
        assert other == found, "whatever the size was before"
        near = count_parameters(model_config(CopyTask(), name, hidden_size=size))
        assert abs(near - wanted) >= abs(count - wanted)


def test_a_configuration_of_no_model_is_refused():
    with pytest.raises(TypeError, match=r"config must be of one of .*got a dict"):
        build_model({})
    assert model_name(DNCConfig(3, 4)) == "dnc"
