"""Peak memory of a step. On a CPU each in a process of its own: `python -m bench.harness.peak`.

On a CPU the peak is the high-water mark of the resident set during one step, less the resident set
after a tiny step of the same model class (Linux only). On a GPU it is what torch reserves at most
over three steps, in which CUDA graphs are recorded, less what it had reserved before.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from dnc_fast import release_cuda_graphs

from . import cases, providers
from .cases import PASSES, Case, work
from .provenance import ROOT
from .providers import PROVIDERS
from .sizes import Size

LIMIT = 600.0
"""Seconds that a process may take."""


def peak_bytes(case: Case, threads: int) -> dict[str, Any]:
    """`peak_bytes`, and what `memory_report` foretells where it does.

    Raises:
        RuntimeError: the step failed; with the last line of its error.
    """
    if case.device == "cuda":
        found = {"peak_bytes": peak_on_gpu(case)}
    else:
        found = {"peak_bytes": peak_in_a_process(case, threads)}
    return found | foretold(case)


def foretold(case: Case) -> dict[str, int]:
    """What `memory_report` says of a training step of the engine."""
    provider, size = case.provider, case.size
    engine = provider.kind == "ours" and provider.backend != "reference" and not provider.half
    if case.op != "model" or case.passes == "forward" or not engine:
        return {}
    model = providers.our_model(size, provider.options, case.device)
    return {"foretold_bytes": model.memory_report(size.B, size.T).total}


def peak_on_gpu(case: Case) -> int:
    release_cuda_graphs()
    cases.release()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    step = work(case)
    for _ in range(3):
        step.run(case.passes)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() - before


def peak_in_a_process(case: Case, threads: int) -> int:
    size = ",".join(map(str, case.size))
    options = ("--passes", case.passes, "--threads", str(threads))
    found = run_module("bench.harness.peak", size, case.provider.name, *options, limit=LIMIT)
    return int(found["peak_bytes"])


def run_module(*command: str, limit: float | None = None) -> dict[str, Any]:
    """What a module of ours prints last, as JSON, in a process of its own.

    Args:
        *command: the module and its arguments.
        limit: seconds that it may take.

    Raises:
        RuntimeError: it failed, with the last line of its error, or took longer.
    """
    command = (sys.executable, "-m", *command)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"stopped after {limit:g} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["killed, out of memory?"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def status(field: str) -> int:
    """A figure of this process, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"the system tells no {field}")


def give_back() -> None:
    """Free what can be, so that it counts as no one's peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def start_mark() -> int:
    """Start the high-water mark of the resident set anew; the bytes that it starts from."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak_here(case: Case) -> int:
    """The peak of one step of a model, in this process."""
    tiny = case._replace(size=case.size._replace(B=1, T=2, N=4))
    work(tiny).run(case.passes)
    step = work(case)
    if case.provider.kind == "compiled":  # compiling takes memory of its own; give it back
        step.run(case.passes)
        give_back()
    before = start_mark()
    step.run(case.passes)
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("size", metavar=",".join(Size._fields))
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("--passes", choices=PASSES, default="forward+backward")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = Size(*map(int, options.size.split(",")))
    case = Case("model", options.passes, size, PROVIDERS[options.provider], "cpu")
    print(json.dumps({"peak_bytes": peak_here(case), **foretold(case)}))


if __name__ == "__main__":
    main()
