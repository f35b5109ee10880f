"""Peak memory of a step; on a CPU in a process of its own: `python -m bench.harness.peak`.

On a CPU the peak is the high-water mark of the resident set during one step, less the resident set
before it, after a tiny step of the same kind of model (Linux only). On a GPU it is the most memory
that torch reserves over three steps, in which CUDA graphs are recorded, less what was reserved
before.
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
from .providers import LINKAGES, PROVIDERS
from .sizes import Size

LIMIT = 600.0
"""Seconds that a process may take."""


def peak_bytes(case: Case, threads: int, keep_state: bool) -> dict[str, Any]:
    """`peak_bytes`, and `foretold_bytes` if `memory_report` covers the case; see `cases.work`.

    Raises:
        RuntimeError: the step failed, with the last line of its error, or took too long.
        MemoryError: the device has too little memory.
    """
    check_room(case)
    if case.device == "cuda":
        peak = peak_on_gpu(case, keep_state)
    else:
        peak = peak_in_a_process(case, threads, keep_state)
    return {"peak_bytes": peak, **estimated(case)}


def estimated(case: Case) -> dict[str, int]:
    """What `memory_report` says, which covers training steps by the engine."""
    provider, size = case.provider, case.size
    engine = provider.kind == "ours" and provider.backend != "reference" and not provider.half
    if case.op != "model" or case.passes == "forward" or not engine:
        return {}
    model = providers.our_model(size, provider.options, case.device)
    return {"foretold_bytes": model.memory_report(size.B, size.T).total}


def check_room(case: Case) -> None:
    """Raise MemoryError if a step of the engine would not fit on the device."""
    needed = estimated(case).get("foretold_bytes", 0)
    if case.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        free = figure("/proc/meminfo", "MemAvailable")
    if needed > free:
        raise MemoryError(f"a step takes {needed >> 20:,} MiB, and {free >> 20:,} are free")


def peak_on_gpu(case: Case, keep_state: bool) -> int:
    release_cuda_graphs()
    cases.release()
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    step = work(case, keep_state=keep_state)
    for _ in range(3):
        step.run(case.passes)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_reserved() - before


def peak_in_a_process(case: Case, threads: int, keep_state: bool) -> int:
    size = ",".join(map(str, case.size))
    command = [
        sys.executable, "-m", "bench.harness.peak", size, case.provider.name,
        "--passes", case.passes, "--linkage", case.provider.linkage, "--threads", str(threads),
        *["--keep-state"] * keep_state,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"stopped after {LIMIT:g} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["killed, out of memory?"])[-1])
    return int(json.loads(done.stdout)["peak_bytes"])


def figure(file: str, name: str) -> int:
    """A figure in a file of /proc, in bytes."""
    for line in Path(file).read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{file} has no {name}")


def give_back() -> None:
    """Return free memory to the system, so that it counts towards no peak."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_here(case: Case, keep_state: bool) -> int:
    """The peak of one step of a model, in this process; of two if the state is kept."""
    tiny = case._replace(size=case.size._replace(B=1, T=2, N=4))
    work(tiny).run(case.passes)
    step = work(case, keep_state=keep_state)
    if case.provider.kind == "compiled":  # compiling takes memory of its own
        step.run(case.passes)
    if case.provider.kind == "compiled" or keep_state:
        give_back()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = figure("/proc/self/status", "VmRSS")
    for _ in range(2 if keep_state else 1):
        step.run(case.passes)
    return figure("/proc/self/status", "VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("size", metavar=",".join(Size._fields))
    parser.add_argument("provider", choices=PROVIDERS)
    parser.add_argument("--linkage", choices=LINKAGES, default="dense")
    parser.add_argument("--passes", choices=PASSES, default="forward+backward")
    parser.add_argument("--keep-state", action="store_true", help="hold the final state")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = Size(*map(int, options.size.split(",")))
    provider = PROVIDERS[options.provider].with_linkage(options.linkage)
    case = Case("model", options.passes, size, provider, "cpu")
    print(json.dumps({"peak_bytes": peak_here(case, options.keep_state), **estimated(case)}))


if __name__ == "__main__":
    main()
