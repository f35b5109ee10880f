"""Compile the CPU kernels for a dtype: `python -m dnc_fast.backends.cpu.warm_up float32 step`.

A process that compiles a kernel may round its sums differently from one that loads it from disk.
So a separate process compiles the kernels and all others load them, which gives the same bits.
"""

from __future__ import annotations

import sys

import torch

from .backend import call_part_kernels
from .compiling import compile_here, compiled_marker
from .fused import call_step_kernels

KINDS = {"step": call_step_kernels, "parts": call_part_kernels}
"""The functions that call the kernels, by kind, in loading order."""


def main() -> None:
    dtype, kind = getattr(torch, sys.argv[1]), sys.argv[2]
    for earlier, call in KINDS.items():
        compile_here(dtype, earlier, call)
        if earlier == kind:
            break
    compiled_marker(dtype, kind).touch()


if __name__ == "__main__":
    main()
