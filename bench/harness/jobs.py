"""What is to be measured, job by job: each job's records are kept before the next begins."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from . import cases, gate, peak
from .cases import PARTS, PASSES, Case, least_bytes, takes_part, work
from .clock import Rounds, copy_bandwidth, interleaved, launch_seconds, launches, spread
from .providers import PROVIDERS, missing
from .results import Record, Results
from .sizes import Size, Study, in_a_study

SECONDS = {"model": 6.0, "study": 2.0}
"""A job's time for its rounds; of parts and of single steps a share of that."""


@dataclass(frozen=True)
class Settings:
    """What the jobs of a run share. Names of `providers`; empty: all that the device has."""

    device: str
    threads: int
    providers: tuple[str, ...] = ()
    dry: bool = False
    hurry: float = 1.0
    """Times that rounds take are multiplied by it."""

    def chosen(self) -> list[str]:
        if self.providers:
            return list(self.providers)
        interpreted = ("triton",) if self.dry else ()
        return [
            name
            for name, provider in PROVIDERS.items()
            if self.device in provider.devices or name in interpreted
        ]


@dataclass(frozen=True)
class Job:
    """A name, and what makes its records."""

    name: str
    run: Callable[[], list[Record]] = field(compare=False)


def time_job(
    settings: Settings, op: str, passes: str, name: str, size: Size, providers: list[str],
    seconds: float,
) -> Job:  # fmt: skip
    """All providers of an op at a size, in turns."""
    rounds = Rounds(seconds * settings.hurry)
    if settings.dry:
        rounds = Rounds(0, 2, 2)

    def run() -> list[Record]:
        return measure_group(settings, op, passes, name, size, providers, rounds)

    return Job(f"time {op} {passes} {name}", run)


def measure_group(
    settings: Settings, op: str, passes: str, name: str, size: Size, providers: list[str],
    rounds: Rounds,
) -> list[Record]:  # fmt: skip
    """A record for each provider: times, or why there is none."""
    device, calls, rows = settings.device, {}, {}
    # Profiles of some ten thousand operations take seconds, so there are few of them.
    counted = passes == "forward+backward" and not in_a_study(name)
    for provider in providers:
        row: Record = {
            "kind": "time", "op": op, "passes": passes, "size": name, "sizes": size._asdict(),
            "provider": provider,
        }  # fmt: skip
        case = Case(op, passes, size, PROVIDERS[provider], device)
        if (reason := missing(case.provider, device)) is not None:
            rows[provider] = row | {"absent": reason}
            continue
        rows[provider] = row
        try:
            row["error"] = gate.check(case)
            step = work(case)

            def call(step: cases.Work = step) -> Any:
                return step.run(passes)

            call()
            calls[provider] = call
        except gate.Refused as error:
            row["refused"] = str(error)
        except Exception as error:  # one that fails takes no other with it
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        if device == "cuda":
            torch.cuda.empty_cache()
    surroundings = {
        "copy_bytes_per_second": copy_bandwidth(device),
        "launch_seconds": launch_seconds(device),
        "load": round(os.getloadavg()[0], 2),
        "least_bytes": least_bytes(op, passes, size),
    }
    times = interleaved(calls, device, rounds) if calls else {}
    for provider, seconds in times.items():
        rows[provider]["seconds"] = [round(s, 9) for s in seconds]
        if counted:
            rows[provider]["launches"] = launches(calls[provider], device)
    for row in rows.values():
        if "seconds" in row:
            achieved = surroundings["least_bytes"] / spread(row["seconds"]).median
            row |= surroundings | {
                "bytes_per_second": achieved,
                "share_of_copy": achieved / surroundings["copy_bytes_per_second"],
            }
    calls.clear()
    torch._dynamo.reset()
    cases.release()
    gate.release()
    gc.collect()
    return list(rows.values())


