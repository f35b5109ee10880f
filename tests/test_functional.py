"""The parts of a step as functions: which path runs, what comes out, what is refused."""

from __future__ import annotations

import pytest
import torch
from gpu import DEVICE
from hypothesis import given
from states import (
    SEEDS,
    SMALL_SIZES,
    assert_close,
    every_backend,
    normal,
    outcome,
    random_weighting,
    require_grad,
    separated_usage,
    uniform,
)
from torch import Tensor

from dnc_fast import functional
from dnc_fast.backends import REGISTRY, VARIABLE, backend_problem
from dnc_fast.state import MemorySizes
from dnc_fast.step_options import ALLOCATIONS, SIMILARITIES, USAGE_ORDERS

SIZES = MemorySizes(2, 5, 3, 2, 2)


def arguments(sizes: MemorySizes = SIZES) -> dict[str, dict[str, Tensor]]:
    """What each function takes, by name."""
    B, N, W, R, Hw = sizes
    memory, write_weights = normal(B, N, W), random_weighting(B, Hw, N)
    found = {
        "content_weighting": {
            "keys": normal(B, R, W),
            "strengths": 1 + uniform(B, R),
            "memory": memory,
        },
        "allocation_weighting": {"usage": separated_usage(B, N)},
        "linkage": {
            "link": random_weighting(B, Hw, N, N),
            "precedence": random_weighting(B, Hw, N),
            "write_weights": write_weights,
            "read_weights": random_weighting(B, R, N),
        },
        "write_memory": {
            "memory": memory,
            "write_weights": write_weights,
            "erase_vectors": uniform(B, Hw, W),
            "write_vectors": normal(B, Hw, W),
        },
        "read_memory": {"memory": memory, "read_weights": random_weighting(B, R, N)},
    }
    return {
        name: {argument: tensor.to(DEVICE) for argument, tensor in given.items()}
        for name, given in found.items()
    }


FUNCTIONS = [name for name in functional.__all__ if name != "memory_step"]
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def test_every_function_is_tested_here() -> None:
    assert set(arguments()) == set(FUNCTIONS)


def runnable(backend: str) -> bool:
    return backend_problem(backend, torch.device(DEVICE), torch.float64) is None


def assert_equals_the_reference(name: str, backend: str, sizes: MemorySizes = SIZES) -> None:
    function, given, found = getattr(functional, name), arguments(sizes)[name], []
    for chosen in (backend, "reference"):
        leaves = require_grad(given)
        found.append(outcome({"results": function(**leaves, backend=chosen)}, leaves))
    assert_close(*found, "float64")


@every_function
@pytest.mark.parametrize("backend", REGISTRY)
def test_results_and_gradients_equal_the_reference(name: str, backend: str) -> None:
    if not runnable(backend):
        pytest.skip("cannot run here")
    assert_equals_the_reference(name, backend)


@every_function
@every_backend
@given(sizes=SMALL_SIZES, seed=SEEDS)
def test_results_and_gradients_equal_the_reference_at_any_size(
    name: str, backend: str, sizes: MemorySizes, seed: int
) -> None:
    torch.manual_seed(seed)
    if runnable(backend):
        assert_equals_the_reference(name, backend, sizes)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("backend", REGISTRY)
def test_similarities_and_masks_equal_the_reference(
    backend: str, masked: bool, similarity: str
) -> None:
    if not runnable(backend):
        pytest.skip("cannot run here")
    given, found = arguments()["content_weighting"], []
    if masked:
        given["masks"] = uniform(*given["keys"].shape).to(DEVICE)
    for name in (backend, "reference"):
        leaves = require_grad(given)
        weights = functional.content_weighting(**leaves, similarity=similarity, backend=name)
        found.append(outcome({"weights": weights}, leaves))
    assert_close(*found, "float64")


def test_masks_and_similarity_are_checked() -> None:
    given = arguments()["content_weighting"]
    with pytest.raises(ValueError, match=r"^masks must have shape \(B, H, W\).*got \(2, 2, 2\)"):
        functional.content_weighting(**given, masks=given["keys"][..., :2])
    with pytest.raises(ValueError, match=r"^similarity must be one of.*got 'hamming'"):
        functional.content_weighting(**given, similarity="hamming")


@every_function
@every_backend
def test_the_gradient_that_the_caller_gives_stays_as_it_is(name: str, backend: str) -> None:
    if not runnable(backend):
        pytest.skip("cannot run here")
    leaves = require_grad(arguments()[name])
    results = getattr(functional, name)(**leaves, backend=backend)
    results = [results] if isinstance(results, Tensor) else list(results)
    given = [normal(*part.shape).to(DEVICE) for part in results]
    before = [part.clone() for part in given]
    torch.autograd.grad(results, list(leaves.values()), given)
    assert_close(given, before, "equal")


