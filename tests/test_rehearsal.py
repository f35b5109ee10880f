"""A rehearsal on tensors without data finds every kernel that a run then launches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from gpu import DEVICE
from states import normal
from torch.nn.utils.rnn import pack_sequence

from dnc_fast import DNC

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.backends.triton import compiling
from dnc_fast.engine import rehearsal
from dnc_fast.kernels.gpu import compile as compiler
from dnc_fast.kernels.gpu import launch

KINDS: dict[str, dict[str, Any]] = {
    "small": {},
    "odd sizes": {"num_cells": 7, "cell_size": 5, "num_read_heads": 1, "hidden_size": 9},
    "tiled": {"num_cells": 70, "cell_size": 4},
    "write heads": {"num_cells": 66, "cell_size": 4, "num_write_heads": 2},
    "rebuilt": {"num_cells": 70, "cell_size": 4, "checkpoint_interval": 3},
    "narrow": {"checkpoint_interval": 2, "checkpoint_dtype": torch.float16},
    "robust": {"usage_order": "robust"},
    "layers": {"num_layers": 2},
    "gru": {"controller": "gru"},
    "feedforward": {"controller": "feedforward"},
    "normalised": {"interface_norm": True},
    "both ends": {"bidirectional_controller": True, "controller": "layer_norm_lstm"},
    "double": {"dtype": torch.float64},
    "masks": {"masked_lookup": True, "similarity": "dot", "allocation": "softmax"},
    "sharpness": {"link_sharpness": True, "deallocate": True, "num_cells": 70, "cell_size": 4},
    "sparse": {"linkage": "sparse", "link_fan_out": 2},
    "separable": {"linkage": "separable"},
    "none": {"linkage": "none"},
    "cut": {"read_topk": 2, "write_topk": 2, "linkage": "sparse"},
}


def model_of(**options: Any) -> DNC:
    sizes = {"hidden_size": 8, "num_cells": 8, "cell_size": 4, "num_read_heads": 2}
    return DNC(3, **{"backend": "triton", "device": DEVICE, **sizes, **options})


def sequences(model: DNC, lengths: tuple[int, ...]) -> Any:
    given = [normal(length, 3).to(model.cell.interface.weight) for length in lengths]
    if len(set(lengths)) > 1:
        return pack_sequence(given)
    return torch.stack(given, dim=1)


def launched(model: DNC, x: Any, train: bool) -> set[compiler.Build]:
    """What is compiled for the launches of a run.

    In the interpreter, kernels are not run if no launch depends on the numbers that they find.
    """
    skip = DEVICE == "cpu" and model.config.linkage != "sparse"
    nothing = mock.patch("triton.runtime.interpreter.InterpretedFunction.run", mock.Mock())
    with (
        launch.recorded() as launches,
        torch.set_grad_enabled(train),
        nothing if skip else nullcontext(),
    ):
        output = model(x)[0]
        if train:
            (output if isinstance(output, torch.Tensor) else output.data).sum().backward()
    return alike(compiler.builds_of(launches))


def alike(builds: list[compiler.Build]) -> set[compiler.Build]:
    """Builds without how they multiply: the interpreter, on a CPU, has a way of its own."""

    def constants(build: compiler.Build) -> tuple[Any, ...]:
        return tuple(pair for pair in build.constants if pair[0] != "HOW")

    return {build._replace(constants=constants(build)) for build in builds}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
def test_a_rehearsal_finds_all_that_is_launched(
    kind: str, train: bool, rehearsals: list[Callable[[], None]]
) -> None:
    model = model_of(**KINDS[kind])
    found = launched(model, sequences(model, (4, 4)), train)
    (rehearse,) = rehearsals
    rehearsed = alike(compiling.builds_of_rehearsal(rehearse))
    assert found and found <= rehearsed


def test_also_of_sequences_that_end_at_different_steps(
    rehearsals: list[Callable[[], None]],
) -> None:
    model = model_of(num_cells=5)
    found = launched(model, sequences(model, (4, 2, 1)), True)
    assert found <= alike(compiling.builds_of_rehearsal(rehearsals[0]))


@pytest.mark.parametrize("kind", ["small", "tiled", "gru", "sparse"])
def test_a_model_without_data_tells_the_same_before_anything_runs(kind: str) -> None:
    model = model_of(**KINDS[kind])
    found = launched(model, sequences(model, (4, 4)), True)
    found |= launched(model, sequences(model, (4, 4)), False)
    twin = model_of(**KINDS[kind] | {"device": "meta"}).cell
    assert found <= alike(compiling.builds_of_rehearsal(lambda: twin.rehearse(2)))


def test_products_in_half_precision_are_those_of_autocast() -> None:
    model = model_of(hidden_size=16)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = launched(model, sequences(model, (3, 3)), True)
    twin = model_of(hidden_size=16, device="meta").cell
    assert found <= alike(compiling.builds_of_rehearsal(lambda: twin.rehearse(2, torch.bfloat16)))
    assert not found <= alike(compiling.builds_of_rehearsal(lambda: twin.rehearse(2)))


def test_a_kind_of_run_is_rehearsed_once(
    monkeypatch: pytest.MonkeyPatch, rehearsals: list[Any]
) -> None:
    model = model_of(backend="eager")
    for lengths in ((2, 2), (3, 3), (2, 2), (2, 1)):
        model(sequences(model, lengths))
    with torch.no_grad():
        model(sequences(model, (2, 2)))
    asked: list[bool] = []
    monkeypatch.setattr(rehearsal, "_rehearsed", set())
    for one in rehearsals:
        passes = one.args[1]
        note = lambda self, device, rehearse, keep=passes.layout.keep: asked.append(keep)  # noqa: E731
        monkeypatch.setattr(type(passes.plan.backend), "compile_ahead", note)
        rehearsal.prepare_kernels(*one.args)
    # The number of steps does not matter; an end before the last step does, and gradients do.
    assert asked == [True, True, False]


def test_a_rehearsal_touches_no_memory() -> None:
    cell = DNC(8, 16, num_cells=2**16, cell_size=64, device="meta").cell
    launches = compiling.builds_of_rehearsal(lambda: cell.rehearse(64))
    assert len(launches) > 10


def test_custom_controllers_are_not_rehearsed() -> None:
    class Own(torch.nn.Linear):
        output_size = 4

        def zero_state(self, batch_size: int) -> tuple[()]:
            return ()

    cell = DNC(3, 4, controller=lambda size: Own(size, 4, device="meta"), device="meta").cell
    with pytest.raises(ValueError, match="built-in controller"):
        cell.rehearse(2)
