"""Any call of the public API: a clear error, or finite results that equal the reference's.

A few hundred calls, the same in every run; thousands by `pytest -m full`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from dnc_fast import DNC
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.linkages import LINKAGES
from dnc_fast.state import map_tensors, tensors
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES

sizes = st.sampled_from([1, 1, 2, 3, 5])
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

VARIANTS: dict[str, Any] = {
    "similarity": SIMILARITIES,
    "allocation": ALLOCATIONS,
    **dict.fromkeys(
        (
            "masked_lookup",
            "deallocate",
            "link_sharpness",
            "interface_norm",
            "bidirectional_controller",
        ),
        [True],
    ),
    "bypass_dropout": [0.5],
}
"""Options that most models leave at their defaults."""


@st.composite
def models(draw: Any) -> dict[str, Any]:
    """Options of a model, most of them at their defaults."""
    options: dict[str, Any] = {
        "input_size": draw(sizes),
        "hidden_size": draw(sizes),
        "num_layers": draw(st.sampled_from([1, 1, 2])),
        "num_cells": draw(st.sampled_from([1, 2, 7, 33])),
        "cell_size": draw(sizes),
        "num_read_heads": draw(sizes),
        "num_write_heads": draw(st.sampled_from([1, 1, 2])),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.sampled_from([False, False, True])),
        "controller": draw(st.sampled_from(tuple(CONTROLLERS))),
        "linkage": draw(st.sampled_from(tuple(LINKAGES))),
        "usage_order": draw(st.sampled_from(["exact", "robust"])),
        "checkpoint_interval": draw(st.sampled_from([None, 1, 2])),
        "dtype": draw(st.sampled_from([torch.float32, *DTYPES])),
    }
    if options["linkage"] == "sparse":
        options["link_fan_out"] = draw(st.sampled_from([2, 8]))
    for name in ("read_topk", "write_topk"):
        if draw(st.integers(0, 5)) == 0:
            options[name] = draw(sizes)
    for name, values in VARIANTS.items():
        if draw(st.integers(0, 5)) == 0:
            options[name] = draw(st.sampled_from(values))
    if draw(st.integers(0, 9)) == 0:  # a mistake
        name = draw(st.sampled_from(sorted(options)))
        options[name] = draw(st.sampled_from([0, -1, 2.5, "x", None, True, 10**4]))
    return options


@st.composite
def inputs(draw: Any, model: DNC) -> Any:
    """An input that fits, or nearly."""
    B, T = draw(st.sampled_from([0, 1, 2, 3])), draw(st.sampled_from([0, 1, 2, 5]))
    X = model.config.input_size + (draw(st.integers(0, 15)) == 0)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scale = 10.0 ** draw(st.sampled_from([-30, -3, 0, 0, 1, 4]))
    leading = (B, T) if model.config.batch_first else (T, B)
    shape = (T, X) if draw(st.integers(0, 5)) == 0 else (*leading, X)
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    dtype = model.cell.interface.weight.dtype
    x = x.to(draw(st.sampled_from(DTYPES)) if draw(st.integers(0, 9)) == 0 else dtype)
    if x.numel() and draw(st.integers(0, 9)) == 0:
        x.flatten()[0] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0]))
    if draw(st.booleans()):
        x = x.mT.contiguous().mT
    if draw(st.integers(0, 15)) == 0:
        x = x.to("meta")
    if x.dim() == 3 and B and T and x.device.type == "cpu" and draw(st.integers(0, 4)) == 0:
        lengths = torch.tensor([draw(st.integers(1, T)) for _ in range(B)])
        return pack_padded_sequence(x, lengths, model.config.batch_first, enforce_sorted=False)
    return x


@st.composite
def calls(draw: Any) -> tuple[dict[str, Any], DNC | None, Any, Any]:
    """A model's options, the model if they make one, its input, its state."""
    options = draw(models())
    torch.manual_seed(draw(st.integers(0, 99)))
    try:
        model = DNC(**options, backend="reference")
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in options), error
        return options, None, None, None
    gain = draw(st.sampled_from([0.1, 1.0, 1.0, 10.0, 1e4]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain).clamp_(-1e4, 1e4)
    state = None
    if draw(st.booleans()):
        batch = draw(st.sampled_from([0, 1, 2, 3]))
        other = model
        if draw(st.integers(0, 9)) == 0:
            config = draw(models())
            try:
                other = DNC(**{**options, "num_read_heads": 2, "linkage": config["linkage"]})
            except (TypeError, ValueError):
                other = model
        state = other.zero_state(batch)
        if draw(st.booleans()):
            state = map_tensors(lambda part: part.mT.contiguous().mT, state)
    return options, model, draw(inputs(model)), state


def run(model: DNC, x: Any, state: Any) -> list[Tensor]:
    """Outputs, final state, and the gradients of the parameters."""
    output, final = model(x, state)
    rows = output if isinstance(output, Tensor) else output.data
    found = [rows, *(part for part in tensors(final) if part.is_floating_point())]
    total = sum(part.double().square().sum() for part in found)
    gradients = torch.autograd.grad(total, list(model.parameters()), materialize_grads=True)
    return [*found, *gradients]


def outcome(model: DNC, x: Any, state: Any) -> list[Tensor] | Exception:
    """What a call returns, or the error it raises."""
    try:
        return run(model, x, state)
    except (TypeError, ValueError) as error:
        return error


def check(call: tuple[dict[str, Any], DNC | None, Any, Any], backend: str) -> None:
    """Run a call on a backend and compare it with the reference."""
    options, model, x, state = call
    if model is None:
        return
    expected = outcome(model, x, state)
    other = DNC(**options, backend=backend)
    other.load_state_dict(model.state_dict())
    found = outcome(other, x, state)
    if isinstance(expected, Exception):
        assert str(found) == str(expected)
        assert any(name in str(expected) for name in ("input", "state", "link")), expected
        return
    assert not isinstance(found, Exception), found
    data = x if isinstance(x, Tensor) else x.data
    if data.device.type == "meta":
        return
    count = len(found) - len(list(model.parameters()))
    ours, true = (all(part.isfinite().all() for part in got[:count]) for got in (found, expected))
    assert ours or not true
    assert true or options["dtype"] == torch.float16  # which ends at 65504
    if options["dtype"] == torch.float64 and options["usage_order"] == "robust":
        for a, b in zip(found, expected, strict=True):
            scale = 1 + b.abs().max() if b.numel() else 1
            assert ((a - b).abs() <= 1e-6 * scale).all()


every_backend = pytest.mark.parametrize("backend", ["eager", "cpu"])
COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@every_backend
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=100, **COMMON)
@given(call=calls())
def test_a_few_hundred_calls(backend: str, call: Any) -> None:
    check(call, backend)


@pytest.mark.full
@every_backend
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=5000, **COMMON)
@given(call=calls())
def test_ten_thousand_calls(backend: str, call: Any) -> None:
    check(call, backend)
