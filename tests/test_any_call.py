"""Any call of the public API: a clear error, or finite results that equal the reference's.

A few hundred calls, the same in every run; ten thousand by `pytest -m full`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from states import HAND_DERIVED
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from dnc_fast import DNC, MemoryState, functional
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.interface import interface_size
from dnc_fast.linkages import LINKAGES, SparseLink
from dnc_fast.state import map_tensors, tensors
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES

sizes = st.sampled_from([1, 1, 2, 3, 5])
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def rarely(draw: Any, one_in: int) -> bool:
    return draw(st.integers(0, one_in - 1)) == 0


# Models, their inputs, their states

VARIANTS: dict[str, Any] = {
    "similarity": SIMILARITIES,
    "allocation": ALLOCATIONS,
    "masked_lookup": [True],
    "deallocate": [True],
    "link_sharpness": [True],
    "interface_norm": [True],
    "bidirectional_controller": [True],
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
        "usage_order": draw(st.sampled_from(["robust", "robust", "exact"])),
        "checkpoint_interval": draw(st.sampled_from([None, 1, 2])),
        "dtype": draw(st.sampled_from([*3 * [torch.float64], torch.float32, *DTYPES])),
    }
    if options["linkage"] == "sparse":
        options["link_fan_out"] = draw(st.sampled_from([2, 8]))
    for name in ("read_topk", "write_topk"):
        if rarely(draw, 6):
            options[name] = draw(sizes)
    for name, values in VARIANTS.items():
        if rarely(draw, 6):
            options[name] = draw(st.sampled_from(values))
    if rarely(draw, 20):  # a mistake
        name = draw(st.sampled_from(sorted(options)))
        options[name] = draw(st.sampled_from([0, -1, 2.5, "x", None, True, 10**3]))
    return options | {"device": "meta" if rarely(draw, 40) else "cpu"}  # it is slow


@st.composite
def inputs(draw: Any, model: DNC) -> Any:
    """An input that fits, or nearly."""
    B, T = draw(st.sampled_from([1, 2, 3, 0])), draw(st.sampled_from([2, 5, 5, 1, 1, 2, 5, 0]))
    X = model.config.input_size + rarely(draw, 30)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scale = 10.0 ** draw(st.sampled_from([-30, -3, 0, 0, 1, 4]))
    leading = (B, T) if model.config.batch_first else (T, B)
    shape = (T, X) if rarely(draw, 6) else (*leading, X)
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    like = model.cell.like
    x = x.to(draw(st.sampled_from(DTYPES)) if rarely(draw, 20) else like.dtype)
    if x.numel() and rarely(draw, 20):
        x.flatten()[0] = draw(st.sampled_from([torch.nan, torch.inf, -torch.inf, 0.0]))
    if draw(st.booleans()):
        x = x.mT.contiguous().mT
    if like.device.type == "meta" or rarely(draw, 30):
        x = x.to("meta")
    if x.dim() == 3 and B and T and x.device.type == "cpu" and rarely(draw, 5):
        lengths = torch.tensor([draw(st.integers(1, T)) for _ in range(B)])
        return pack_padded_sequence(x, lengths, model.config.batch_first, enforce_sorted=False)
    return x


@st.composite
def states(draw: Any, model: DNC, options: dict[str, Any], x: Any) -> Any:
    """A state that fits, or nearly: zeros, or what a few steps of a model left behind."""
    batched = not isinstance(x, Tensor) or x.dim() == 3
    if not isinstance(x, Tensor):
        fitting = int(x.batch_sizes[0])
    else:
        fitting = x.shape[0 if model.config.batch_first else 1] if batched else 1
    batch = draw(st.sampled_from([*6 * [fitting], 0, 1, 2, 3]))
    if rarely(draw, 10):
        options = {**options, "num_read_heads": 2, "linkage": draw(st.sampled_from([*LINKAGES]))}
        try:
            model = DNC(**options)
        except (TypeError, ValueError):  # a mistake that another linkage does not forgive
            return None
    state = model.zero_state(batch, draw(st.sampled_from([None, None, None, 1, 4])))
    if batch and draw(st.booleans()):
        steps = torch.randn(3, batch, model.config.input_size).to(model.cell.like)
        with torch.no_grad():
            state = model(steps.transpose(0, 1) if model.config.batch_first else steps, state)[1]
    if batch and not batched:
        state = map_tensors(lambda part: part[0], state)
    if draw(st.booleans()):
        state = map_tensors(lambda part: part.mT.contiguous().mT if part.dim() > 1 else part, state)
    return state


class Call(NamedTuple):
    """A model's options, the model if they make one, and how it is called."""

    options: dict[str, Any]
    model: DNC | None = None
    x: Any = None
    state: Any = None
    how: str = ""


