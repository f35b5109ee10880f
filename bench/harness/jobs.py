"""What is measured, job by job: the records of a job are written before the next one begins."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from dnc_fast import release_cuda_graphs

from . import cases, gate, peak
from .cases import PARTS, PASSES, Case, least_bytes, takes_part, work
from .clock import Rounds, copy_bandwidth, interleaved, launch_seconds, launches, spread
from .providers import LINKAGES, PROVIDERS, Provider, missing
from .results import Record, Results
from .sizes import DENSE_UP_TO, LARGE, Size, Study, in_a_study

SECONDS, STUDY_SECONDS = 6.0, 2.0
"""The time for the rounds of a model, at a named size and in a study."""

PART_SHARE = 0.15
"""The share of that time for ops other than models."""

STUDIED = ("triton", "cpu", "reference", "dnc", "lstm")
"""Who takes part in studies of growth; compiling for every size would take most of the time."""

PEAK_LETTERS = "NT"
"""The letters whose studies include peaks; with the others, memory grows in proportion."""

FASTEST = ("triton", "cpu")
"""Who takes part in the study of large memories."""

FASTEST_HALF = ("triton bfloat16",)
RIVALS = (("dnc", "lstm"), ("reference",), ("torch.compile",))
"""Whom `beside_jobs` measure together."""


@dataclass(frozen=True)
class Settings:
    """What the jobs of a run share. providers: names; empty: all that the device has."""

    device: str
    threads: int
    providers: tuple[str, ...] = ()
    dry: bool = False
    hurry: float = 1.0
    """The time for rounds is multiplied by it."""

    def chosen(self) -> list[str]:
        if self.providers:
            return list(self.providers)
        interpreted = ("triton",) if self.dry else ()
        return [
            name
            for name, provider in PROVIDERS.items()
            if self.device in provider.devices or name in interpreted
        ]

    def group(
        self, op: str, passes: str, size: Size, names: Iterable[str], linkage: str = "dense"
    ) -> list[Case]:
        """The cases of those providers that implement an op."""
        group = [PROVIDERS[name].with_linkage(linkage) for name in names]
        return [Case(op, passes, size, p, self.device) for p in group if takes_part(p, op)]


@dataclass(frozen=True)
class Job:
    """A name, and the function that makes its records."""

    name: str
    run: Callable[[], list[Record]] = field(compare=False)


def attempt(row: Record, provider: Provider, device: str, measure: Callable[[], Record]) -> Record:
    """A record completed by a measurement, or by the reason why there is none."""
    if (reason := missing(provider, device)) is not None:
        return row | {"absent": reason}
    try:
        return row | measure()
    except gate.Refused as error:
        return row | {"refused": str(error)}
    except Exception as error:  # the other records of the job must not be lost
        return row | {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def of_case(kind: str, name: str, case: Case) -> Record:
    """The fields of a record that say what was measured. name: of the size."""
    linkage = case.provider.linkage
    return {
        "kind": kind, "op": case.op, "passes": case.passes, "size": name,
        "sizes": case.size._asdict(), "provider": case.provider.name,
        **({} if linkage == "dense" else {"linkage": linkage}),
    }  # fmt: skip


def suffix(case: Case) -> str:
    """The end of a job's name."""
    return "" if case.provider.linkage == "dense" else f" {case.provider.linkage}"


def time_job(settings: Settings, name: str, group: list[Case], rounds: Rounds) -> Job:
    """Time cases that differ in the provider only, in turns."""
    rounds = rounds._replace(seconds=rounds.seconds * settings.hurry)
    if settings.dry:
        rounds = Rounds(0, 2, 2)
    first = group[0]
    return Job(
        f"time {first.op} {first.passes} {name}{suffix(first)}",
        lambda: time_group(name, group, rounds),
    )


def time_group(name: str, group: list[Case], rounds: Rounds) -> list[Record]:
    """A record for each case: its times, or why there are none."""
    op, passes, size, provider, device = group[0]
    calls: dict[str, Callable[[], Any]] = {}

    def prepare(case: Case) -> Record:
        if in_a_study(name):
            peak.check_room(case)
        error = gate.check(case)
        step = work(case)
        step.run(passes)
        calls[case.provider.name] = lambda: step.run(passes)
        return {"error": error}

    rows = {}
    for case in group:
        given = of_case("time", name, case), case.provider, device
        rows[case.provider.name] = attempt(*given, partial(prepare, case))
        if device == "cuda":
            torch.cuda.empty_cache()
    surroundings = {
        "copy_bytes_per_second": copy_bandwidth(device),
        "launch_seconds": launch_seconds(device),
        "load": round(os.getloadavg()[0], 2),
    }
    times = interleaved(calls, device, rounds) if calls else {}
    for who, seconds in times.items():
        rows[who]["seconds"] = [round(s, 9) for s in seconds]
        # Profiling some ten thousand operations takes seconds, so it is rarely done.
        if passes == "forward+backward" and not in_a_study(name):
            rows[who]["launches"] = launches(calls[who], device)
        rows[who] |= surroundings
        if provider.linkage == "dense":
            moved = least_bytes(op, passes, size)
            achieved = moved / spread(seconds).median
            share = achieved / surroundings["copy_bytes_per_second"]
            rows[who] |= {
                "least_bytes": moved, "bytes_per_second": achieved, "share_of_copy": share
            }  # fmt: skip
    calls.clear()
    release_cuda_graphs()  # which would leave less room for those of the next job
    torch._dynamo.reset()
    cases.release()
    gate.release()
    gc.collect()
    return list(rows.values())


