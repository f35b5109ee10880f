"""Allocation weighting: `pytest bench/bench_allocation.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("allocation")
def test_allocation(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
