"""The cases as benchmarks of pytest-benchmark, with the same sizes, providers and accuracy check.

A file bench_<op>.py holds one function made by `benchmark_of`. Choose cases with -k, by size,
passes, linkage and provider: `pytest bench/bench_model.py -k "c1 and sparse and cpu"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from . import gate
from .cases import PASSES, Case, work
from .clock import launches, synchronize
from .jobs import Settings
from .provenance import facts
from .providers import LINKAGES, missing
from .sizes import sizes_for

THREADS = 2
SETTINGS = Settings("cuda" if torch.cuda.is_available() else "cpu", THREADS)
SIZES = sizes_for(SETTINGS.device, dry=False).named


def cases_of(op: str) -> dict[str, Case]:
    """Every case of an op on this device, by name."""
    linkages = reversed(LINKAGES) if op == "model" else ["dense"]
    return {
        "-".join((name, passes, *[linkage] * (op == "model"), case.provider.name)): case
        for linkage in linkages
        for name, size in SIZES.items()
        for passes in PASSES
        for case in SETTINGS.group(op, passes, size, SETTINGS.chosen(), linkage)
    }


def benchmark_of(op: str) -> Callable[..., None]:
    """A test function with every case of an op."""
    found = cases_of(op)

    @pytest.mark.parametrize("case", list(found.values()), ids=list(found))
    def test(benchmark: Any, case: Case) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            measure(benchmark, case)
        finally:
            torch.set_num_threads(before)

    return test


def measure(benchmark: Any, case: Case) -> None:
    """Time a case in rounds; wrong results fail before any of them."""
    if (reason := missing(case.provider, case.device)) is not None:
        pytest.skip(reason)
    error = gate.check(case)
    step = work(case)

    def call() -> None:
        step.run(case.passes)
        synchronize(case.device)

    benchmark.group = f"{case.op} {case.passes}, {case.provider.linkage}, {case.size}"
    call()
    benchmark.extra_info.update(
        provider=case.provider.name, linkage=case.provider.linkage, sizes=case.size._asdict(),
        error=error, **facts(case.device),
    )  # fmt: skip
    benchmark.pedantic(call, rounds=9, warmup_rounds=2)
    benchmark.extra_info["launches"] = launches(call, case.device)
