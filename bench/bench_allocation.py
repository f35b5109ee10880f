"""Allocation weighting: `pytest bench/bench_allocation.py`."""

from .harness.under_pytest import benchmark_of

test_allocation = benchmark_of("allocation")
