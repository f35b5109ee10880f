"""A model's training step, without the optimizer: `pytest bench/bench_training_step.py`."""

from __future__ import annotations

from typing import Any

from .harness.cases import Case
from .harness.under_pytest import every_case, measure


@every_case("model", "forward+backward")
def test_training_step(benchmark: Any, case: Case) -> None:
    measure(benchmark, case)
