"""The options of a DNC: each bad one is refused by a message that names it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import pydoc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dnc_fast import DNC, DNCCell, DNCConfig, memory_step
from dnc_fast.step_options import StepOptions

SIZES = ("input_size", "hidden_size", "num_layers", "num_cells", "cell_size")
HEADS = ("num_read_heads", "num_write_heads", "output_size")

BAD_OPTIONS: list[tuple[str, Any, type[Exception], str]] = [
    *((name, 0, ValueError, "at least 1, got 0") for name in (*SIZES, *HEADS)),
    *((name, -3, ValueError, "at least 1, got -3") for name in (*SIZES, *HEADS)),
    *((name, 2.0, TypeError, r"an integer, got 2\.0 \(float\)") for name in (*SIZES, *HEADS)),
    *((name, True, TypeError, "an integer, got True") for name in (*SIZES, *HEADS)),
    *((name, "4", TypeError, r"an integer, got '4' \(str\)") for name in (*SIZES, *HEADS)),
    *((name, None, TypeError, "an integer, got None") for name in (*SIZES, *HEADS[:2])),
    *(
        (name, value, TypeError, "True or False, got")
        for name in ("bias", "batch_first", "bidirectional", "usage_gradient")
        for value in (1, None, "yes")
    ),
    *(
        ("dropout", value, ValueError, "at least 0 and at most 1")
        for value in (-0.1, 1.5, math.nan)
    ),
    ("dropout", "0.5", TypeError, "a number, got '0.5'"),
    ("dropout", True, TypeError, "a number, got True"),
    *(
        (name, value, ValueError, "above 0, got")
        for name in ("activation_clip", "value_clip")
        for value in (0, -1.0, math.inf)
    ),
    ("activation_clip", "10", TypeError, "a number, got '10'"),
    *(("input_gain", value, ValueError, "above 0, got") for value in (0, -1.0, math.nan)),
    ("input_gain", None, TypeError, "a number, got None"),
    ("controller", "transformer", ValueError, "'lstm'.*'feedforward'.*got 'transformer'"),
    ("controller", 3, TypeError, "'lstm'.*got 3"),
    ("controller", None, TypeError, "'lstm'.*got None"),
    ("strengths", "exp", ValueError, "'oneplus'.*'softplus'.*got 'exp'"),
    ("usage_order", "sorted", ValueError, "'exact'.*'robust'.*got 'sorted'"),
    ("similarity", "cosin", ValueError, "'cosine'.*'dot'.*got 'cosin'"),
    ("allocation", "sort", ValueError, "'sorted'.*'softmax'.*got 'sort'"),
    ("allocation_power", 0.5, ValueError, "at least 1, got 0.5"),
    ("allocation_temperature", 0, ValueError, "above 0, got 0"),
    *((name, 1, TypeError, "True or False, got 1") for name in ("masked_lookup", "deallocate")),
    ("link_sharpness", "yes", TypeError, "True or False, got 'yes'"),
    ("mask_floor", -0.1, ValueError, "at least 0 and at most 1, got -0.1"),
    ("mask_floor", 1, ValueError, "below 1, where a mask hides nothing, got 1"),
    ("state_dtype", torch.int64, ValueError, r"got torch\.int64"),
    ("state_dtype", "float32", ValueError, "got 'float32'"),
    ("checkpoint_dtype", torch.int32, ValueError, r"got torch\.int32"),
    ("backend", "cuda", ValueError, "'auto'.*'reference'.*got 'cuda'"),
    ("linkage", "spars", ValueError, "'dense'.*got 'spars'"),
    ("link_threshold", -0.5, ValueError, "finite, at least 0"),
    *(
        (name, value, ValueError, f"at least 1, got {value}")
        for name in ("link_fan_out", "read_topk", "write_topk", "link_history")
        for value in (0, -1)
    ),
]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    BAD_OPTIONS,
    ids=[f"{name}={value}" for name, value, *_ in BAD_OPTIONS],
)
def test_messages_name_the_option(
    name: str, value: object, error: type[Exception], message: str
) -> None:
    options = {"input_size": 3, "hidden_size": 4} | {name: value}
    with pytest.raises(error, match=f"^{name} must be .*{message}"):
        DNC(**options)
    if name in inspect.signature(DNCCell).parameters:
        with pytest.raises(error, match=f"^{name} must be"):
            DNCCell(**options)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("memory_size", "num_cells"), ("word_size", "cell_size"), ("clip_value", "value_clip")],
)
def test_names_of_the_official_code_lead_to_ours(theirs: str, ours: str) -> None:
    """Of the spellings, memory_size is closest to cell_size, which it is not."""
    with pytest.raises(TypeError, match=f"no option '{theirs}'; did you mean '{ours}'"):
        DNC(3, 4, **{theirs: 5})


def test_arguments_by_position_are_those_of_an_lstm() -> None:
    with pytest.raises(TypeError, match=r"only 7 arguments .*bidirectional\).* by name; got 8$"):
        DNC(3, 4, 1, True, False, 0.0, False, 16)


OWN = nn.Identity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"controller": OWN, "bidirectional": True},
            "controller must be a name .*bidirectional",
        ),
        ({"controller": OWN, "input_gain": 2.0}, "input_gain must be 1 with a controller of your"),
        ({"linkage": "sparse", "link_fan_out": 1}, "link_threshold must be given with link_fan_"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DNC(3, 4, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.5}, r"num_layers=1.*dropout=0\.5"),
        ({"link_fan_out": 4}, r'linkage="sparse", so .* no effect.*"dense"; got link_fan_out=4'),
        ({"link_history": 9}, r'linkage="separable", so it has no effect.*link_history=9'),
        (
            {"allocation": "softmax", "allocation_power": 2.0},
            r'allocation_power is an option of allocation="proportional".*"softmax"; got',
        ),
        (
            {"mask_floor": 0.2},
            r"mask_floor is an option of masked_lookup=True.*masked_lookup=False; got mask_floor=",
        ),
        (
            {"linkage": "none", "link_sharpness": True},
            r'link_sharpness sharpens.*no effect with linkage="none"; got link_sharpness=True',
        ),
        (
            {"linkage": "separable", "checkpoint_dtype": torch.float16},
            r'checkpoint_dtype is an option of linkage="dense".*linkage="separable"',
        ),
        (
            {"controller": lambda size: Own(size), "num_layers": 2},
            r"num_layers is an option of the built-in controllers.*got num_layers=2",
        ),
    ],
)
def test_options_without_effect_warn_once(options: dict[str, Any], message: str) -> None:
    with pytest.warns(UserWarning, match=message) as found:
        DNC(3, 4, **options)
    assert len(found) == 1 and found[0].filename == __file__


class Own(torch.nn.Module):
    """A controller of one's own."""

    output_size = 2

    def __init__(self, size: int) -> None:
        super().__init__()

    def zero_state(self, batch_size: int) -> tuple[()]:
        return ()


