"""Whole sequences: how a cell is taken through the steps of a batch."""

from .checkpointed import run_checkpointed
from .controller_tapes import is_plain
from .memory_tape import checkpoint_interval
from .report import MemoryReport, memory_report
from .unroll import unroll

__all__ = [
    "MemoryReport",
    "checkpoint_interval",
    "is_plain",
    "memory_report",
    "run_checkpointed",
    "unroll",
]
