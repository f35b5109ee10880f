"""Models saved as folders to share, and loaded again; what is refused, and how."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import trained
from states import assert_close, lively_dnc, normal
from test_surroundings import Decaying
from torch import nn

from dnc_fast import DNC, load_run
from dnc_fast.files import CheckpointError
from dnc_fast.linkages import LINKAGES
from dnc_fast.pretrained import read_metadata

safetensors = pytest.importorskip(
    "safetensors.torch", reason="pip install safetensors", exc_type=ImportError
)

X = normal(4, 2, 3)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float64 model in a folder; not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "new" / "model"
    lively_dnc().save_pretrained(folder, metadata={"task": "copy", "score": 0.5, "licence": "MIT"})
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(saved, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of the config; None removes one."""
    content = json.loads((folder / "config.json").read_text()) | changes
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))


def edit_options(folder: Path, **changes: Any) -> None:
    edit(folder, options=json.loads((folder / "config.json").read_text())["options"] | changes)


# There and back


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"controller": "gru", "num_layers": 2, "dropout": 0.5, "bidirectional": True},
        {"linkage": "sparse", "link_fan_out": 3, "read_topk": 2, "bias": False},
        {"checkpoint_dtype": torch.float16, "state_dtype": torch.float32, "batch_first": True},
        {"dtype": torch.bfloat16, "num_write_heads": 2},
    ],
    ids=str,
)
def test_a_loaded_model_is_the_same(options: dict[str, Any], tmp_path: Path) -> None:
    model = lively_dnc(**options)
    model.save_pretrained(tmp_path)
    loaded = DNC.from_pretrained(tmp_path)
    assert loaded.config == model.config and not loaded.training
    assert_close(weights_of(loaded), weights_of(model), "equal")
    x = X.to(model.cell.like.dtype)
    assert_close(loaded(x), model.eval()(x), "equal")


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    lively_dnc().save_pretrained(tmp_path, metadata=read_metadata(saved))
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("linkage", LINKAGES)
def test_a_loaded_model_continues_from_a_loaded_state(linkage: str, tmp_path: Path) -> None:
    model = lively_dnc(linkage=linkage)
    model.save_pretrained(tmp_path)
    _, state = model(X)
    torch.save(state, tmp_path / "state.pt")
    state_again = torch.load(tmp_path / "state.pt", weights_only=True)
    again = DNC.from_pretrained(tmp_path)
    assert_close(again(X, state_again), model(X, state), "equal")


def test_metadata(saved: Path, tmp_path: Path) -> None:
    assert read_metadata(saved) == {"task": "copy", "score": 0.5, "licence": "MIT"}
    lively_dnc().save_pretrained(tmp_path)
    assert read_metadata(tmp_path) == {}


def test_narrower_weights_in_the_file(tmp_path: Path) -> None:
    """They are half as large, and loaded in the model's dtype or another."""
    model = lively_dnc(dtype=torch.float32)
    model.save_pretrained(tmp_path, dtype=torch.float16)
    stored = safetensors.load_file(tmp_path / "model.safetensors")
    assert {part.dtype for part in stored.values()} == {torch.float16}
    expected = {name: part.half().float() for name, part in weights_of(model).items()}
    assert_close(weights_of(DNC.from_pretrained(tmp_path)), expected, "equal")
    wide = DNC.from_pretrained(tmp_path, dtype=torch.float64)
    assert {part.dtype for part in wide.parameters()} == {torch.float64}


def test_a_dtype_that_cannot_hold_a_weight(tmp_path: Path) -> None:
    model = lively_dnc()
    model.cell.output.bias.data[1] = 1e5
    message = r"torch\.float16 cannot hold cell\.output\.bias, whose largest number is 100000"
    with pytest.raises(ValueError, match=message):
        model.save_pretrained(tmp_path / "model", dtype=torch.float16)
    assert not (tmp_path / "model").exists()
    model.save_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype must be None or one of .*int8"):
        model.save_pretrained(tmp_path, dtype=torch.int8)


def test_changes_of_what_no_parameter_depends_on(saved: Path) -> None:
    changes = {"num_cells": 7, "linkage": "sparse", "backend": "eager", "batch_first": True}
    model = DNC.from_pretrained(saved, **changes)
    expected = lively_dnc(**changes)
    assert model.config == expected.config
    assert_close(model(X), expected(X), "equal")


