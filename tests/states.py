"""Memory states, interfaces and models to test with; what they give; how close two must be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from dnc_fast import DNC, DNCState, MemoryState, memory_step
from dnc_fast.linkages import SeparableLink, SparseLink
from dnc_fast.state import MemorySizes, map_tensors, memory_state_shapes, tensors
from dnc_fast.step_options import StepOptions

HAS_NUMBA = find_spec("numba") is not None

needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
HAND_DERIVED = ("eager", pytest.param("cpu", marks=needs_numba))
"""The backends with hand-derived gradients that run on a CPU."""
every_backend = pytest.mark.parametrize("backend", HAND_DERIVED)

# How much two results for the same number may differ: (relative, absolute). Every comparison in the
# tests of the maths names one of these.
TOLERANCES = {
    # The same operations on the same numbers.
    "equal": (0.0, 0.0),
    # float64, sums in another order: some tens of roundings of 1e-16, over up to ten steps.
    "float64": (1e-12, 1e-12),
    # A few steps in float32: roundings of 6e-8; a strength of some 10 multiplies those of a cosine.
    "float32": (1e-5, 1e-6),
    # A memory, or the layers around it, in float16 (11 bits, roundings of 5e-4), a few steps.
    "float16": (2e-3, 2e-3),
    # The same in bfloat16 (8 bits, roundings of 4e-3).
    "bfloat16": (2e-2, 2e-2),
}

SMALL_SIZES = st.builds(
    MemorySizes,
    batch_size=st.integers(1, 3),
    num_cells=st.integers(1, 9),
    cell_size=st.integers(1, 6),
    num_read_heads=st.integers(1, 4),
    num_write_heads=st.integers(1, 3),
)
SEEDS = st.integers(0, 2**16)


# States and interfaces


def uniform(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def normal(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def separated_usage(
    batch_size: int, num_cells: int, generator: torch.Generator | None = None
) -> Tensor:
    """(B, N) in (0, 1), in random order, each two of a row at least 1 / 2N apart.

    Allocation jumps where two usages swap places, so results of two dtypes, or of two formulas,
    and difference quotients can be compared only away from there.
    """
    ranks = uniform(batch_size, num_cells, generator=generator).argsort(-1)
    jitter = uniform(batch_size, num_cells, generator=generator)
    return (ranks + 0.25 + 0.5 * jitter) / num_cells


def random_weighting(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    """Non-negative, each sum over the last axis below 1."""
    weights = uniform(*shape, generator=generator)
    total = uniform(*shape[:-1], 1, generator=generator)
    return weights / weights.sum(-1, keepdim=True) * total


def separated_state(sizes: MemorySizes, seed: int = 0) -> MemoryState:
    """A memory in the middle of a run, float64, its usages well apart."""
    B, N, _, R, Hw = sizes
    generator = torch.Generator().manual_seed(seed)
    link = random_weighting(B, Hw, N, N, generator=generator)
    return MemoryState(
        memory=normal(*memory_state_shapes(sizes)["memory"], generator=generator),
        usage=separated_usage(B, N, generator),
        precedence=random_weighting(B, Hw, N, generator=generator),
        link=link.masked_fill(torch.eye(N, dtype=torch.bool), 0),
        write_weights=random_weighting(B, Hw, N, generator=generator),
        read_weights=random_weighting(B, R, N, generator=generator),
    )


def with_link(state: MemoryState, linkage: str, fan_out: int = 2, seed: int = 3) -> MemoryState:
    """The state with its link matrix replaced by a link of some linkage, in the middle of a run."""
    (B, N, _, _, Hw), generator = state.sizes, torch.Generator().manual_seed(seed)
    writes = [random_weighting(B, Hw, 3, N, generator=generator) for _ in range(2)]
    links = {
        "dense": lambda: state.link,
        "sparse": lambda: SparseLink.from_dense(state.link, fan_out),
        "separable": lambda: SeparableLink(*writes),
        "none": lambda: None,
    }
    return state._replace(link=links[linkage]())


def zero_state(sizes: MemorySizes, dtype: torch.dtype = torch.float64) -> MemoryState:
    return MemoryState.zeros(*sizes, dtype=dtype)


def random_interfaces(
    steps: int, sizes: MemorySizes, seed: int = 0, scale: float = 2.0, **options: Any
) -> Tensor:
    """(T, B, interface size) raw vectors; a large scale saturates gates, modes and strengths."""
    generator = torch.Generator().manual_seed(seed)
    heads = sizes.cell_size, sizes.num_read_heads, sizes.num_write_heads
    size = StepOptions(**options).interface_length(*heads)
    return scale * normal(steps, sizes.batch_size, size, generator=generator)


def usage_gap(usage: Tensor) -> float:
    """The least distance of two cells' usages in any row; infinite for one cell."""
    return min(usage.sort(-1).values.diff().flatten().tolist(), default=float("inf"))