OPTIONS = {field.name: field.default for field in dataclasses.fields(DNCConfig)}


def test_every_option_is_an_argument_with_the_same_default() -> None:
    """As editors and `help` show it: for the modules, their constructors, and `memory_step`."""
    only_whole_sequences = {"batch_first", "bidirectional", "bidirectional_controller"}
    for function, absent in (
        (DNC, set()),
        (DNC.__init__, set()),
        (DNCCell, only_whole_sequences),
        (DNCCell.__init__, only_whole_sequences),
    ):
        arguments = {
            name: dataclasses.MISSING if parameter.default is parameter.empty else parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("self", "device", "dtype")
        }
        assert arguments == {k: v for k, v in OPTIONS.items() if k not in absent}, function
    step = inspect.signature(memory_step).parameters
    assert list(step)[:2] == ["interface", "state"]
    of_a_step = ["backend", *(field.name for field in dataclasses.fields(StepOptions))]
    assert {name: step[name].default for name in list(step)[2:]} == {
        name: OPTIONS[name] for name in of_a_step
    }


def names_in(lines: list[str], pattern: str) -> list[str]:
    """The comma-separated names at the start of lines that match a pattern."""
    found = [re.match(pattern, line) for line in lines]
    return [name for match in found if match for name in re.split(r"\W+", match[1]) if name]


def test_every_option_is_documented_once() -> None:
    """In the docstring that `help(DNC)` shows, and in the table of docs/module.md."""
    arguments = inspect.getdoc(DNC).split("Args:")[1].split("Raises:")[0].splitlines()
    expected = sorted([*OPTIONS, "device", "dtype"])
    assert sorted(names_in(arguments, r" {4}(\w+(?:, \w+)*): ")) == expected
    page = (Path(__file__).parents[1] / "docs/module.md").read_text().split("## Options")[1]
    table = page.split("\n## ")[0].splitlines()
    assert sorted(names_in(table, r"\| (`\w+`(?:, `\w+`)*) \|")) == expected
    assert re.search(r"link_fan_out: '?int'? = 8", pydoc.plain(pydoc.render_doc(DNC)))


def test_leading_arguments_are_those_of_nn_lstm() -> None:
    """By position: input, hidden, layers, bias, batch_first, dropout, bidirectional."""
    arguments = (3, 4, 2, False, True, 0.25, True)
    lstm, config = nn.LSTM(*arguments), DNC(*arguments).config
    for name in DNCConfig.__dataclass_fields__.keys() & vars(lstm).keys():
        assert getattr(config, name) == getattr(lstm, name), name
    assert config.dropout == 0.25
    assert config.bidirectional


def test_config_is_frozen_and_tells_the_sizes() -> None:
    config = DNCConfig(input_size=3, hidden_size=4, cell_size=5, num_read_heads=2)
    assert config.read_size == 10
    assert config.interface_size == 2 * 5 + 3 * 5 + 5 * 2 + 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_cells = 7


def test_from_config_builds_the_same_model() -> None:
    config = DNCConfig(input_size=3, hidden_size=4, num_layers=2, num_cells=6, cell_size=5)
    model = DNC(3, 4, 2, num_cells=6, cell_size=5)
    assert model.config == config
    shapes = {name: part.shape for name, part in model.state_dict().items()}
    rebuilt = DNC.from_config(config, dtype=torch.float64)
    assert {name: part.shape for name, part in rebuilt.state_dict().items()} == shapes
    assert {part.dtype for part in rebuilt.parameters()} == {torch.float64}
    assert DNCCell.from_config(config).config == config
