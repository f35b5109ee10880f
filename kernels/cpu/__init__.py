"""The memory step for CPUs, compiled by Numba, one batch element at a time."""
