"""Weights of the official code, from and to ours: the same outputs, states and gradients."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import official_oracle
import pytest
import torch
from gpu import needs_triton
from states import HAND_DERIVED, arrays, assert_close, lively_dnc, lively_state, normal

from dnc_fast import DNC, DNCState
from dnc_fast.official import SAME, from_official, official_shapes, to_official

by_kernels = pytest.param("triton", marks=[needs_triton, pytest.mark.full])
every_backend = pytest.mark.parametrize("backend", ["auto", "reference", *HAND_DERIVED, by_kernels])
STEPS, BATCH = 6, 2


def official_variables(dtype: type = np.float64, **sizes: int) -> dict[str, np.ndarray]:
    """Random variables, large enough for gates to leave the middle."""
    config = lively_dnc(**SAME, **sizes).config
    generator = np.random.default_rng(0)
    return {
        f"dnc/{name}": generator.normal(size=shape).astype(dtype)
        for name, shape in official_shapes(config).items()
    }


ONE = {"output_size": 2}
SEVERAL = {"num_write_heads": 2, "num_read_heads": 3, "output_size": 7}
every_clip = pytest.mark.parametrize("clip", [None, 1.1, 0.4])  # a tape takes those from 1 on
every_size = pytest.mark.parametrize("sizes", [ONE, SEVERAL], ids=["one head", "several"])


def converted(
    variables: dict[str, np.ndarray], backend: str = "auto", **options: Any
) -> tuple[DNC, torch.Tensor, DNCState]:
    """The model of these variables, inputs, and a state whose usages are well apart."""
    model = from_official(variables, num_cells=5, backend=backend, **options)
    return model, normal(STEPS, BATCH, model.config.input_size), lively_state(model, BATCH)


def theirs(state: DNCState) -> official_oracle.Arrays:
    """A state as the oracle has it."""
    ((hidden, cell),) = arrays(state.controller)
    rest = {"hidden": hidden, "cell": cell, "read_vectors": arrays(state.read_vectors)}
    return arrays(state.memory) | rest


# The same results


@every_backend
@every_size
@every_clip
def test_outputs_and_states_are_the_official_ones(
    clip: float | None, sizes: dict[str, int], backend: str
) -> None:
    variables = official_variables(**sizes)
    model, x, state = converted(variables, backend, value_clip=clip)
    output, final = model(x, state)
    expected = official_oracle.dnc(variables, arrays(x), theirs(state), clip)
    assert_close(output, expected[0], "float64")
    assert_close(theirs(final), expected[1], "float64", "final")
    hidden, cell = final.controller[0]
    for values in (output, cell, hidden):  # each is cut somewhere, which |h| < 1 is only below 1
        if clip is not None and (clip < 1 or values is not hidden):
            assert values.abs().max() == clip


@every_backend
@every_size
@every_clip
def test_gradients_are_the_official_ones(
    clip: float | None, sizes: dict[str, int], backend: str
) -> None:
    """Against the difference quotient along a direction, with what the usage saw held fixed."""
    variables = official_variables(**sizes)
    model, x, state = converted(variables, backend, value_clip=clip)
    start = theirs(state)
    _, _, fixed = official_oracle.dnc(variables, arrays(x), start, clip)
    generator = np.random.default_rng(1)
    direction = {name: generator.normal(size=part.shape) for name, part in variables.items()}
    weights = arrays(normal(STEPS, BATCH, model.config.output_size))

    def loss(size: float, fixed: Any = fixed) -> float:
        moved = {name: part + size * direction[name] for name, part in variables.items()}
        return (official_oracle.dnc(moved, arrays(x), start, clip, fixed)[0] * weights).sum()

    output, _ = model(x, state)
    (output * torch.from_numpy(weights)).sum().backward()
    moved = from_official(direction, num_cells=5, forget_bias=0.0)  # the same linear map
    found = sum(
        (parameter.grad * along).sum()
        for (name, parameter), along in zip(
            model.named_parameters(), moved.parameters(), strict=True
        )
        if not name.endswith("bias_hh")  # it is constant there
    ).item()
    quotient = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert found == pytest.approx(quotient, rel=1e-6)  # the quotient's own error
    whole = (loss(1e-6, None) - loss(-1e-6, None)) / 2e-6
    assert abs(whole - quotient) > 1e-4 * abs(whole)  # it matters what is held fixed


def test_from_the_zero_state() -> None:
    """With weights small enough that rounding does not decide which unused cell comes first."""
    variables = {name: 0.3 * part for name, part in official_variables(**SEVERAL).items()}
    model, _, _ = converted(variables)
    x, start = normal(30, BATCH, 3), model.zero_state(BATCH)
    expected, _, _ = official_oracle.dnc(variables, arrays(x), theirs(start))
    assert_close(model(x)[0], expected, "float64")


@every_size
def test_our_models_become_official_ones(sizes: dict[str, int]) -> None:
    options = SAME | sizes | {"num_cells": 5, "value_clip": 3.0}
    model = lively_dnc(**options)
    x, state = normal(STEPS, BATCH, 3), lively_state(model, BATCH)
    expected, _ = model(x, state)
    found, _, _ = official_oracle.dnc(to_official(model), arrays(x), theirs(state), 3.0)
    assert_close(found, expected, "float64")


# There and back


@every_size
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variables_come_back_bit_by_bit(sizes: dict[str, int], dtype: type) -> None:
    variables = official_variables(dtype, **sizes)
    model = from_official(variables, num_cells=5)
    assert model.cell.like.dtype == getattr(torch, np.dtype(dtype).name)
    again = to_official(model)
    model.reset_parameters()  # they are copies
    assert again.keys() == variables.keys()
    for name, part in variables.items():
        assert again[name].dtype == dtype and np.array_equal(again[name], part), name


def test_names_as_checkpoints_have_them() -> None:
    """Another scope, what an optimizer adds, the training step; and another forget bias."""
    variables = official_variables(**ONE)
    named = {name.replace("dnc/", "rnn/core/") + ":0": part for name, part in variables.items()}
    named |= {name[:-2] + "/RMSProp_1": np.zeros_like(part) for name, part in named.items()}
    named |= {"global_step": np.array(7), "rnn/core/beta1_power": np.array(0.9)}
    model, expected = from_official(named, num_cells=5), from_official(variables, num_cells=5)
    assert_close(dict(model.state_dict()), dict(expected.state_dict()), "equal")
    again = to_official(model, scope="rnn/core")
    assert again.keys() == {name[:-2] for name in named if name.endswith(":0")}
    other = from_official(variables, num_cells=5, forget_bias=0.5)
    bias = to_official(other, forget_bias=0.5)["dnc/lstm/b_gates"]
    assert np.array_equal(bias, variables["dnc/lstm/b_gates"])
    assert other.cell.controller.layers[0].bias_hh.unique().tolist() == [0.0, 0.5]


def test_half_precision_and_a_given_dtype() -> None:
    half = from_official(official_variables(np.float16, **ONE), num_cells=5)
    assert half.cell.like.dtype == torch.float16
    assert to_official(half)["dnc/output_linear/b"].dtype == np.float32
    wide = from_official(official_variables(**ONE), num_cells=5, dtype=torch.bfloat16)
    assert wide.cell.like.dtype == torch.bfloat16
    assert to_official(wide)["dnc/output_linear/b"].dtype == np.float32


# What is refused


def without(name: str) -> Any:
    return lambda variables: variables.pop(name)


def other(name: str, value: np.ndarray) -> Any:
    return lambda variables: variables.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("dnc/lstm/w_gates"), r"SCOPE/lstm/w_gates; got 0 such names"),
        (other("more/lstm/w_gates", np.zeros((9, 16))), "got 2 such names"),
        (without("dnc/memory_access/free_gate/w"), "a matrix dnc/memory_access/free_gate/w"),
        (other("dnc/output_linear/w", np.zeros(4)), "a matrix dnc/output_linear/w"),
        (without("dnc/lstm/b_gates"), "dnc/lstm/b_gates is missing"),
        (
            other("dnc/memory_access/read_mode/b", np.zeros(7)),
            r"read_mode/b must have shape \(6,\).*, got \(7,\)",
        ),
        (other("dnc/lstm/b_gates", np.zeros(16, int)), "float dtype, got .* int64"),
        (other("dnc/lstm/w_f_diag", np.zeros(4)), "dnc/lstm/w_f_diag is unknown"),
    ],
)
def test_variables_of_something_else(spoil: Any, message: str) -> None:
    variables = official_variables(**ONE)
    spoil(variables)
    with pytest.raises(ValueError, match=message):
        from_official(variables, num_cells=5)


def test_the_name_of_a_file_is_no_variables() -> None:
    with pytest.raises(TypeError, match=r"variables must be a mapping .*got str; numpy\.load"):
        from_official("official.npz", num_cells=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cell_size": 3}, r"\['cell_size'\] must not be given: the variables"),
        ({"controller": "gru", "num_layers": 2}, r"\['controller', 'num_layers'\] must not be"),
        ({"num_cell": 3}, "no option 'num_cell'"),
    ],
)
def test_options_of_something_else(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        from_official(official_variables(**ONE), num_cells=5, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("controller", "gru"),
        ("num_layers", 2),
        ("bias", False),
        ("bidirectional", True),
        ("bidirectional_controller", True),
        ("interface_norm", True),
        ("bypass_dropout", 0.1),
        ("linkage", "sparse"),
        ("usage_order", "robust"),
        ("read_topk", 2),
        ("write_topk", 2),
        ("similarity", "dot"),
        ("allocation", "softmax"),
        ("masked_lookup", True),
        ("deallocate", True),
        ("link_sharpness", True),
        ("strengths", "oneplus"),
    ],
)
def test_models_that_the_official_code_cannot_be(name: str, value: Any) -> None:
    model = lively_dnc(**SAME | {name: value})
    with pytest.raises(ValueError, match=f"{name} must be {SAME[name]!r} for the official code"):
        to_official(model)


# The documentation

PAGE = (Path(__file__).parents[1] / "docs/official_weights.md").read_text()


def test_every_variable_is_documented() -> None:
    sizes = {"H": 5, "R": 2, "Hw": 3, "W": 7, "X": 11, "Y": 13}
    config = DNC(11, 5, num_read_heads=2, num_write_heads=3, cell_size=7, output_size=13).config
    rows = re.findall(r"^\| `(\S+)` \| \((.+?)\) \|", PAGE, re.M)
    found = {}
    for name, shape in rows:
        axes = [axis.strip() for axis in shape.split(",") if axis.strip()]
        found[name] = tuple(eval(re.sub(r"(?<=\w) (?=[\w(])", "*", axis), sizes) for axis in axes)
    assert found == official_shapes(config)


def test_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one with a stand-in for TensorFlow's reader of checkpoints."""
    pytest.importorskip("safetensors", reason="pip install safetensors")
    variables = official_variables(np.float32, **ONE) | {"global_step": np.array(3)}
    reader = SimpleNamespace(
        get_variable_to_shape_map=lambda: {name: part.shape for name, part in variables.items()},
        get_tensor=variables.__getitem__,
    )
    train = SimpleNamespace(load_checkpoint=lambda folder: reader)
    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace(train=train))
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(examples) == 2
    for example in examples:
        exec(example, names := {})
    for name, part in names["variables"].items():
        if name != "global_step":
            assert np.array_equal(names["again"][name], part), name