def peak_job(settings: Settings, name: str, case: Case) -> Job:
    """The peak memory of a model's step."""

    def run() -> list[Record]:
        measure = partial(peak.peak_bytes, case, settings.threads, name.startswith(LARGE))
        return [attempt(of_case("peak", name, case), case.provider, case.device, measure)]

    return Job(f"peak {case.passes} {name} {case.provider.name}{suffix(case)}", run)


def sized_jobs(
    settings: Settings, sizes: dict[str, Size], ops: Iterable[str], linkages: Iterable[str]
) -> Iterator[Job]:
    """Every op at every size with every linkage: times, and peaks of training steps."""
    for name, size in sizes.items():
        for op in ops:
            rounds = Rounds(SECONDS * (1 if op == "model" else PART_SHARE))
            for linkage in linkages:
                for passes in reversed(PASSES):
                    if group := settings.group(op, passes, size, settings.chosen(), linkage):
                        yield time_job(settings, name, group, rounds)
        if "model" in ops and "dense" in linkages:
            for case in settings.group("model", "forward+backward", size, settings.chosen()):
                if case.provider.kind != "floor":
                    yield peak_job(settings, name, case)


def step_jobs(settings: Settings, sizes: dict[str, Size]) -> Iterator[Job]:
    """Steps of models and of the memory."""
    return sized_jobs(settings, sizes, ("model", "memory_step"), ("dense",))


def our_jobs(settings: Settings, sizes: dict[str, Size]) -> Iterator[Job]:
    """Steps of models by our fastest backend alone, at every size before the next kind of step."""
    for passes, names in (
        ("forward+backward", FASTEST), ("forward", FASTEST), ("forward+backward", FASTEST_HALF)
    ):  # fmt: skip
        for name, size in sizes.items():
            chosen = [one for one in settings.chosen() if one in names]
            if group := settings.group("model", passes, size, chosen):
                job = time_job(settings, name, group, Rounds(SECONDS))
                yield replace(job, name=f"ours {passes} {name} {'+'.join(chosen)}")


def beside_jobs(settings: Settings, sizes: dict[str, Size]) -> Iterator[Job]:
    """Training steps by our fastest backend beside others, a few at a time, quickest ones first."""
    for rivals in RIVALS:
        for name, size in sizes.items():
            there = [one for one in settings.chosen() if one in rivals]
            chosen = [one for one in settings.chosen() if one in FASTEST]
            if there:
                group = settings.group("model", "forward+backward", size, [*chosen, *there])
                job = time_job(settings, name, group, Rounds(SECONDS))
                yield replace(job, name=f"beside {name} {'+'.join(there)}")


def part_jobs(settings: Settings, sizes: dict[str, Size]) -> Iterator[Job]:
    """The parts of a memory step."""
    return sized_jobs(settings, sizes, PARTS, ("dense",))


def linkage_jobs(settings: Settings, sizes: dict[str, Size]) -> Iterator[Job]:
    """Steps of models with every linkage but the dense one, which `step_jobs` have."""
    return sized_jobs(settings, sizes, ("model",), [name for name in LINKAGES if name != "dense"])


def growth_jobs(
    settings: Settings, studies: dict[str, Study], letters: Iterable[str]
) -> Iterator[Job]:
    """Training steps as one letter grows: times, and peaks of ours and the peer's."""
    who = [name for name in settings.chosen() if name in STUDIED]
    for letter in (letter for letter in letters if letter in studies):
        for name, size in studies[letter].sizes().items():
            if group := settings.group("model", "forward+backward", size, who):
                yield time_job(settings, name, group, Rounds(STUDY_SECONDS))
            for case in group if letter in PEAK_LETTERS else ():
                if case.provider.name not in ("reference", "lstm"):
                    yield peak_job(settings, name, case)


def large_jobs(settings: Settings, study: Study) -> Iterator[Job]:
    """Training steps of large memories with every linkage: times and peaks."""
    who = [name for name in settings.chosen() if name in FASTEST]
    for linkage, options in LINKAGES.items():
        for name, size in study.sizes().items():
            if options["linkage"] == "dense" and size.N > DENSE_UP_TO:
                continue
            for case in settings.group("model", "forward+backward", size, who, linkage):
                yield time_job(settings, name, [case], Rounds(STUDY_SECONDS, 2))
                yield peak_job(settings, name, case)


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
