"""Everything that needs a GPU, in one command: `python -m bench gpu`.

What matters first comes first: kernels are compiled, all at once; tests, several at a time; steps
of all sizes by us; the same beside others; each kernel by itself; all other benchmarks. Into one
folder: results, a report, plots, the tests' output and their failures as they come. It ends within
--minutes: every part has its share of them, what one leaves goes to the next, and the same command
continues where it ended. Without a GPU it measures nothing and says so; --dry takes every path on a
CPU, tiny and in Triton's interpreter, and no record of it counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from . import test_log
from .harness.provenance import ROOT, facts, folder_name
from .harness.results import NAME, Record, Results, ResultsError, open_results, read
from .reports.pages import write_report

THREADS = 2
LEFT_OUT = ("compile", "kernels")  # compiled for any target, or on a CPU, so a GPU adds nothing
TESTS = [
    *(
        f"tests/{path.name}"
        for path in sorted((ROOT / "tests").glob("test_gpu_*.py"))
        if path.stem.rpartition("_")[2] not in LEFT_OUT
    ),
    *(f"tests/test_{word}.py" for word in ("functional", "captures", "rehearsal")),
]
DRY_TESTS = ["tests/test_gpu_launch.py"]
SANITIZED = "opcheck or bit_for_bit or lstm_cell"
TOGETHER = 14
"""Tests that run at the same time, where pytest-xdist is installed."""

SHARES = {
    "compile": 50, "tests": 190, "ours": 60, "beside": 120, "kernels": 50, "benchmarks": 55,
    "full-tests": 300, "sanitizer": 200,
}  # fmt: skip
"""The parts, in their order, and the share of the time that each has: seconds of nine minutes."""

BY_DEFAULT = tuple(SHARES)[:6]
MORE = 3
"""The exit status of what measures, when its time was over before its jobs."""

RESERVE = 15.0
"""Seconds that are kept for the report."""

GRACE = 10.0
"""Seconds that a job may take longer than its part's time."""

DONE, SKIPPED, CUT = "done", "skipped, done before", "cut: out of time"


@dataclass
class Session:
    """One call of the command. ends: when; deadlines: when each part has to end."""

    out: Path
    dry: bool
    ends: float
    deadlines: dict[str, float] = field(default_factory=dict)

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    def share_out(self, parts: list[str]) -> None:
        """Give each part its share of the time from now to the end."""
        now, whole = time.monotonic(), sum(SHARES[part] for part in parts)
        for index, part in enumerate(parts):
            passed = sum(SHARES[one] for one in parts[: index + 1]) / max(whole, 1)
            self.deadlines[part] = now + passed * (self.ends - RESERVE - now)

    def left(self, part: str) -> float:
        """Seconds that a part still has."""
        return self.deadlines[part] - time.monotonic()

    def results(self) -> Results:
        return open_results(self.out, facts(self.device), self.dry)

    def child(self, part: str, command: list[str], log: Path, **variables: str) -> str:
        """Run a command, its output into a file as it comes; how it ended."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
        environment.pop("TRITON_INTERPRET", None)
        environment |= {"TRITON_INTERPRET": "1"} if self.dry and part != "compile" else {}
        print("  " + " ".join(command[1:]), flush=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment,
                start_new_session=True,
            )  # fmt: skip
            try:
                status = process.wait(max(1.0, self.left(part) + GRACE))
            except BaseException as error:  # its own children must not outlive it
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return CUT
        if status == MORE:
            return CUT
        return DONE if status == 0 else f"exit status {status}, see {log.name}"


def python(*words: str) -> list[str]:
    return [sys.executable, "-m", *words]


def compile_part(session: Session) -> str:
    """All kernels of what is measured, at once."""
    command = python("bench.gpu_compile", *["--dry"] * session.dry)
    cache = {"TRITON_CACHE_DIR": str(session.out / "cache")} if session.dry else {}
    return session.child("compile", command, session.out / "compile.txt", **cache)


def test_part(session: Session, part: str, extra: list[str]) -> str:
    """All tests that have not passed yet, several at a time."""
    together = importlib.util.find_spec("xdist") is not None
    count = "2" if session.dry else str(min(TOGETHER, os.cpu_count() or 1))
    command = python(
        "pytest", "-q", "-p", "bench.test_log", *extra,
        *(["-n", count, "--dist", "worksteal"] if together else []),
        *(DRY_TESTS if session.dry else TESTS),
    )  # fmt: skip
    folder = session.out / part
    test_log.begin(folder)
    outcome = session.child(part, command, session.out / f"{part}.txt", TEST_LOG=str(folder))
    counts = test_log.counts(folder)
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none ended"
    record = {"kind": "tests", "outcome": f"{told}; {outcome}", "counts": counts}
    session.results().add(part, [record])
    if counts.get("failed"):
        return f"{counts['failed']} failed, see {part}/{test_log.FAILURES}"
    return DONE if outcome.startswith("exit status 5") else outcome  # all have passed before


def measuring(session: Session, part: str, *words: str) -> str:
    """A command that measures into results and resumes by itself."""
    minutes = max(0.02, session.left(part) / 60)
    command = python(
        "bench", "run", *words, "--device", session.device, "--out", str(session.out),
        "--minutes", f"{minutes:.2f}", *["--dry"] * session.dry,
    )  # fmt: skip
    return session.child(part, command, session.out / f"{part}.txt")


def sanitizer(session: Session) -> str:
    """The tests whose kernels touch everything, under NVIDIA's tools."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return "compute-sanitizer is not installed; it comes with the CUDA toolkit"
    wrong = []
    for kind in ("memcheck", "racecheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9"]
        command += python("pytest", "-q", "-k", SANITIZED, *TESTS)
        outcome = session.child("sanitizer", command, session.out / f"{kind}.txt")
        if outcome != DONE:
            wrong.append(f"{kind}: {outcome}")
    return "; ".join(wrong) or DONE


