"""All kernels of what is measured on a GPU, compiled at once: `python -m bench.gpu_compile`.

With --target NAME ... --out FOLDER it needs no GPU, and the folder travels: TRITON_CACHE_DIR=FOLDER
uses it. --tests FILE ... also records what tests launch, in Triton's interpreter, which takes as
long as these tests do.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import triton

from dnc_fast import DNC
from dnc_fast.backends.triton import compiling, travelling
from dnc_fast.compiling import watched
from dnc_fast.kernels.gpu import compile as compiler
from dnc_fast.kernels.gpu import launch
from dnc_fast.kernels.gpu.compile import Build

from .harness import gate
from .harness.cases import Case
from .harness.provenance import ROOT
from .harness.providers import PROVIDERS
from .harness.sizes import Size, sizes_for

DRY_BUILDS = 3
RECORDED = "RECORDED_BUILDS"
"""The environment variable with the file for what tests launch."""


def measured_sizes(dry: bool) -> Iterator[Size]:
    """The sizes of models that are measured, and those at which they are checked."""
    for size in sizes_for("cuda", dry).named.values():
        yield size
        case = Case("model", "forward+backward", size, PROVIDERS["triton"], "cuda")
        yield gate.shortened(case).size


def model_builds(sizes: Iterable[Size]) -> list[Build]:
    """What models of these sizes launch, in training and inference, in full and half precision."""
    found: list[Build] = []
    for size in dict.fromkeys(size._replace(T=1) for size in sizes):
        options = {"num_cells": size.N, "cell_size": size.W, "num_read_heads": size.R}
        cell = DNC(size.X, size.H, device="meta", **options).cell
        for half in (None, torch.bfloat16):
            found += compiling.builds_of_rehearsal(lambda: cell.rehearse(size.B, half))  # noqa: B023
    return list(dict.fromkeys(found))


def step_builds(dry: bool) -> list[Build]:
    """What is launched by single steps and by kernels on their own."""
    from .compile_kernels import builds, calls
    from .gpu_kernels import DRY_SIZES, SIZES

    found: list[Build] = []
    for size in (DRY_SIZES if dry else SIZES).values():
        if isinstance(size, calls.MemorySizes):
            for call in calls.step_calls(size, torch.float32, ("exact",)):
                found += map(compiler.build_of, builds.recorded(call)[0])
    return found


def pytest_sessionfinish(session: object) -> None:
    """As a plugin of pytest: write what was launched."""
    with open(os.environ[RECORDED], "wb") as file:
        pickle.dump(list(_launched), file)


_launched: dict[Build, None] = {}


def pytest_configure(config: object) -> None:
    """As a plugin of pytest: note what is launched."""

    def note(one: launch.Launch) -> None:
        build = compiler.build_of(one) if hasattr(one.kernel, "fn") else None
        if build and build.module.startswith("dnc_fast."):  # tests have kernels of their own
            _launched[build] = None

    launch._recorders.append(note)


def test_builds(files: list[str]) -> list[Build]:
    """What tests launch, recorded in Triton's interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "builds"
        variables = {"TRITON_INTERPRET": "1", RECORDED: str(path)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.gpu_compile", *files]
        subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False)
        with open(path, "rb") as file:
            return list(pickle.load(file))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", nargs="+", metavar="NAME", help="such as sm_90")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="with --target")
    parser.add_argument("--tests", nargs="+", metavar="FILE", default=[])
    parser.add_argument("--dry", action="store_true", help="a few kernels of tiny sizes, no GPU")
    options = parser.parse_args()
    started = time.monotonic()
    found = [*model_builds(measured_sizes(options.dry)), *step_builds(options.dry)]
    found += test_builds(options.tests) if options.tests else []
    found = list(dict.fromkeys(found))
    if options.dry:
        found = sorted(found, key=lambda build: "small_step" in str(build))[:DRY_BUILDS]
    print(f"{len(found)} kernels", flush=True)

    def tell(what: str, done: int, total: int) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {done} of {total} compiled", flush=True)

    errors: list[str] = []
    with watched(tell):
        if options.target:
            failed = travelling.compile_folder(found, options.target, options.out)
            errors = [f"{build} for {name}: {error}" for (build, name), error in failed.items()]
        elif options.dry:
            target = compiler.target_named("sm_90")
            errors = list(map(str, compiling.compile_anywhere(found, target).items()))
        else:
            compiling.compile_missing(found, triton.runtime.driver.active.get_current_target())
    print("\n".join(errors))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
