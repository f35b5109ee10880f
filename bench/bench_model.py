"""Training and inference steps of models with every linkage: `pytest bench/bench_model.py`."""

from .harness.under_pytest import benchmark_of

test_model = benchmark_of("model")
