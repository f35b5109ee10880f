"""A model over a sequence, without gradients: `pytest bench/bench_inference_step.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("model", "forward")
def test_inference_step(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
