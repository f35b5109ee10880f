"""Against figures computed by the official code (google-deepmind/dnc on TensorFlow 1.15, float64).

As it was shipped, and as the paper has it: with oneplus strengths, and without its stop of
gradients at the last write weightings inside the usage. Its read modes come as backward, forward,
content. See semantics.md and shared/golden/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from states import arrays, assert_close, require_grad
from torch import Tensor

from dnc_fast import DNCState, MemoryState, memory_step, reference
from dnc_fast.interface import Interface, interface_shapes
from dnc_fast.linkages.dense import directional_weightings, update_link
from dnc_fast.official import from_official

GOLDENS = Path(__file__).resolve().parents[2] / "shared" / "golden"

pytestmark = pytest.mark.skipif(
    not GOLDENS.is_dir(), reason=f"the official code's figures are not at {GOLDENS}"
)


def load(name: str, prefix: str = "") -> dict[str, Tensor]:
    """The float64 arrays of a file whose names start with `prefix`, by the rest of their names."""
    with np.load(GOLDENS / name) as file:
        return {
            key.removeprefix(prefix): torch.from_numpy(np.asarray(file[key]))
            for key in file.files
            if key.startswith(prefix) and file[key].dtype == np.float64
        }


def assert_gradients(leaves: dict[str, Tensor], golden: dict[str, Tensor], prefix: str) -> None:
    """The gradient of each leaf, by name; None means zeros."""
    expected = {name: golden[prefix + name] for name in leaves}
    found = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    assert_close(found, expected, "float64", "gradient")


# Addressing, one function after another


def addressing(group: str, *names: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A group of func_addressing.npz: all of it, and the named inputs as leaves."""
    golden = load("func_addressing.npz", f"{group}/")
    return golden, require_grad({name: golden[name] for name in names})


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    return reference.content_weighting(keys, F.softplus(strengths), memory)


@pytest.mark.parametrize(
    ("group", "function", "names"),
    [
        ("cos", content_weighting, ("keys", "strengths", "memory")),
        ("alloc", reference.allocation_weighting, ("usage",)),
        ("write", reference.write_memory, ("memory", "address", "erase", "values")),
    ],
)
def test_one_function(group: str, function: Callable[..., Tensor], names: tuple[str, ...]) -> None:
    golden, leaves = addressing(group, *names)
    result = function(*leaves.values())
    assert_close(result, golden["out"], "float64")
    result.backward(golden["cot"])
    assert_gradients(leaves, golden, "grad_")


def test_allocation_of_several_write_heads() -> None:
    """Through a whole step: with nothing read or written before, usage is what was given."""
    golden, leaves = addressing("walloc", "usage", "write_gates")
    (B, N), Hw = leaves["usage"].shape, leaves["write_gates"].shape[1]
    shapes = interface_shapes(1, 1, Hw)
    told = Interface(**{name: torch.zeros(B, *shape).double() for name, shape in shapes.items()})
    told = told._replace(
        write_gates=leaves["write_gates"], allocation_gates=torch.ones_like(told.allocation_gates)
    )
    zeros = MemoryState.zeros(B, N, 1, 1, Hw, dtype=torch.float64)
    _, _, parts = reference.memory_step(told, zeros._replace(usage=leaves["usage"]))
    assert_close(parts.allocation_weights, golden["out"], "float64")
    parts.allocation_weights.backward(golden["cot"])
    assert_gradients(leaves, golden, "grad_")


def test_linkage() -> None:
    names = ("write_weights", "link", "precedence", "read_weights")
    golden, leaves = addressing("link", *names)
    link = update_link(leaves["link"], leaves["precedence"], leaves["write_weights"])
    precedence = reference.update_precedence(leaves["precedence"], leaves["write_weights"])
    forward, backward = directional_weightings(link, leaves["read_weights"])
    results = {"link": link, "precedence": precedence, "forward": forward, "backward": backward}
    for name, result in results.items():
        assert_close(result, golden[f"out_{name}"], "float64", name)
    sum((golden[f"cot_{name}"] * result).sum() for name, result in results.items()).backward()
    assert_gradients(leaves, golden, "grad_")


def test_usage() -> None:
    names = ("prev_usage", "free_gate", "prev_read_weights")
    golden, leaves = addressing("usage", *names)
    psi = reference.retention(leaves["free_gate"], leaves["prev_read_weights"])
    usage = reference.update_usage(leaves["prev_usage"], golden["prev_write_weights"], psi)
    assert_close(usage, golden["out"], "float64")
    usage.backward(golden["cot"])
    assert_gradients(leaves, golden, "grad_")


# Ten steps of the memory

# The paper's fields, in our order, by the official names.
SINGULAR = {"free_gates", "allocation_gates", "write_gates", "read_modes"}
OFFICIAL_NAMES = {
    name: name.removesuffix("s") if name in SINGULAR else name for name in interface_shapes(1, 1, 1)
}


def our_read_modes(modes: Tensor, num_write_heads: int = 1) -> Tensor:
    """From backward[Hw], forward[Hw], content to backward[Hw], content, forward[Hw]."""
    backward, forward, content = modes.split([num_write_heads, num_write_heads, 1], dim=-1)
    return torch.cat([backward, content, forward], dim=-1)


