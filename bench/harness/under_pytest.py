"""The cases as benchmarks of pytest-benchmark: the same sizes, providers and gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from . import gate
from .cases import PASSES, Case, takes_part, work
from .clock import launches, synchronize
from .provenance import facts
from .providers import PROVIDERS, missing
from .sizes import sizes_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = sizes_for(DEVICE, dry=False).named


def every_case(op: str, *passes: str) -> Callable[..., Any]:
    """Parametrize `case` by size, passes and provider."""
    found = [
        pytest.param(
            Case(op, one, size, provider, DEVICE), id=f"{name}-{one}-{provider.name}", marks=()
        )
        for name, size in SIZES.items()
        for one in passes or PASSES
        for provider in PROVIDERS.values()
        if DEVICE in provider.devices and takes_part(provider, op)
    ]
    return pytest.mark.parametrize("case", found)


def measure(benchmark: Any, case: Case) -> None:
    """Time a case in rounds; a wrong result fails instead, before any of them."""
    if (reason := missing(case.provider, case.device)) is not None:
        pytest.skip(reason)
    error = gate.check(case)
    step = work(case)

    def call() -> None:
        step.run(case.passes)
        synchronize(case.device)

    benchmark.group = f"{case.op} {case.passes}, {case.size}"
    call()
    benchmark.extra_info.update(
        provider=case.provider.name, sizes=case.size._asdict(), error=error, **facts(case.device)
    )
    benchmark.pedantic(call, rounds=9, warmup_rounds=2)
    benchmark.extra_info["launches"] = launches(call, case.device)