class Owning(Decaying):
    """A controller with parameters of two kinds, one of them under two names."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = self.same = nn.Parameter(torch.full((), 0.5))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, inputs: Any, state: Any) -> Any:
        outputs, state = super().forward(inputs * self.scale, state)
        return outputs + self.count, state


@pytest.mark.parametrize("make", [Owning, lambda size: Owning(size), Owning(9)])
def test_own_controllers_are_given_again(make: Any, tmp_path: Path) -> None:
    model = DNC(3, 4, cell_size=3, num_read_heads=2, controller=make)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"of its own, .*(Owning|lambda).*controller=\.\.\."):
        DNC.from_pretrained(tmp_path)
    x = X.float()
    assert_close(DNC.from_pretrained(tmp_path, controller=Owning)(x), model(x), "equal")
    with pytest.raises(CheckpointError, match=r"lacks cell\.controller\.layers\.0\.weight_hh"):
        DNC.from_pretrained(tmp_path, controller="lstm")


def test_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the docs, and that it saves what the run has learned."""
    run = trained(tmp_path / "runs/copy", max_steps=1)
    page = (Path(__file__).parents[1] / "docs/sharing.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    for example in examples:
        exec(example, {})
    shared = DNC.from_pretrained("copy-model")
    assert_close(weights_of(shared), weights_of(load_run(run.folder)[0]), "equal")


# What cannot be saved or loaded


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("a card", "metadata must be a dict, got str"),
        ({"x": X}, "hold only values that JSON can hold.*Tensor"),
        ({"score": float("nan")}, "hold only values that JSON can hold"),
    ],
)
def test_bad_metadata(metadata: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        lively_dnc().save_pretrained(tmp_path / "model", metadata=metadata)
    assert not (tmp_path / "model").exists()


@pytest.mark.filterwarnings("ignore")  # torch has moved quantization to another package
def test_quantized_models_are_refused(tmp_path: Path) -> None:
    quantized = torch.ao.quantization.quantize_dynamic(DNC(3, 4), {nn.Linear})
    with pytest.raises(TypeError, match=r"must be a tensor to be saved.*before it is quantized"):
        quantized.save_pretrained(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(NotADirectoryError, match="model must be a folder to save a model in"):
        lively_dnc().save_pretrained(tmp_path / "model")


def test_missing_files(copied: Path) -> None:
    for load in (DNC.from_pretrained, read_metadata):
        with pytest.raises(FileNotFoundError, match=r"no folder somebody/model.*on this machine"):
            load("somebody/model")
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        DNC.from_pretrained(copied)
    (copied / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json in"):
        DNC.from_pretrained(copied)


def truncate(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: truncate(folder, "model.safetensors"), r"model\.safetensors is not the .*"),
        (lambda folder: truncate(folder, "config.json"), r"config\.json is not JSON, or truncated"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not of a dnc_fast model"),
        (lambda folder: edit(folder, format=None, model_type="bert"), "another library wrote it"),
        (
            lambda folder: edit(folder, version=2, dnc_fast="9.0"),
            "version 2 of the format.*reads version 1; .* by dnc_fast 9.0",
        ),
        (lambda folder: edit(folder, options=None), 'must have "options".*NoneType'),
        (lambda folder: edit(folder, dtype="float8"), "'float16'.*got dict and 'float8'"),
        (
            lambda folder: edit_options(folder, num_cell=4),
            r"options that dnc_fast .* does not know, \['num_cell'\]; .*saved by dnc_fast ",
        ),
        (lambda folder: edit(folder, options={"input_size": 3}), "options of a DNC .*hidden_size"),
        (lambda folder: edit_options(folder, num_cells="5"), "num_cells must be an integer"),
        (lambda folder: edit_options(folder, state_dtype=["float16"]), "state_dtype must be None"),
        (lambda folder: edit_options(folder, linkage="x"), "linkage must be one of"),
    ],
)
def test_spoilt_folders(spoil: Callable[[Path], Any], message: str, copied: Path) -> None:
    spoil(copied)
    with pytest.raises(CheckpointError, match=message):
        DNC.from_pretrained(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell.output.bias": None}, r"it lacks cell\.output\.bias"),
        ({"cell.more": X}, r"it has cell\.more, which the model does not have"),
        ({"cell.output.bias": X}, r"output\.bias must have shape \(4,\), got \(4, 2, 3\)"),
        ({"cell.output.bias": torch.ones(4).long()}, r"must be torch\.float64, got torch\.int64"),
    ],
)
def test_weights_that_do_not_fit(change: dict[str, Any], message: str, copied: Path) -> None:
    weights = weights_of(lively_dnc()) | change
    given = {name: part for name, part in weights.items() if part is not None}
    (copied / "model.safetensors").write_bytes(content := safetensors.save(given))
    edit(copied, weights_sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(CheckpointError, match=message):
        DNC.from_pretrained(copied)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cell_size": 4}, CheckpointError, r"interface\.weight must have shape .*no parameter"),
        ({"bidirectional": True}, CheckpointError, r"it lacks reverse_cell\..*only options that"),
        ({"num_cell": 4}, TypeError, "no option 'num_cell'; did you mean 'num_cells'"),
        ({"num_cells": 0}, ValueError, "num_cells must be at least 1"),
        ({"dtype": torch.int8}, TypeError, "dtype must be a floating-point dtype"),
    ],
)
def test_changes_that_do_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str, saved: Path
) -> None:
    with pytest.raises(error, match=message):
        DNC.from_pretrained(saved, **changes)


def test_a_failed_write_leaves_the_old_model(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            lively_dnc(seed=1).save_pretrained(copied)
    assert_close(weights_of(DNC.from_pretrained(copied)), weights_of(lively_dnc()), "equal")
    assert len(list(copied.iterdir())) == 2


def test_an_interrupted_replacement_is_found_out(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two files, when the weights are new and the config is not."""
    replace = os.replace

    def once(old: Path, new: Path) -> None:
        if new.name == "config.json":
            raise KeyboardInterrupt
        replace(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            lively_dnc(seed=1).save_pretrained(copied)
    with pytest.raises(CheckpointError, match="saving was interrupted; save the model again"):
        DNC.from_pretrained(copied)
    lively_dnc(seed=1).save_pretrained(copied)
    DNC.from_pretrained(copied)


def test_without_safetensors(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lively_dnc().save_pretrained, DNC.from_pretrained):
        with pytest.raises(ModuleNotFoundError, match=r"need safetensors.*`pip install safetens"):
            call(saved if call == DNC.from_pretrained else tmp_path)