SHIPPED = {"strengths": "softplus", "usage_gradient": False}


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
@pytest.mark.parametrize("loss", ["reads", "full"])
@pytest.mark.parametrize(
    ("options", "outputs", "gradients"),
    [
        ({}, "oneplus:", "oneplus_nostop:"),
        (SHIPPED, "", ""),
        ({**SHIPPED, "strengths": "oneplus"}, "oneplus:", "oneplus:"),
        ({**SHIPPED, "usage_gradient": True}, "", "nostop:"),
    ],
    ids=["paper", "shipped", "oneplus", "nostop"],
)
def test_ten_steps(
    options: dict[str, Any], outputs: str, gradients: str, loss: str, backend: str
) -> None:
    """The whole maths of semantics.md: outputs and states of each step, and every gradient.

    `reads` is the gradient of the read vectors alone, `full` also that of the final state.
    """
    golden = load("r2_small.npz")
    raw = require_grad(load("r2_small.npz", "raw/"))
    initial = require_grad(load("r2_small.npz", "init/"))
    ours = {**raw, "read_mode": our_read_modes(raw["read_mode"])}
    vectors = torch.cat([ours[name].flatten(2) for name in OFFICIAL_NAMES.values()], -1)
    state, reads = MemoryState(**initial), []
    for t, vector in enumerate(vectors):
        read, state = memory_step(vector, state, backend=backend, **options)
        reads.append(read)
        expected = {name: golden[f"{outputs}out/{name}"][t] for name in state._fields}
        assert_close(state, expected, "float64", f"state at step {t}")
    assert_close(torch.stack(reads), golden[f"{outputs}out/reads"], "float64")

    total = (torch.stack(reads) * golden["cot/reads"]).sum()
    if loss == "full":
        parts = state._asdict().items()
        total = total + sum((part * golden[f"cot/{name}"]).sum() for name, part in parts)
    assert_close(total, golden[f"{outputs}loss_{loss}"], "float64")
    total.backward()
    for leaves, group in ((raw, "raw"), (initial, "init")):
        assert_gradients(leaves, golden, f"{gradients}grad_{loss}/{group}/")


# A whole DNC


def our_parameters(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """The official parameters under our names, so that gradients reach them.

    Theirs are (inputs, outputs). Their LSTM has one matrix for input and hidden, gates in the order
    i, g, f, o, and adds 1 to the forget gate; each part of the interface has a layer of its own.
    """
    hidden_size = official["lstm/w_gates"].shape[1] // 4

    def our_gates(weights: Tensor) -> Tensor:
        i, g, f, o = weights.split(hidden_size)
        return torch.cat([i, f, g, o])

    lstm = our_gates(official["lstm/w_gates"].T)
    bias = our_gates(official["lstm/b_gates"])
    added = torch.tensor([0.0, 1.0, 0.0, 0.0]).double().repeat_interleave(hidden_size)
    # Each layer with its bias as a last row.
    layers = {
        name: torch.cat(
            [official[f"memory_access/{name}/w"], official[f"memory_access/{name}/b"][None]]
        )
        for name in OFFICIAL_NAMES.values()
    }
    layers["read_mode"] = our_read_modes(layers["read_mode"].unflatten(-1, (-1, 3))).flatten(1)
    told = torch.cat(list(layers.values()), dim=-1)
    return {
        "cell.controller.layers.0.weight_ih": lstm[:, :-hidden_size],
        "cell.controller.layers.0.weight_hh": lstm[:, -hidden_size:],
        "cell.controller.layers.0.bias_ih": bias,
        "cell.controller.layers.0.bias_hh": added,
        "cell.interface.weight": told[:-1].T,
        "cell.interface.bias": told[-1],
        "cell.output.weight": official["output_linear/w"].T,
        "cell.output.bias": official["output_linear/b"],
    }


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
def test_whole_dnc(backend: str) -> None:
    """Outputs, final state, and the gradients of every parameter and the input, as shipped."""
    golden = load("dnc_small.npz")
    variables = arrays(load("dnc_small.npz", "param/"))
    model = from_official(variables, num_cells=10, backend=backend)
    official = require_grad(load("dnc_small.npz", "param/dnc/"))
    ours = our_parameters(official)
    assert_close(dict(model.named_parameters()), ours, "equal")
    x = golden["x"].requires_grad_()
    memory = model.zero_state(3).memory._replace(usage=golden["usage0"])
    output, state = torch.func.functional_call(model, ours, (x, DNCState(memory=memory)))
    assert_close(output, golden["out"], "float64")
    ((hidden, cell),) = state.controller
    final = {"h": hidden, "c": cell, **state.memory._asdict()}
    assert_close(final, {name: golden[f"final/{name}"] for name in final}, "float64", "final")

    (output * golden["cot"]).sum().backward()
    assert_gradients(official, golden, "grad/dnc/")
    assert_close(x.grad, golden["grad/x"], "float64")
    trace = model(x, DNCState(memory=memory), return_trace=True)[2]
    assert_close(trace.read_vectors, golden["reads"], "float64")