@pytest.mark.skipif(not runnable("cpu"), reason="needs numba")
@pytest.mark.parametrize("order", USAGE_ORDERS)
def test_allocation_in_a_large_memory(order: str) -> None:
    """More cells than allocation reaches at first."""
    usage = (1 - 0.01 * uniform(2, 5000)).requires_grad_()
    found = []
    for backend in ("cpu", "reference"):
        weights = functional.allocation_weighting(usage, usage_order=order, backend=backend)
        found.append([weights, *torch.autograd.grad(weights.square().sum(), usage)])
    assert_close(*found, "float64")


def test_orders_differ_as_in_the_reference() -> None:
    pytest.importorskip("triton", minversion="3.6")
    usage = torch.tensor([[0.5001, 0.5, 0.2]], dtype=torch.float64, device=DEVICE)
    exact, robust = (
        functional.allocation_weighting(usage, usage_order=order, backend="triton")
        for order in USAGE_ORDERS
    )
    assert exact[0, 1] > exact[0, 0] and robust[0, 0] > robust[0, 1]


def second_gradient(name: str, backend: str = "auto") -> None:
    given = {key: tensor.requires_grad_() for key, tensor in arguments()[name].items()}
    results = getattr(functional, name)(**given, backend=backend)
    total = sum(part.square().sum() for part in ([results] if name != "linkage" else results))
    first = torch.autograd.grad(total, list(given.values()), create_graph=True)
    sum(part.square().sum() for part in first).backward()


REFUSED = r'create_graph=True.*backend="reference" can do that'


@every_function
def test_second_gradients_need_the_reference_which_the_environment_can_choose(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    second_gradient(name)
    monkeypatch.setenv(VARIABLE, "eager")
    for backend in ("auto", *filter(runnable, REGISTRY)):
        if name == "read_memory" and backend != "triton":  # one product, whoever calculates it
            second_gradient(name, backend)
        else:
            with pytest.raises(RuntimeError, match=REFUSED):
                second_gradient(name, backend)


@every_function
def test_auto_can_be_compiled(name: str) -> None:
    """Where kernels cannot be part of a graph, the reference is."""
    function, given = getattr(functional, name), arguments()[name]
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    assert_close(compiled(**given), function(**given, backend="reference"), "float64")


@every_function
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^backend must be one of.*'triton'"):
        getattr(functional, name)(**arguments()[name], backend="cuda")


@pytest.mark.parametrize("backend", REGISTRY)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_allocations_equal_the_reference(allocation: str, backend: str) -> None:
    if not runnable(backend):
        pytest.skip("cannot run here")
    given, found = arguments()["allocation_weighting"], []
    for name in (backend, "reference"):
        leaves = require_grad(given)
        weights = functional.allocation_weighting(**leaves, allocation=allocation, backend=name)
        found.append(outcome({"weights": weights}, leaves))
    assert_close(*found, "float64")


def test_order_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^usage_order must be one of"):
        functional.allocation_weighting(torch.rand(1, 2), usage_order="random")


@pytest.mark.skipif(DEVICE != "cpu", reason="values are checked on a CPU only")
def test_strengths_below_zero_are_refused() -> None:
    """The kernels take the highest similarity for the highest logit."""
    given = arguments()["content_weighting"]
    given["strengths"][0, 1] = -3.0
    with pytest.raises(ValueError, match=r"^strengths must be at least 0, got -3; softplus"):
        functional.content_weighting(**given)
    given["strengths"][0, 1] = 0.0
    assert functional.content_weighting(**given)[0, 1].allclose(torch.full((5,), 0.2).double())


@every_function
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_each_argument_is_checked(name: str, backend: str) -> None:
    pytest.importorskip("triton", minversion="3.6")
    function, given = getattr(functional, name), arguments()[name]
    for argument, tensor in given.items():
        with pytest.raises(TypeError, match=rf"^{argument} must be a tensor, got list"):
            function(**given | {argument: tensor.tolist()}, backend=backend)
        with pytest.raises(ValueError, match=rf"^{argument} must have shape \(B, "):
            function(**given | {argument: tensor[0]}, backend=backend)
        with pytest.raises(ValueError, match=rf"^{argument} must have shape \(B, "):
            function(**given | {argument: tensor[..., :0]}, backend=backend)
        if len(given) > 1:
            bad = tensor.float()
            with pytest.raises(TypeError, match=r"must be torch.float(32|64), got"):
                function(**given | {argument: bad}, backend=backend)
        if DEVICE == "cpu":
            bad = torch.full_like(tensor, torch.nan)
            with pytest.raises(ValueError, match=rf"^{argument} must be finite, got nan"):
                function(**given | {argument: bad}, backend=backend)


@every_function
def test_sizes_must_agree(name: str) -> None:
    function, given = getattr(functional, name), arguments()[name]
    for argument, tensor in list(given.items())[1:]:
        longer = torch.cat([tensor, tensor], dim=-1)
        with pytest.raises(ValueError, match=rf"^{argument} must have shape .*=.*got \(2, "):
            function(**given | {argument: longer})
