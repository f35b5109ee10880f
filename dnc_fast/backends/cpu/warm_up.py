"""Compile the CPU kernels for a dtype: `python -m dnc_fast.backends.cpu.warm_up float32 step`.

The process that compiles a kernel can round its sums otherwise than those that load it from the
disk. So it is compiled in a process of its own, and all others load it: the same bits in each.
"""

from __future__ import annotations

import sys

import torch

from .backend import call_part_kernels
from .compiling import compile_here, compiled_marker
from .fused import call_step_kernels

KINDS = {"step": call_step_kernels, "parts": call_part_kernels}
"""What calls the kernels, by kind, in the order in which they are loaded."""


def main() -> None:
    dtype, kind = getattr(torch, sys.argv[1]), sys.argv[2]
    for earlier, call in KINDS.items():
        compile_here(dtype, earlier, call)
        if earlier == kind:
            break
    compiled_marker(dtype, kind).touch()


if __name__ == "__main__":
    main()
