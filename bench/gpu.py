"""Everything that wants a GPU, in one command: `python -m bench gpu`.

Tests of the kernels first, then each kernel by itself, then all benchmarks. Into one folder:
results, a report, plots, the tests' output. It ends within --minutes, and the same command goes on
where it ended. Without a GPU it measures nothing and says so; --dry goes every way on a CPU, tiny
and in Triton's interpreter, and no record of it counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .harness.provenance import ROOT, facts, folder_name
from .harness.results import Results, ResultsError, open_results
from .reports.pages import write_report

THREADS = 2
WORDS = ("gpu_ops", "gpu_step", "gpu_lstm", "functional", "captures")
TESTS = [f"tests/test_{word}.py" for word in WORDS]
DRY_TESTS = ["tests/test_gpu_launch.py"]
SANITIZED = "opcheck or bit_for_bit or lstm_cell"
PARTS = ("tests", "kernels", "benchmarks", "full-tests", "sanitizer")
BY_DEFAULT = PARTS[:3]
MORE = 3
"""The exit status of what measures, when its time was over before its jobs."""

RESERVE = 15.0
"""Seconds that are kept for the report."""


@dataclass
class Session:
    """One call of the command."""

    out: Path
    dry: bool
    ends: float

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def left(self) -> float:
        """Seconds until the end, without those for the report."""
        return self.ends - time.monotonic() - RESERVE

    def results(self) -> Results:
        return open_results(self.out, facts(self.device), self.dry)

    def child(self, command: list[str], log: Path) -> str:
        """Run a command, its output into a file as it comes; how it ended."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        environment.pop("TRITON_INTERPRET", None)
        environment |= {"TRITON_INTERPRET": "1"} if self.dry else {}
        print("  " + " ".join(command[1:]), flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(max(1.0, self.left()))
            except BaseException as error:  # its own children must not outlive it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return "out of time"
        if status == MORE:
            return "there is more to do"
        return "passed" if status == 0 else f"exit status {status}, see {log.name}"


def test_part(session: Session, name: str, extra: list[str]) -> list[str]:
    """Each file of tests that has not passed yet; returns what went wrong."""
    wrong = []
    for file in DRY_TESTS if session.dry else TESTS:
        job = f"{name} {file}"
        known = [record for record in session.results().records if record["job"] == job]
        if known and known[0]["outcome"] == "passed":
            continue
        if session.left() < 5:
            return [*wrong, f"{job}: no time left"]
        command = [sys.executable, "-m", "pytest", "-q", *extra, file]
        started = time.monotonic()
        outcome = session.child(command, session.out / f"{name}.txt")
        took = round(time.monotonic() - started, 1)
        session.results().add(job, [{"kind": "tests", "outcome": outcome, "took_seconds": took}])
        if outcome != "passed":
            wrong.append(f"{job}: {outcome}")
    return wrong


def measuring(session: Session, module: list[str], log: str) -> list[str]:
    """A command that measures into results and resumes by itself."""
    if session.left() < 5:
        return [f"{' '.join(module)}: no time left"]
    # It begins no job in the last half minute, so that none has to be killed.
    minutes = max(0.1, (session.left() - 30) / 60)
    command = [
        sys.executable, "-m", *module, "--device", session.device, "--out", str(session.out),
        "--minutes", f"{minutes:.2f}", *["--dry"] * session.dry,
    ]  # fmt: skip
    outcome = session.child(command, session.out / log)
    return [] if outcome == "passed" else [f"{' '.join(module)}: {outcome}"]


def benchmarks(session: Session) -> list[str]:
    return measuring(session, ["bench", "run", "--hurry", "0.15"], "benchmarks.txt")


def kernels(session: Session) -> list[str]:
    return measuring(session, ["bench", "run", "kernels"], "kernels.txt")


def sanitizer(session: Session) -> list[str]:
    """The tests whose kernels touch everything, under NVIDIA's tools."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return ["compute-sanitizer is not installed; it comes with the CUDA toolkit"]
    wrong = []
    for kind in ("memcheck", "racecheck"):
        pytest = [sys.executable, "-m", "pytest", "-q", "-k", SANITIZED, *TESTS]
        command = [tool, "--tool", kind, "--error-exitcode", "9", *pytest]
        outcome = session.child(command, session.out / f"{kind}.txt")
        if outcome != "passed":
            wrong.append(f"{kind}: {outcome}")
    return wrong


def do_part(session: Session, part: str) -> list[str]:
    """One of `PARTS`; returns what went wrong."""
    if part == "tests":
        return test_part(session, "tests", [])
    if part == "full-tests":
        return test_part(session, "full-tests", ["-m", "full"])
    functions = {"benchmarks": benchmarks, "kernels": kernels, "sanitizer": sanitizer}
    return functions[part](session)


def run(options: argparse.Namespace) -> int:
    if not options.dry and not torch.cuda.is_available():
        raise ResultsError(
            "there is no CUDA device here: NOTHING WAS MEASURED and nothing was written. "
            "`python -m bench gpu --dry --out FOLDER` goes every way on a CPU instead"
        )
    if options.dry and options.out is None:
        raise ResultsError("--dry needs --out FOLDER: its results are no measurements")
    torch.set_num_threads(THREADS)
    device = "cpu" if options.dry else "cuda"
    out = options.out or ROOT / "bench/results" / folder_name(device)
    session = Session(out.resolve(), options.dry, time.monotonic() + 60 * options.minutes)
    results = session.results()
    results.add("session", [{"kind": "session", "parts": options.parts}])  # the folder is ours
    wrong = []
    for part in options.parts:
        print(f"{part}, {max(0, session.left()) / 60:.1f} minutes left", flush=True)
        wrong += do_part(session, part)
    for path in write_report(session.results()):
        print(path)
    if options.dry:
        print("a dry run: NOTHING WAS MEASURED")
    if wrong:
        print("not all went well, or there was no time; the same command goes on:")
        print("\n".join(f"- {line}" for line in wrong))
    else:
        print("all went well")
    return 1 if wrong else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(BY_DEFAULT))
    parser.add_argument("--minutes", type=float, default=9.0, help="end within")
    parser.add_argument("--out", type=Path, help="a folder; default: bench/results/<device>")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny; measures nothing")
    parser.set_defaults(function=run)