def peak_job(settings: Settings, passes: str, name: str, size: Size, provider: str) -> Job:
    """The peak memory of a model's step."""

    def run() -> list[Record]:
        row: Record = {
            "kind": "peak", "op": "model", "passes": passes, "size": name,
            "sizes": size._asdict(), "provider": provider,
        }  # fmt: skip
        case = Case("model", passes, size, PROVIDERS[provider], settings.device)
        if (reason := missing(case.provider, settings.device)) is not None:
            return [row | {"absent": reason}]
        try:
            return [row | peak.peak_bytes(case, settings.threads)]
        except Exception as error:
            return [row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}]

    return Job(f"peak {passes} {name} {provider}", run)


def step_jobs(settings: Settings, sizes: dict[str, Size]) -> list[Job]:
    """Steps of models and of the memory: times, and peaks of training steps."""
    return sized_jobs(settings, sizes, ("model", "memory_step"))


def part_jobs(settings: Settings, sizes: dict[str, Size]) -> list[Job]:
    """The parts of a memory step."""
    return sized_jobs(settings, sizes, PARTS)


def sized_jobs(settings: Settings, sizes: dict[str, Size], ops: Iterable[str]) -> list[Job]:
    """Every op at every size: times, then peaks of training steps."""
    jobs = []
    for name, size in sizes.items():
        for op in ops:
            who = [p for p in settings.chosen() if takes_part(PROVIDERS[p], op)]
            share = SECONDS["model"] * (1 if op == "model" else 0.15)
            for passes in reversed(PASSES):
                jobs.append(time_job(settings, op, passes, name, size, who, share))
        if "model" in ops:
            for provider in measured_peaks(settings, study=False):
                jobs.append(peak_job(settings, "forward+backward", name, size, provider))
    return jobs


STUDIED = ("triton", "cpu", "reference", "dnc", "lstm")
"""Who is in the studies of growth; compiling anew at every size would take most of the time."""


def measured_peaks(settings: Settings, study: bool) -> list[str]:
    """Whose peaks are taken: not that of the floor, and of a study ours and the peer's."""
    chosen = [name for name in settings.chosen() if PROVIDERS[name].kind != "floor"]
    if not study:
        return chosen
    return [name for name in chosen if name in STUDIED and name != "reference"]


def growth_jobs(settings: Settings, studies: dict[str, Study], letters: Iterable[str]) -> list[Job]:
    """Training steps as one letter grows: time and peak."""
    jobs = []
    for letter in (letter for letter in letters if letter in studies):
        who = [p for p in settings.chosen() if p in STUDIED]
        for name, size in studies[letter].sizes().items():
            given = (name, size, who, SECONDS["study"])
            jobs.append(time_job(settings, "model", "forward+backward", *given))
            if letter in PEAK_LETTERS:
                for provider in measured_peaks(settings, study=True):
                    jobs.append(peak_job(settings, "forward+backward", name, size, provider))
    return jobs


PEAK_LETTERS = "NT"
"""Letters whose study takes peaks: by the others memory grows plainly."""


def work_off(
    jobs: list[Job], results: Results, minutes: float, say: Callable[[str], None] = print
) -> int:
    """Do the jobs that the results lack while there is time; returns how many are left."""
    started, done = time.monotonic(), 0
    todo = [job for job in jobs if not results.has(job.name)]
    if len(todo) < len(jobs):
        say(f"{len(jobs) - len(todo)} of {len(jobs)} jobs were done before, in {results.path}")
    for job in todo:
        passed = time.monotonic() - started
        if passed > 60 * minutes:
            break
        say(f"[{passed / 60:5.1f} min] {done + 1} of {len(todo)}: {job.name}")
        records = job.run()
        results.add(job.name, records)
        done += 1
        for record in records:
            for problem in ("absent", "refused", "failed"):
                if problem in record:
                    say(f"            {record['provider']} {problem}: {record[problem]}")
    return len(todo) - done
