"""Whole sequences: how a cell is taken through the steps of a batch."""

from .captures import release_cuda_graphs
from .checkpointed import Plan, run_checkpointed
from .controller_tapes import is_built_in, is_plain
from .memory_tape import checkpoint_interval
from .precision import run_precision
from .report import MemoryReport, memory_report
from .unroll import unroll

__all__ = [
    "MemoryReport",
    "Plan",
    "checkpoint_interval",
    "is_built_in",
    "is_plain",
    "memory_report",
    "release_cuda_graphs",
    "run_checkpointed",
    "run_precision",
    "unroll",
]
