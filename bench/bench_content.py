"""Content weighting: `pytest bench/bench_content.py`."""

from .harness.under_pytest import benchmark_of

test_content = benchmark_of("content")
