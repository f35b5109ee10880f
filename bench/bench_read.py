"""Reading from the memory: `pytest bench/bench_read.py`."""

from .harness.under_pytest import benchmark_of

test_read = benchmark_of("read")
