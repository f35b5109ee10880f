"""Link matrix, precedence, forward and backward weightings: `pytest bench/bench_linkage.py`."""

from .harness.under_pytest import benchmark_of

test_linkage = benchmark_of("linkage")
