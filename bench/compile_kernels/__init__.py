"""What the GPU kernels compile to, found without a GPU: `python -m bench.compile_kernels`.

The launchers run on meta tensors, which records their launches and computes nothing (calls.py).
Every distinct kernel is compiled for each target (builds.py), and the figures of what the compiler
made are read with the tools that come with Triton (figures.py). tables.py makes the tables of
docs/kernels.md.
"""

import os
import sys

import triton

if os.environ.get("TRITON_INTERPRET", "0") not in {"", "0", "false", "off"}:
    sys.exit("bench.compile_kernels needs Triton's compiler; unset TRITON_INTERPRET")

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    sys.exit("bench.compile_kernels needs Triton 3.3 or newer")
