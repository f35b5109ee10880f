"""The whole memory step: `pytest bench/bench_memory_step.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("memory_step")
def test_memory_step(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
