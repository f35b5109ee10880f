"""The whole memory step: `pytest bench/bench_memory_step.py`."""

from .harness.under_pytest import benchmark_of

test_memory_step = benchmark_of("memory_step")
