"""Custom kernels of dnc_fast, installed as `dnc_fast.kernels`. They never import dnc_fast.

`cpu/` is for Numba, `gpu/` for Triton, each with one file for each group of equations, under the
names of `dnc_fast/reference/`: content, allocation, linkage, memory, step.
"""
