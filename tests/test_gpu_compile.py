"""The GPU kernels compile for every target, and stay within registers, memory and launches."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", minversion="3.6", reason="Triton is not installed")

ROOT = Path(__file__).parent.parent

# Bytes of shared memory that a program may have.
SHARED = {"sm_80": 163 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10, "gfx942": 64 << 10}

# By default a small and a large step, once each; with -m full everything that the script knows.
SELECTION = (
    *("--target", "sm_90", "gfx942"),
    *("--size", "16,64,32,4,1", "1,4096,64,4,1"),
    *("--order", "exact"),
)


def run(*command, **variables):
    """Python in a process of its own; Triton only compiles where nothing asks to interpret."""
    environment = {**os.environ, **variables}
    if "TRITON_INTERPRET" not in variables:
        environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(
    scope="module",
    params=[pytest.param(SELECTION, id="selection"), pytest.param((), marks=pytest.mark.full)],
)
def records(request):
    """All that the script tells, kernels and launches."""
    done = run("-m", "bench.compile_kernels", "--no-code", *request.param)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    return found


@pytest.fixture
def compiled(records):
    found = [record for record in records if "kernel" in record]
    assert found
    return [record for record in found if "error" not in record]


def described(record):
    return {name: record.get(name) for name in ("kernel", "target", "sizes", "spilled", "shared")}


def kernel_definitions():
    """What is launched ends in _kernel; each with its name."""
    for path in (ROOT / "kernels/gpu").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                yield f"{path.stem}.{node.name}", node


def kernels_of_the_folder():
    return [name for name, _ in kernel_definitions()]


def test_docs_have_a_row_for_each_kernel():
    rows = set(
        re.findall(r"^\| (\w+\.\w+_kernel) \|", (ROOT / "docs/kernels.md").read_text(), re.M)
    )
    assert rows == set(kernels_of_the_folder())


def test_every_kernel_has_a_docstring():
    for name, kernel in kernel_definitions():
        assert ast.get_docstring(kernel), name


def test_every_kernel_compiles(records):
    errors = [record for record in records if "error" in record]
    assert not errors
    targets = {record["target"] for record in records if "target" in record}
    found = {(record["kernel"], record["target"]) for record in records if "kernel" in record}
    assert found == {(name, target) for name in kernels_of_the_folder() for target in targets}


def test_shared_memory_is_there(compiled):
    too_much = [record for record in compiled if record["shared"] > SHARED[record["target"]]]
    assert not too_much


def test_no_spills_forward_and_few_backward(compiled):
    allowed = {False: 0, True: 64}
    spills = [record for record in compiled if record["spilled"] > allowed[record["backward"]]]
    assert not [described(record) for record in spills]


# Machine instructions of the loop for each number of the link matrix that a thread goes through,
# with 4 read heads, by kernel and warps; by Triton 3.9, those by Triton 3.6 are fewer.
LOOP = {
    ("pass_kernel", 2): 23.2,
    ("pass_kernel", 4): 28.3,
    ("pass_backward_kernel", 2): 46.3,
    ("pass_backward_kernel", 4): 53.2,
}


def test_link_pass_does_not_wait():
    """Its speed hangs on what is in the loop: no barriers, and few instructions beside memory."""
    kernels = ("link_pass.pass_kernel", "link_pass.pass_backward_kernel")
    sizes = ("8,1024,64,4,1", "1,4096,64,4,1")
    done = run(
        *("-m", "bench.compile_kernels", "--target", "sm_90", "--order", "exact"),
        *("--size", *sizes, "--kernel", *kernels),
    )
    seen = set()
    for record in map(json.loads, done.stdout.splitlines()):
        if "kernel" not in record:
            continue
        assert record["loop_barriers"] == 0, described(record)
        sizes, name = record["constants"], record["kernel"].partition(".")[2]
        if not sizes.get("READ", True):  # the link matrix alone: so short that it is unrolled
            continue
        numbers = sizes["M"] * sizes.get("UNROLL", 1) * sizes["BN"] / 32
        assert 0 < record["loop_instructions"] <= 1.1 * LOOP[name, record["warps"]] * numbers
        seen.add((name, record["warps"]))
    assert seen == LOOP.keys(), done.stderr


def test_launches_of_a_step(records):
    """Two at most for a small memory; a few for a large one, sums by torch included. Of so many
    cells that no program holds their order, two more find the gradient of allocation.
    """
    seen = set()
    for record in records:
        if not record.get("call", "").endswith(" step"):
            continue
        _, N, _, _, Hw = map(int, record["size"].split(","))
        small = N <= 64
        most = 2 if small else 5 if not record["backward"] else 4 if N <= 1024 else 6
        if Hw == 1:
            assert record["launches"] + record["torch_kernels"] <= most, record
            seen.add((small, record["backward"]))
    assert len(seen) == 4


def test_scores_are_rounded_before_their_maximum_is_taken_off():
    """What is stored is what e^(score - maximum) is taken of: no difference of a product, fused."""
    script = """
