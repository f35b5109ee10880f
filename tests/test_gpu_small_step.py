"""The kernels for small memories: how they are divided among programs, and what they compile to."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_close
from test_gpu_step import Case, compare, inputs_of, new_step

from dnc_fast.state import MemorySizes

pytest.importorskip("triton", minversion="3.6")

import triton

from dnc_fast.kernels.arrays import Step
from dnc_fast.kernels.gpu import packed, small_step
from dnc_fast.kernels.gpu import step as kernels

ROOT = Path(__file__).parent.parent

SEVERAL = MemorySizes(2, 33, 5, 3, 2)
"""More than one of everything, and nothing a power of two."""


# Division among programs


@pytest.mark.parametrize(
    ("B", "N", "forward", "backward"),
    [(1, 64, 8, 16), (16, 64, 8, 16), (32, 64, 16, 16), (64, 64, 32, 32), (512, 64, 32, 32)],
)
def test_strips_are_as_low_as_a_wave_of_programs_allows(
    B: int, N: int, forward: int, backward: int
) -> None:
    scratch = kernels.make_scratch(B, N, 32, 4, 1, torch.float32, torch.device("meta"))
    assert isinstance(scratch, small_step.Scratch)
    assert (scratch.forward_rows, scratch.backward_rows) == (forward, backward)


def test_strips_are_lower_with_many_heads() -> None:
    """Registers would run out."""
    heads = ((4, 1), (4, 2), (4, 3), (8, 1), (16, 1))
    assert [small_step.most_rows(*pair) for pair in heads] == [32, 32, 16, 16, 8]


@pytest.mark.parametrize(
    ("N", "W", "R", "Hw", "alone"),
    [
        (32, 32, 4, 1, True),
        (16, 16, 1, 4, True),
        (33, 1, 1, 1, False),
        (32, 64, 4, 1, False),
        (32, 8, 5, 1, False),
        (32, 8, 4, 3, False),
    ],
)
def test_few_cells_are_one_program(N: int, W: int, R: int, Hw: int, alone: bool) -> None:
    assert small_step.is_alone(N, W, R, Hw) == alone


@pytest.mark.parametrize("programs", [1, math.inf])
def test_high_and_low_strips(monkeypatch: pytest.MonkeyPatch, programs: float) -> None:
    """As in large and small batches: two strips or five, of which the last is not full."""
    monkeypatch.setattr(small_step, "PROGRAMS", programs)
    compare(Case("random", SEVERAL, "exact", tiled=False), torch.float64)


def test_few_cells_in_strips_of_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a hundred read heads; and each program reads a part of all W."""
    for name in ("ALONE_CELLS", "READ_NUMBERS"):
        monkeypatch.setattr(small_step, name, 1)
    monkeypatch.setattr(small_step, "ROW_HEADS", 4)
    compare(Case("random", MemorySizes(1, 4, 5, 3, 1), "robust", tiled=False), torch.float64)


# What is kept


def step_of(sizes: MemorySizes) -> tuple[Step, Any]:
    """A step with its inputs, and its scratch, both otherwise NaN."""
    vector, state, _ = inputs_of(sizes)
    step, _, scratch = new_step(sizes, lambda shape: torch.full(tuple(shape), math.nan).to(vector))
    names = [name for name in Step._fields if name[-1] == "0"]
    step = step._replace(vector=vector, **dict(zip(names, state, strict=True)))
    scratch.numbers.fill_(math.nan), scratch.unkept.fill_(math.nan)
    return step, scratch


def results_of(step: Step) -> list[torch.Tensor]:
    return [getattr(step, name) for name in Step._fields if name[-1] != "0"]


@pytest.mark.parametrize("sizes", [SEVERAL, MemorySizes(1, 5, 3, 1, 1)], ids=str)
def test_all_that_is_kept_is_filled(sizes: MemorySizes) -> None:
    step, scratch = step_of(sizes)
    kept = kernels.make_kept(step).fill_(math.nan)
    kernels.forward(step, scratch, False, kept)
    assert kept.isfinite().all() and scratch.unkept.isnan().all()
    assert kept.shape == (sizes.batch_size, kernels.kept_size(*sizes[1:]))


def test_without_a_backward_pass_results_are_the_same() -> None:
    """In scratch lies what would be kept."""
    step, scratch = step_of(SEVERAL)
    kernels.forward(step, scratch, False, kernels.make_kept(step))
    again, scratch = step_of(SEVERAL)
    kernels.forward(again, scratch, False)
    assert_close(results_of(again), results_of(step), "equal")


# Sums of several tensors


@pytest.mark.parametrize("count", range(2, 7))
def test_sums_add_each_to_its_own(count: int) -> None:
    """The interpreter never calls these, see `packed.INTERPRETED`."""
    tens, ones = range(10, 10 * count + 10, 10), range(count)
    found = getattr(packed, f"add{count}").fn(*tens, *ones)
    assert found == tuple(a + b for a, b in zip(tens, ones, strict=True))


# Compiled code

REACHED = {
    ("16,64,32,4,1", "small_forward.strip_kernel"): (1266, 27),
    ("16,64,32,4,1", "small_forward.read_kernel"): (459, 13),
    ("16,64,32,4,1", "small_backward.strip_backward_kernel"): (1772, 46),
    ("16,64,32,4,1", "small_gradients.gradients_kernel"): (1425, 37),
    ("64,64,32,4,1", "small_forward.strip_kernel"): (2197, 37),
    ("64,64,32,4,1", "small_forward.read_kernel"): (441, 13),
    ("64,64,32,4,1", "small_backward.strip_backward_kernel"): (2464, 46),
    ("64,64,32,4,1", "small_gradients.gradients_kernel"): (1487, 51),
    ("16,32,32,4,1", "small_forward.strip_kernel"): (1977, 35),
    ("16,32,32,4,1", "small_backward.strip_backward_kernel"): (1414, 31),
    ("16,32,32,4,1", "small_gradients.gradients_kernel"): (914, 29),
}
"""Instructions and barriers of the kernels that gave the times in `small_step`, by Triton 3.9.

A program of a small step takes about 2.8 cycles per instruction, and 29 + 4 w per barrier of w
warps: they are its time.
"""


@pytest.mark.skipif(not triton.__version__.startswith("3.9."), reason="Triton 3.9's figures")
def test_instructions_and_barriers() -> None:
    sizes, names = ({key[place] for key in REACHED} for place in (0, 1))
    command = [
        sys.executable,
        "-m",
        "bench.compile_kernels",
        "--target",
        "sm_90",
        "--order",
        "exact",
    ]
    command += ["--size", *sorted(sizes), "--kernel", *sorted(names)]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    found = {
        (size, record["kernel"]): record
        for record in records
        if "kernel" in record and "exact step" in record["calls"]
        for size in record["sizes"]
    }
    assert found.keys() == REACHED.keys(), done.stderr
    for key, (instructions, barriers) in REACHED.items():
        figures = found[key]["instructions"], found[key]["barriers"]
        assert figures[0] <= 1.1 * instructions and figures[1] <= 1.1 * barriers, (key, figures)
