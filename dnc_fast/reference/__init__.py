"""The paper's equations in plain PyTorch: the truth that every other path is tested against.

One file per group of equations, one function per equation, in the paper's order, each with its
hand-derived backward, which the faster paths use. Nothing here is clever, and everything works in
any float dtype. The equations of temporal linkage are in `dnc_fast.linkages`.
"""

from .allocation import (
    allocate,
    allocate_backward,
    allocation_weighting,
    allocation_weighting_backward,
    retention,
    retention_backward,
    smooth_allocation_weighting,
    smooth_allocation_weighting_backward,
    update_usage,
    update_usage_backward,
    usage_order,
)
from .content import (
    LookUp,
    content_weighting,
    content_weighting_backward,
    look_up,
)
from .memory import (
    deallocate,
    deallocate_backward,
    read_memory,
    read_memory_backward,
    write_memory,
    write_memory_backward,
)
from .precedence import update_precedence, update_precedence_backward
from .sharpness import sharpen, sharpen_backward
from .similarity import SIMILARITY_FUNCTIONS
from .step import (
    Weightings,
    memory_step,
    read_weighting,
    write_weighting,
    write_weighting_backward,
)

__all__ = [
    "SIMILARITY_FUNCTIONS",
    "LookUp",
    "Weightings",
    "allocate",
    "allocate_backward",
    "allocation_weighting",
    "allocation_weighting_backward",
    "content_weighting",
    "content_weighting_backward",
    "deallocate",
    "deallocate_backward",
    "look_up",
    "memory_step",
    "read_memory",
    "read_memory_backward",
    "read_weighting",
    "retention",
    "retention_backward",
    "sharpen",
    "sharpen_backward",
    "smooth_allocation_weighting",
    "smooth_allocation_weighting_backward",
    "update_precedence",
    "update_precedence_backward",
    "update_usage",
    "update_usage_backward",
    "usage_order",
    "write_memory",
    "write_memory_backward",
    "write_weighting",
    "write_weighting_backward",
]
