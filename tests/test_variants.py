"""Published variants of the memory step, alone and combined, by every backend."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gpu import DEVICE
from states import (
    HAND_DERIVED,
    assert_close,
    lively_dnc,
    lively_state,
    lively_states,
    make_cotangents,
    needs_numba,
    normal,
    random_interfaces,
    run,
    run_step,
    separated_state,
    with_link,
)
from torch.nn.utils.rnn import pack_sequence

from dnc_fast.backends import backend_problem, load_backend
from dnc_fast.backends.step import ComposedRun, step_run
from dnc_fast.interface import STRENGTHS
from dnc_fast.state import MemorySizes, map_tensors
from dnc_fast.step_options import ALLOCATIONS, PAPER, SIMILARITIES, StepOptions

SIZES = MemorySizes(2, 5, 3, 2, 2)

VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: {"similarity": kind} for kind in SIMILARITIES[1:]},
    "proportional": {"allocation": "proportional", "allocation_power": 2.5},
    "softmax": {"allocation": "softmax", "allocation_temperature": 0.3},
    "masks": {"masked_lookup": True},
    "masks to zero": {"masked_lookup": True, "mask_floor": 0.0, "similarity": "euclidean"},
    "deallocation": {"deallocate": True},
    "sharpness": {"link_sharpness": True},
}
"""Each alone."""

LINKAGES = ("dense", "sparse", "separable", "none")

every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


on_a_cpu = pytest.mark.parametrize("backend", HAND_DERIVED)


@pytest.fixture(params=["eager", "cpu", "triton"])
def every_backend(request: pytest.FixtureRequest) -> str:
    """Every backend with hand-derived gradients."""
    needs_backend(request.param)
    return request.param


def needs_backend(backend: str) -> None:
    """Skip where it cannot run, such as with a Triton that is missing or too old."""
    problem = backend_problem(backend, device_of(backend), torch.float64)
    if problem is not None:
        pytest.skip(str(problem))


def device_of(backend: str) -> torch.device:
    return torch.device(DEVICE if backend == "triton" else "cpu")


def assert_step_equals_the_reference(
    backend: str, linkage: str, options: dict[str, Any], sizes: MemorySizes = SIZES, seed: int = 0
) -> None:
    vector = random_interfaces(1, sizes, seed, **options)[0]
    state = with_link(separated_state(sizes, seed), linkage)
    given = vector, state, make_cotangents(vector, state, **options)
    given = map_tensors(lambda tensor: tensor.to(device_of(backend)), given)
    found = [run_step(*given, backend=name, **options) for name in (backend, "reference")]
    assert_close(*found, "float64")


def assert_sequences_equal_the_reference(
    backend: str, options: dict[str, Any], lengths: tuple[int, ...] = (4, 2), seed: int = 0
) -> None:
    """In a batch that shrinks, from a state in the middle of a run."""
    options = {"num_cells": 6, **options}
    device = device_of(backend)
    state = lively_states(lively_dnc(**options), len(lengths), seed)
    state = map_tensors(lambda tensor: tensor.to(device), state)
    x = pack_sequence([normal(length, 3) for length in lengths]).to(device)
    models = (lively_dnc(seed, backend=name, **options) for name in (backend, "reference"))
    assert_close(*(run(model.to(device), x, state) for model in models), "float64")


@every_variant
def test_each_variant_alone_in_a_step(options: dict, every_backend: str) -> None:
    assert_step_equals_the_reference(every_backend, "dense", options)


@every_variant
@pytest.mark.parametrize("linkage", LINKAGES[1:])
def test_each_variant_with_other_linkages(linkage: str, options: dict, every_backend: str) -> None:
    assert_step_equals_the_reference(every_backend, linkage, options)


@every_variant
@on_a_cpu
@pytest.mark.parametrize("interval", [1, 3])
def test_each_variant_alone_in_sequences(interval: int, backend: str, options: dict) -> None:
    options = {"checkpoint_interval": interval, "num_write_heads": 2, **options}
    assert_sequences_equal_the_reference(backend, options)


@pytest.mark.full
@every_variant
def test_each_variant_alone_in_short_sequences_on_a_gpu(options: dict) -> None:
    needs_backend("triton")
    options = {"checkpoint_interval": 2, "num_cells": 4, "num_read_heads": 1, **options}
    assert_sequences_equal_the_reference("triton", options, (3,))


def combination(seed: int) -> dict[str, Any]:
    """A seeded choice of variants and of what they may be combined with."""
    draw = random.Random(seed)
    options: dict[str, Any] = {
        "linkage": draw.choice(LINKAGES),
        "checkpoint_interval": draw.choice([None, 1, 2, 3]),
        "num_write_heads": draw.choice([1, 1, 2, 3]),
        "num_read_heads": draw.choice([1, 2, 3]),
        "controller": draw.choice(["lstm", "gru", "feedforward", "layer_norm_lstm"]),
        "num_layers": draw.choice([1, 2]),
        "similarity": draw.choice(SIMILARITIES),
        "allocation": draw.choice(ALLOCATIONS),
        "strengths": draw.choice(list(STRENGTHS)),
        "value_clip": draw.choice([None, None, 0.5]),
        **{name: draw.random() < 0.5 for name in ("masked_lookup", "deallocate", "link_sharpness")},
        **{name: draw.random() < 0.3 for name in ("interface_norm", "bidirectional_controller")},
        "usage_gradient": draw.random() < 0.5,
    }
    for name in ("read_topk", "write_topk"):
        if draw.random() < 0.25:
            options[name] = draw.choice([2, 3])
    if options["linkage"] == "sparse":
        options["link_fan_out"] = 3
    if options["linkage"] == "none":
        options["link_sharpness"] = False
    if options["allocation"] == "sorted":
        options["usage_order"] = draw.choice(["exact", "robust"])
    if options["allocation"] == "softmax":
        options["allocation_temperature"] = 0.3  # at the default, gradients amplify rounding
    return options


@on_a_cpu
@pytest.mark.parametrize("seed", range(16))
def test_combinations_of_variants(seed: int, backend: str) -> None:
    assert_sequences_equal_the_reference(backend, combination(seed), (4, 2, 1), seed)


@pytest.mark.parametrize("seed", range(5))
def test_combinations_of_variants_on_a_gpu(seed: int) -> None:
    needs_backend("triton")
    assert_sequences_equal_the_reference("triton", combination(seed), (2, 1), seed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 200))
def test_many_combinations_of_variants(seed: int, every_backend: str) -> None:
    assert_sequences_equal_the_reference(every_backend, combination(seed), (5, 3, 3, 1), seed)


@every_variant
def test_a_backend_fuses_the_variants_that_it_knows(options: dict) -> None:
    state = separated_state(SIZES)
    for name, knows in (("cpu", True), ("triton", True), ("eager", False)):
        if backend_problem(name, device_of(name), torch.float64) is not None:
            continue
        for chosen, fuses in ((PAPER, name != "eager"), (StepOptions(**options), knows)):
            run = step_run(load_backend(name), state, chosen, steps=1, keep=False)
            assert isinstance(run, ComposedRun) != fuses, (name, chosen)


EVERYTHING = {
    **{"similarity": "euclidean", "allocation": "softmax", "masked_lookup": True},
    **{"deallocate": True, "link_sharpness": True, "num_write_heads": 2},
}


@needs_numba
@pytest.mark.parametrize("interval", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_threads_share_out_variants(
    batch_size: int, interval: int, threads: Callable[[int], None], shared_out: list[int]
) -> None:
    """Strips of a link matrix, or sequences: the same bits by any number of threads."""
    options = {"num_cells": 300, "checkpoint_interval": interval, **EVERYTHING}
    x, found = normal(3, batch_size, 3), []
    for count in (1, 3):
        threads(count)
        model = lively_dnc(backend="cpu", **options)
        found.append(run(model, x, lively_state(model, batch_size)))
        assert (max(shared_out) > 1) == (count > 1)
    assert_close(found[1], found[0], "equal")
    reference = lively_dnc(backend="reference", **options)
    assert_close(found[0], run(reference, x, lively_state(reference, batch_size)), "float64")


@needs_numba
@every_variant
def test_work_space_of_variants_is_set_before_it_is_read(
    options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnc_fast.backends.cpu import fused

    make_variant, new_linked = fused.make_variant, fused.new_linked

    def poisoned(*given: Any, **settings: Any) -> Any:
        variant = make_variant(*given, **settings)
        fixed = {"ones", "modes", *(() if settings["deallocate"] else ("d_psi",))}
        for name, part in variant._asdict().items():
            if name not in fixed and hasattr(part, "fill") and part.ndim:
                part.fill(float("nan"))
        return variant

    def poisoned_linked(*given: Any) -> Any:
        linked = new_linked(*given)
        linked.fill(float("nan"))
        return linked

    monkeypatch.setattr(fused, "make_variant", poisoned)
    monkeypatch.setattr(fused, "new_linked", poisoned_linked)
    assert_step_equals_the_reference("cpu", "dense", options)
    assert_sequences_equal_the_reference("cpu", {"checkpoint_interval": 2, **options})


@every_variant
@on_a_cpu
def test_variants_in_float32(backend: str, options: dict) -> None:
    """Finite, and close to float64, where the same state is given to both."""
    vector = random_interfaces(1, SIZES, **options)[0]
    state = separated_state(SIZES)
    cotangents = make_cotangents(vector, state, **options)
    given = map_tensors(lambda tensor: tensor.to(device_of(backend)), (vector, state, cotangents))
    exact = run_step(*given, backend="reference", **options)
    single = map_tensors(lambda tensor: tensor.float(), given)
    found = run_step(*single, backend=backend, **options)
    for name, part in found.items():
        error = (part.double() - exact[name]).norm()
        assert error <= 1e-4 * exact[name].norm() + 1e-5, name