@st.composite
def calls(draw: Any) -> Call:
    options = draw(models())
    torch.manual_seed(draw(st.integers(0, 99)))
    try:
        model = DNC(**options, backend="reference")
    except (TypeError, ValueError) as error:
        assert any(name in str(error) for name in options), error
        return Call(options)
    gain = draw(st.sampled_from([0.1, 1.0, 1.0, 10.0, 1e4]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain).clamp_(-1e4, 1e4)
    x = draw(inputs(model))
    state = draw(states(model, options, x)) if draw(st.booleans()) else None
    how = draw(st.sampled_from([*7 * ["whole"], "without memory", "traced", "one step"]))
    return Call(options, model, x, state, how)


def results(model: DNC, call: Call) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of parameters, input and state, by name."""
    torch.manual_seed(0)  # dropout
    x, how = call.x, call.how
    data = x if isinstance(x, Tensor) else x.data
    given = {"input": data, **{f"state {n}": part for n, part in enumerate(tensors(call.state))}}
    given = {name: part for name, part in given.items() if part.is_floating_point()}
    for part in given.values():
        part.requires_grad_()
    if how == "one step" and isinstance(x, Tensor) and x.dim() == 3 and x.numel():
        output, final = model.cell(x.select(int(model.config.batch_first), 0), call.state)
    else:
        flags = {"without memory": {"memory": False}, "traced": {"return_trace": True}}
        output, final, *_ = model(x, call.state, **flags.get(how, {}))
    found = {"output": output if isinstance(output, Tensor) else output.data}
    found |= {f"final {n}": part for n, part in enumerate(tensors(final))}
    found = {name: part for name, part in found.items() if part.is_floating_point()}
    total = sum(part.double().square().sum() for part in found.values())
    leaves = dict(model.named_parameters()) | given
    gradients = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return found | {f"d {name}": part for name, part in zip(leaves, gradients, strict=True)}


def outcome(model: DNC, call: Call) -> dict[str, Tensor] | Exception:
    """What a call gives, or the error it raises."""
    try:
        return results(model, call)
    except (TypeError, ValueError) as error:
        return error


def check(call: Call, backend: str) -> None:
    """Run a call on a backend and compare it with the reference."""
    if call.model is None:
        return
    expected = outcome(call.model, call)
    on_meta = call.options["device"] == "meta"
    other = DNC(**call.options, backend="auto" if on_meta else backend)
    other.load_state_dict(call.model.state_dict())
    found = outcome(other, call)
    if isinstance(expected, Exception):
        assert str(found) == str(expected)
        assert any(name in str(expected) for name in ("input", "state", "link", "trace")), expected
        return
    assert not isinstance(found, Exception), found
    for name, part in expected.items():
        assert found[name].shape == part.shape and found[name].dtype == part.dtype, name
    dtype = call.options["dtype"]
    if on_meta or (dtype == torch.float16 and not all(map(is_finite, expected.values()))):
        return  # float16 ends at 65504, and infinities of other sums may cancel to NaN
    exact = dtype == torch.float64 and not hangs_on_roundings(call)
    for name, part in expected.items():
        assert name.startswith("d ") or is_finite(part), name
        compare(name, found[name], part, 1e-6 if exact else None)


def is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def hangs_on_roundings(call: Call) -> bool:
    """Whether the last bits of equal numbers decide which cell is taken."""
    options = call.options
    cut = options["linkage"] == "sparse" or "read_topk" in options or "write_topk" in options
    return options["usage_order"] == "exact" or cut


def compare(name: str, found: Tensor, expected: Tensor, tolerance: float | None) -> None:
    """Finite where the reference is; and as close to it as is asked."""
    finite = expected.isfinite()
    assert found.isfinite()[finite].all(), name
    if tolerance is not None and expected.numel():
        scale = 1 + expected[finite].abs().max() if finite.any() else 1
        assert ((found - expected)[finite].abs() <= tolerance * scale).all(), name


# The parts of a step

PARTS = {
    "content_weighting": {"keys": "B H W", "strengths": "B H", "memory": "B N W"},
    "allocation_weighting": {"usage": "B N"},
    "linkage": {
        "link": "B Hw N N",
        "precedence": "B Hw N",
        "write_weights": "B Hw N",
        "read_weights": "B R N",
    },
    "write_memory": {
        "memory": "B N W",
        "write_weights": "B Hw N",
        "erase_vectors": "B Hw W",
        "write_vectors": "B Hw W",
    },
    "read_memory": {"memory": "B N W", "read_weights": "B R N"},
}
"""The arguments of each function of `dnc_fast.functional` and their shapes."""

UNBOUNDED = ("keys", "strengths", "memory", "write_vectors")
"""Arguments that may be any number; the others are between 0 and 1."""


class PartCall(NamedTuple):
    """A function of `dnc_fast.functional`, its arguments, and how close its results must be."""

    name: str
    arguments: dict[str, Any]
    tolerance: float | None


@st.composite
def part_calls(draw: Any) -> PartCall:
    dtype = draw(st.sampled_from([torch.float32, torch.float64, *DTYPES]))
    size = {letter: draw(st.sampled_from([1, 2, 3, 7, 33])) for letter in ("N", "W")}
    size |= {letter: draw(st.sampled_from([1, 2, 3])) for letter in ("B", "H", "R", "Hw")}
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scale = 10.0 ** draw(st.sampled_from([-30, -3, 0, 0, 1, 4]))
    name = draw(st.sampled_from([*PARTS, "memory_step"]))

    def tensor(shape: list[int], unbounded: bool) -> Tensor:
        draws = torch.rand(shape, generator=generator, dtype=torch.float64)
        return (scale * (2 * draws - 1) if unbounded else draws).to(dtype)

    arguments: dict[str, Any] = {}
    if name == "memory_step":
        state = MemoryState.zeros(
            *(size[letter] for letter in ("B", "N", "W", "R", "Hw")),
            linkage=draw(st.sampled_from(tuple(LINKAGES))),
            dtype=dtype,
        )
        width = interface_size(size["W"], size["R"], size["Hw"])
        for _ in range(draw(st.integers(0, 2))):
            vector = tensor([size["B"], width], unbounded=True)
            _, state = functional.memory_step(vector, state, backend="reference")
        arguments = {"interface": tensor([size["B"], width], unbounded=True), "state": state}
        arguments["usage_order"] = "robust"
    for argument, letters in PARTS.get(name, {}).items():
        shape = [size[letter] for letter in letters.split()]
        arguments[argument] = tensor(shape, argument in UNBOUNDED)
    if "strengths" in arguments and not rarely(draw, 10):
        arguments["strengths"] = arguments["strengths"].abs()
    one = draw(st.sampled_from([a for a, value in arguments.items() if isinstance(value, Tensor)]))
    spoil = {
        "strides": lambda part: part.mT.contiguous().mT,
        "dtype": lambda part: part.to(draw(st.sampled_from([*DTYPES, torch.int64]))),
        "axis": lambda part: part.unsqueeze(0),
        "longer": lambda part: torch.cat([part, part], -1),
        "empty": lambda part: part[:0],
        "not finite": lambda part: part / 0,
        "device": lambda part: part.to("meta"),
        "no tensor": lambda part: part.tolist(),
    }
    if draw(st.booleans()):
        arguments[one] = spoil[draw(st.sampled_from([*4 * ["strides"], *spoil]))](arguments[one])
    # Strengths of 1e4 multiply roundings, in float32 until they choose the cell.
    tolerances = dict(zip(DTYPES, (1e-9, 1e-5) if scale < 1e4 else (1e-6, None), strict=False))
    if isinstance(getattr(arguments.get("state"), "link", None), SparseLink):  # so do its cuts
        tolerances = {}
    return PartCall(name, arguments, tolerances.get(dtype))


def part_results(call: PartCall, backend: str) -> dict[str, Tensor] | Exception:
    """What a part gives, and the gradients of its arguments, by name; or the error it raises."""
    given = [part for part in tensors(list(call.arguments.values())) if part.is_floating_point()]
    for part in given:
        part.requires_grad_()
    try:
        result = getattr(functional, call.name)(**call.arguments, backend=backend)
    except (TypeError, ValueError) as error:
        return error
    found = [part for part in tensors(result) if part.is_floating_point()]
    total = sum(part.double().square().sum() for part in found)
    gradients = torch.autograd.grad(total, given, materialize_grads=True)
    named = {f"result {number}": part for number, part in enumerate(found)}
    return named | {f"d argument {number}": part for number, part in enumerate(gradients)}


def check_part(call: PartCall, backend: str) -> None:
    """Call a part on a backend and compare it with the reference."""
    expected, found = (part_results(call, name) for name in ("reference", backend))
    if isinstance(expected, Exception):
        assert str(found) == str(expected)
        assert any(name in str(expected) for name in (*call.arguments, "state")), expected
    elif isinstance(found, Exception):  # the kernels do not have that dtype or device
        assert str(found).replace("'", '"').startswith(f'backend "{backend}" needs'), found
    else:
        first = next(tensors(tuple(call.arguments.values())))
        for name, part in expected.items():
            assert found[name].shape == part.shape and found[name].dtype == part.dtype, name
            if first.device.type != "meta":
                compare(name, found[name], part, call.tolerance)


every_backend = pytest.mark.parametrize("backend", HAND_DERIVED)
quiet = pytest.mark.filterwarnings("ignore")
COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}
few, many = (settings(max_examples=number, **COMMON) for number in (100, 4000))
few_parts, many_parts = (settings(max_examples=number, **COMMON) for number in (60, 1000))


@every_backend
@quiet
@few
@given(call=calls())
def test_a_hundred_calls_of_models(backend: str, call: Call) -> None:
    check(call, backend)


@every_backend
@quiet
@few_parts
@given(call=part_calls())
def test_some_calls_of_the_parts_of_a_step(backend: str, call: PartCall) -> None:
    check_part(call, backend)


@pytest.mark.full
@every_backend
@quiet
@many
@given(call=calls())
def test_thousands_of_calls_of_models(backend: str, call: Call) -> None:
    check(call, backend)


@pytest.mark.full
@every_backend
@quiet
@many_parts
@given(call=part_calls())
def test_a_thousand_calls_of_the_parts_of_a_step(backend: str, call: PartCall) -> None:
    check_part(call, backend)
