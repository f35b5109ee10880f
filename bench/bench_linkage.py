"""Link matrix, precedence, forward and backward weightings: `pytest bench/bench_linkage.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("linkage")
def test_linkage(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