FUNCTIONS: dict[str, Callable[[Session], str]] = {
    "compile": compile_part,
    "tests": lambda session: test_part(session, "tests", []),
    "ours": lambda session: measuring(session, "ours", "ours", "--hurry", "0.15"),
    "beside": lambda session: measuring(session, "beside", "beside", "--hurry", "0.15"),
    "kernels": lambda session: measuring(session, "kernels", "kernels"),
    "benchmarks": lambda session: measuring(session, "benchmarks", "--hurry", "0.15"),
    "full-tests": lambda session: test_part(session, "full-tests", ["-m", "full"]),
    "sanitizer": sanitizer,
}


def do_part(session: Session, part: str) -> str:
    """Do one of the parts, unless it is done; how it ended, which is also recorded."""
    known = session.results().of_kind("part", part=part)
    if known and known[0]["outcome"] == DONE:
        return SKIPPED
    if session.left(part) < 2:
        return CUT
    started = time.monotonic()
    outcome = FUNCTIONS[part](session)
    took = round(time.monotonic() - started, 1)
    record: Record = {"kind": "part", "part": part, "outcome": outcome, "took_seconds": took}
    session.results().add(f"part {part}", [record])
    return outcome


def put_aside(folder: Path, device: str) -> None:
    """Make room for new results where those of another commit or version lie."""
    if not (folder / NAME).exists():
        return
    found = read(folder)
    if found.provenance == facts(device):
        return
    older = folder / "older"
    older.mkdir(exist_ok=True)
    name = f"{Path(NAME).stem}-{found.provenance['commit']}.jsonl"
    os.replace(folder / NAME, older / name)
    for part in ("tests", "full-tests"):
        shutil.rmtree(folder / part, ignore_errors=True)
    print(f"the results of commit {found.provenance['commit']} are in {older / name} now")


def run(options: argparse.Namespace) -> int:
    if not options.dry and not torch.cuda.is_available():
        raise ResultsError(
            "there is no CUDA device here: NOTHING WAS MEASURED and nothing was written. "
            "`python -m bench gpu --dry --out FOLDER` takes every path on a CPU instead"
        )
    if options.dry and options.out is None:
        raise ResultsError("--dry needs --out FOLDER: its results are not measurements")
    ends = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(THREADS)
    device = "cpu" if options.dry else "cuda"
    out = options.out or ROOT / "bench/results" / folder_name(device)
    if options.out is None:
        put_aside(out, device)
    session = Session(out.resolve(), options.dry, ends)
    parts = [part for part in SHARES if part in options.parts]
    session.results().add("session", [{"kind": "session", "parts": parts}])  # the folder is ours
    session.share_out(parts)
    outcomes = {}
    for part in parts:
        print(f"{part}: {max(0, session.left(part)):.0f} s", flush=True)
        outcomes[part] = do_part(session, part)
        print(f"  {outcomes[part]}", flush=True)
    for path in write_report(session.results()):
        print(path)
    if options.dry:
        print("a dry run: NOTHING WAS MEASURED")
    width = max(map(len, parts), default=0)
    print("\n".join(f"{part:<{width}}  {outcome}" for part, outcome in outcomes.items()))
    if well := all(outcome in (DONE, SKIPPED) for outcome in outcomes.values()):
        print("all went well")
    else:
        print("some parts failed, or time ran out; the same command continues")
    return 0 if well else 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--parts", nargs="+", choices=tuple(SHARES), default=list(BY_DEFAULT))
    parser.add_argument("--minutes", type=float, default=9.0, help="end within")
    parser.add_argument("--out", type=Path, help="a folder; default: bench/results/<device>")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny; measures nothing")
    parser.set_defaults(function=run)