# Models


def lively_dnc(seed: int = 0, **options: Any) -> DNC:
    """A small float64 DNC with parameters large enough for its gates to leave the middle."""
    sizes = {"num_cells": 5, "cell_size": 3, "num_read_heads": 2}
    model = DNC(**{"input_size": 3, "hidden_size": 4, "dtype": torch.float64} | sizes | options)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = normal(*parameter.shape, generator=generator).to(parameter.dtype)
    return model


def lively_state(model: DNC, batch_size: int, seed: int = 0) -> DNCState:
    """A state in the middle of a run for one direction of a float64 model, usages well apart."""
    config, zeros = model.config, model.cell.zero_state(batch_size)
    generator = torch.Generator().manual_seed(seed)

    def draw(zero: Tensor) -> Tensor:
        return normal(*zero.shape, generator=generator) / 2

    memory = separated_state(zeros.memory.sizes, seed)
    return DNCState(
        controller=map_tensors(draw, zeros.controller),
        memory=with_link(memory, config.linkage, config.link_fan_out),
        read_vectors=draw(zeros.read_vectors),
    )


def lively_states(model: DNC, batch_size: int, seed: int = 0) -> Any:
    """`lively_state`, or a pair of them for a model of both directions."""
    states = tuple(lively_state(model, batch_size, seed + i) for i in range(len(model.cells)))
    return states if model.config.bidirectional else states[0]


# The oracle's arrays


def arrays(tree: Any) -> Any:
    """A nest of tensors as one of arrays, named tuples as dicts."""
    if isinstance(tree, Tensor):
        return tree.detach().double().numpy()
    if hasattr(tree, "_asdict"):
        return arrays(tree._asdict())
    if isinstance(tree, dict):
        return {name: arrays(part) for name, part in tree.items()}
    return tuple(arrays(part) for part in tree)


def oracle_dnc(
    model: DNC, x: Tensor, state: DNCState, controller: str = "lstm", order: str = "exact"
) -> tuple[np.ndarray, dict]:
    """The oracle's outputs (T, B, Y) and final state for a one-directional model and (T, B, X)."""
    weights = arrays(dict(model.cell.state_dict()))

    def run(x: np.ndarray, state: dict) -> tuple[np.ndarray, dict]:
        return oracle.dnc(weights, x, state, controller, order)

    outputs, final = oracle.batched(run, arrays(x.transpose(0, 1)), arrays(state))
    return outputs.swapaxes(0, 1), final


# Comparison