from bench.compile_kernels.builds import collect, compiled
import torch
uses, _ = collect(["8,1024,64,4,1"], torch.float32, ())
build = next(build for build in uses if str(build) == "content.scores_kernel")
print(compiled(build, "sm_90").asm["ptx"])
"""
    done = run("-c", script)
    assert done.returncode == 0, done.stderr
    register = r"(%\w+)"
    definitions = re.findall(rf"(\w+)\.\S+\s+{register}, {register}.*;", done.stdout)
    made = {result: (operation, first) for operation, result, first in definitions}
    exponents = [first for operation, first in made.values() if operation == "ex2"]
    assert exponents
    for exponent in exponents:
        operation, difference = made[exponent]
        assert operation == "mul"  # by log2(e)
        assert made[difference][0] == "sub", made[difference]


@pytest.mark.parametrize("target, limit", [("sm_90", "maxnreg"), ("gfx942", "waves_per_eu")])
def test_spills_are_seen(target, limit):
    """Left with too few registers, a kernel is reported to spill: 24 each, or 16 waves."""
    script = f"""
from bench.compile_kernels.builds import collect
from bench.compile_kernels.figures import figures
import torch
uses, _ = collect(["8,1024,64,4,1"], torch.float32, ())
build = next(build for build in uses if str(build) == "content.backward_kernel")
few = build._replace(options=(*build.options, ("{limit}", {24 if limit == "maxnreg" else 8})))
print(figures(build, "{target}", True)["spilled"], figures(few, "{target}", True)["spilled"])
"""
    done = run("-c", script)
    assert done.returncode == 0, done.stderr
    enough, too_few = map(int, done.stdout.split())
    assert enough == 0 < too_few


def test_refuses_where_triton_interprets():
    done = run("-m", "bench.compile_kernels", TRITON_INTERPRET="1")
    assert done.returncode and "unset TRITON_INTERPRET" in done.stderr


def test_a_memory_of_one_cell_compiles():
    """Triton 3.6 could not compile the forward pass of a small step with arrays of one cell."""
    code = """
from dnc_fast import DNC
from dnc_fast.backends.triton import compiling
from dnc_fast.kernels.gpu.compile import target_named

options = {"num_cells": 1, "num_read_heads": 2, "num_write_heads": 3, "backend": "triton"}
cell = DNC(3, 8, device="meta", **options).cell
launched = compiling.builds_of_rehearsal(lambda: cell.rehearse(2))
builds = [one for one in launched if "small_forward" in str(one)]
assert builds
assert not compiling.compile_anywhere(builds, target_named("sm_90"))
"""
    done = run("-c", code)
    assert not done.returncode, done.stderr


def test_sums_over_16_read_heads_are_not_rounded_to_tf32():
    """Triton's compiler makes a product on tensor cores of a sum, see `weighted_sums`."""
    code = """
from dnc_fast import DNC
from dnc_fast.backends.triton import compiling
from dnc_fast.kernels.gpu import compile as compiler

compiler.without_device(compiler.target_named("sm_90"))
for num_cells, kernel in ((20, "small_forward.strip"), (80, "tiled_forward.read")):
    options = {"num_cells": num_cells, "num_read_heads": 16, "backend": "triton"}
    cell = DNC(3, 8, device="meta", **options).cell
    launched = compiling.builds_of_rehearsal(lambda: cell.rehearse(2))
    build, *_ = [one for one in launched if kernel in str(one)]
    assert "tt.reduce" in compiler.compiled(build).asm["ttir"]
    assert "tt.dot" not in compiler.compiled(build).asm["ttir"]
"""
    done = run("-c", code)
    assert not done.returncode, done.stderr
