"""Whole sequences: how a cell runs all steps of a batch."""

from .alone import run_alone
from .captures import release_cuda_graphs
from .controller import has_tape, interface_is_plain, is_plain
from .interface_layer import InterfaceForm, InterfaceTensors
from .operation import sequences_operation
from .plan import Plan, Start
from .rehearsal_of_model import rehearse_batch
from .report import MemoryReport, memory_report
from .run import run_sequences
from .unroll import unroll

__all__ = [
    "InterfaceForm",
    "InterfaceTensors",
    "MemoryReport",
    "Plan",
    "Start",
    "has_tape",
    "interface_is_plain",
    "is_plain",
    "memory_report",
    "rehearse_batch",
    "release_cuda_graphs",
    "run_alone",
    "run_sequences",
    "sequences_operation",
    "unroll",
]
