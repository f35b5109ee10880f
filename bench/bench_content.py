"""Content weighting: `pytest bench/bench_content.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("content")
def test_content(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
