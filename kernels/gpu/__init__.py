"""Triton kernels for GPUs: each op's kernels, their launchers, and the op as torch knows it."""
