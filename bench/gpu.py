"""Everything that wants a GPU, in one command: `python -m bench.gpu`.

Tests of the kernels, their bandwidth, training steps beside the peers, tests and training steps
with programmatic dependent launch, and the sanitizer where it is installed. What comes out is
written to bench/results/, stage by stage, so that an end of the time that there is loses one stage
at most.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .gpu_training import PROVIDERS, SIZES
from .provenance import ROOT

WORDS = ("gpu_ops", "gpu_step", "gpu_lstm", "functional", "captures")
TESTS = [f"tests/test_{word}.py" for word in WORDS]
SANITIZED = "opcheck or bit_for_bit or lstm_cell"


def commands() -> dict[str, list[list[str]]]:
    """The commands of each stage."""
    python, pytest = [sys.executable, "-m"], [sys.executable, "-m", "pytest", "-q"]
    early = ["env", "DNC_FAST_PDL=1"]
    sanitizer = shutil.which("compute-sanitizer")
    return {
        "tests": [[*pytest, *TESTS]],
        "kernels": [[*python, "bench.gpu_kernels"]],
        "training": [
            [*python, "bench.gpu_training", size, provider]
            for size in SIZES
            for provider in PROVIDERS
        ],
        "pdl": [
            [*early, *pytest, *TESTS],
            *([*early, *python, "bench.gpu_training", size, "triton"] for size in SIZES),
        ],
        "full-tests": [[*pytest, "-m", "full", *TESTS]],
        "sanitizer": [
            [sanitizer, "--tool", tool, *pytest, "-k", SANITIZED, *TESTS]
            for tool in ("memcheck", "racecheck")
            if sanitizer
        ],
    }


def run(name: str, arguments: list[str], file: Path, limit: float) -> bool:
    """Run a command, its output into a file as it comes; whether it went well."""
    print(name, *arguments[1:], flush=True)
    with open(file, "a") as output:
        try:
            done = subprocess.run(
                arguments, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=limit,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            output.write(f"stopped after {limit:g} s: {' '.join(arguments)}\n")
            return False
        if done.returncode:
            output.write(f"exit status {done.returncode}: {' '.join(arguments)}\n")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    stages = commands()
    parser.add_argument("--stages", nargs="+", default=list(stages), choices=stages)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results")
    parser.add_argument("--limit", type=float, default=300, help="seconds a command may take")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for stage in options.stages:
        file = options.out / f"gpu-{stage}.txt"
        file.write_text("")
        for arguments in stages[stage]:
            if not run(stage, arguments, file, options.limit):
                failed.append(" ".join(arguments[1:]))
    print("all went well" if not failed else "failed:\n" + "\n".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
