"""Times, launches and bandwidths, on a CPU and on a GPU by the same functions."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]

WARM_UP = 2
COPIED = {"cpu": 2**26, "cuda": 2**28}
"""How many numbers the copy that measures bandwidth moves: more than caches hold."""


class Rounds(NamedTuple):
    """How many rounds to measure: as many as fit into some seconds, within bounds."""

    seconds: float
    least: int = 5
    most: int = 40

    def count(self, seconds_a_round: float) -> int:
        return max(self.least, min(self.most, int(self.seconds / max(seconds_a_round, 1e-9))))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(call: Call, device: str) -> float:
    """The time of one call, from an idle device until the device has finished."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def interleaved(calls: Mapping[str, Call], device: str, rounds: Rounds) -> dict[str, list[float]]:
    """Times of calls that take turns, so that a disturbance of the machine affects all of them.

    Each round starts with a different one. The first calls, which compile and record, do not count.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    round_seconds = sum(seconds_of(call, device) for call in calls.values())
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds.count(round_seconds)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(seconds_of(calls[name], device))
    return times


def queued(call: Call, device: str, count: int = 20) -> list[float]:
    """The time that each of many calls takes on the device, without the time of launching it."""
    call()
    if device != "cuda":
        return [seconds_of(call, device) for _ in range(count)]
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    torch.cuda._sleep(50_000_000)  # meanwhile all of them are launched
    for first, last in pairs:
        first.record()
        call()
        last.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1e3 for first, last in pairs]


class Spread(NamedTuple):
    """The median of times, the least, and the quartiles around the median."""

    median: float
    least: float
    lower: float
    upper: float


def spread(times: list[float]) -> Spread:
    if len(times) == 1:
        return Spread(*times * 4)
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Spread(median, min(times), lower, upper)


def copy_bandwidth(device: str) -> float:
    """Bytes per second, read and written, of a large copy."""
    source = torch.ones(COPIED[device], device=device)
    target = torch.empty_like(source)
    times = queued(lambda: target.copy_(source), device, 5)
    return 2 * 4 * source.numel() / statistics.median(times)


def launch_seconds(device: str) -> float:
    """The time of the smallest operation of torch in a sequence of them."""
    number, count = torch.zeros(1, device=device), 200

    def many() -> None:
        for _ in range(count):
            number.add_(1)

    many()
    return statistics.median(seconds_of(many, device) for _ in range(5)) / count


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the standard error stream, to which some profilers write about themselves."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def launches(call: Call, device: str) -> dict[str, int]:
    """What torch's profiler counts in a call.

    On a GPU: the kernels that run, and the launches that the CPU makes for them. On a CPU: the
    operations of torch that are not part of another one.
    """
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if device == "cuda" else [kinds.CPU]
    with quiet(), torch.profiler.profile(activities=activities) as profile:
        call()
        synchronize(device)
    events = profile.events()
    if device != "cuda":

        def outermost(event: Any) -> bool:
            parent = event.cpu_parent
            return parent is None or not parent.name.startswith("aten::")

        return {"operations": sum(e.name.startswith("aten::") and outermost(e) for e in events)}
    asked = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemset", "cudaMemcpy")
    on_device = torch.autograd.DeviceType.CUDA
    return {
        "kernels": sum(e.device_type == on_device and not e.is_user_annotation for e in events),
        "launches": sum(event.name.startswith(asked) for event in events),
    }
