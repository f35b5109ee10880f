"""Writing to the memory: `pytest bench/bench_write.py`."""

from .harness.under_pytest import benchmark_of

test_write = benchmark_of("write")