def named_parts(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor or array of a nest with its path, such as `state.memory.link`."""
    if isinstance(tree, (Tensor, np.ndarray, float)):
        yield name, torch.as_tensor(tree)
    elif tree is not None:
        fields = tree._asdict() if hasattr(tree, "_asdict") else tree
        if not isinstance(fields, dict):
            fields = dict(enumerate(fields))
        for field, part in fields.items():
            yield from named_parts(part, f"{name}.{field}")


def assert_close(actual: Any, expected: Any, tolerance: str, name: str = "result") -> None:
    """Compare two nests of tensors or arrays, part by part and by name."""
    relative, absolute = TOLERANCES[tolerance]
    found, wanted = dict(named_parts(actual, name)), dict(named_parts(expected, name))
    assert found.keys() == wanted.keys()
    for part, value in found.items():
        torch.testing.assert_close(
            value.detach(),
            wanted[part].detach(),
            rtol=relative,
            atol=absolute,
            check_dtype=False,
            msg=lambda message, part=part: f"{part}: {message}",
        )


def rms(tensor: Tensor) -> float:
    return tensor.detach().double().square().mean().sqrt().item()


def assert_near(
    actual: dict[str, Tensor], expected: dict[str, Tensor], relative: float = 1e-10
) -> None:
    """RMS of the difference over RMS of the expected; all things are of size one, or zero."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].double() - value).norm().item()
        size = value.double().norm().item()
        assert error <= relative * size + 1e-12, f"{name}: {error:.2g} of {size:.2g}"


# Results and gradients


def require_grad(tree: Any) -> Any:
    """A copy of a nest of tensors; those of floats are leaves that collect gradients."""
    return map_tensors(
        lambda tensor: tensor.detach().clone().requires_grad_(tensor.is_floating_point()), tree
    )


def weighed_sum(tree: Any, seed: int = 0) -> Tensor:
    """A random linear function of all floating-point tensors, so that each has a gradient."""
    generator = torch.Generator().manual_seed(seed)
    parts = [part for _, part in named_parts(tree, "") if part.is_floating_point()]
    return sum(
        ((part * normal(*part.shape, generator=generator).to(part.device)).sum() for part in parts),
        start=torch.zeros((), dtype=torch.float64),
    )


def outcome(
    results: dict[str, Any],
    leaves: dict[str, Any],
    total: Tensor | None = None,
    cotangents: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    """Results, and the gradients of leaves, by name.

    Those are of `total`, or of the results with given cotangents, by default of a random linear
    function of all results. Leaves that do not require a gradient are left out.
    """
    parts = {n: part for name, tree in results.items() for n, part in named_parts(tree, name)}
    wanted = {n: part for name, tree in leaves.items() for n, part in named_parts(tree, name)}
    wanted = {name: part for name, part in wanted.items() if part.requires_grad}
    if cotangents is None:
        outputs, given = [weighed_sum(results) if total is None else total], None
    else:
        floats = [part for part in parts.values() if part.is_floating_point()]
        pairs = zip(floats, cotangents, strict=True)
        outputs, given = zip(*(pair for pair in pairs if pair[0].requires_grad), strict=True)
    found = torch.autograd.grad(
        outputs, list(wanted.values()), given, allow_unused=True, materialize_grads=True
    )
    gradients = {f"gradient of {name}": part for name, part in zip(wanted, found, strict=True)}
    return {**{name: part.detach() for name, part in parts.items()}, **gradients}


def parameters(model: DNC) -> dict[str, Any]:
    """A model's parameters as leaves for `outcome`."""
    return {"parameter": dict(model.named_parameters())}


def run(
    model: DNC,
    x: Any,
    state: Any,
    loss: Callable[[Any, Any], Tensor] | None = None,
    context: Any = None,
) -> dict[str, Tensor]:
    """Outputs, final state, and the gradients of parameters, input and initial state, by name.

    `loss` of (outputs, final state) is by default a random linear function of all of them. The
    forward pass alone is within `context`.
    """
    torch.manual_seed(7)  # what dropout draws
    state = require_grad(state)
    packed = isinstance(x, PackedSequence)
    leaf = require_grad(x.data if packed else x)
    with context or nullcontext():
        output, final = model(x._replace(data=leaf) if packed else leaf, state)
    output = output.data if packed else output
    return outcome(
        {"output": output, "final": final},
        {**parameters(model), "input": leaf, "state": state},
        None if loss is None else loss(output, final),
    )


def make_cotangents(
    vector: Tensor, state: MemoryState, seed: int = 0, **options: Any
) -> list[Tensor]:
    """Gradients of the floats that a step returns: its read vectors and the new state."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        results = memory_step(vector, state, backend="reference", **options)
    floats = [part for part in tensors(results) if part.is_floating_point()]
    return [normal(*part.shape, generator=generator) for part in floats]


def run_step(
    vector: Tensor, state: MemoryState, cotangents: Sequence[Tensor], **options: Any
) -> dict[str, Tensor]:
    """Results of a memory step, and the gradients of the interface vector and of the state."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(tensor.is_floating_point())

    vector, state = map_tensors(leaf, (vector, state))
    reads, new = memory_step(vector, state, **options)
    results, leaves = {"reads": reads, "new": new}, {"interface": vector, "state": state}
    return outcome(results, leaves, cotangents=cotangents)


def gradients(tree: Any) -> Any:
    """The gradient that each leaf of a nest has collected."""
    return map_tensors(lambda tensor: tensor.grad, tree)


def assert_backward_equals_autograd(
    backward: Callable[..., Any], function: Callable[..., Any], inputs: Sequence[Tensor]
) -> None:
    """A backward derived by hand, of (gradients of the results, inputs), against autograd."""
    inputs = require_grad(inputs)
    results = function(*inputs)
    results = [results] if isinstance(results, Tensor) else results
    cotangents = [normal(*result.shape) for result in results]
    expected = torch.autograd.grad(results, inputs, cotangents)
    with torch.no_grad():
        actual = backward(*cotangents, *inputs)
    actual = [actual] if isinstance(actual, Tensor) else actual
    assert_close(list(actual), list(expected), "float64", "gradient")


# Processes


def python(code: str, **environment: str) -> str:
    """Run a program in a new process, which must succeed; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
