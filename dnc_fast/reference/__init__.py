"""The paper's equations in plain PyTorch: the truth that every other path is tested against.

One file per group of equations, one function per equation, in the paper's order, and beside each
its hand-derived backward, from which faster paths are made. Nothing here is clever; all of it takes
any float dtype.
"""

from .allocation import (
    allocation_weighting,
    allocation_weighting_backward,
    retention,
    retention_backward,
    update_usage,
    update_usage_backward,
    usage_order,
)
from .content import (
    LookUp,
    content_weighting,
    content_weighting_backward,
    cosine_similarity,
    look_up,
)
from .linkage import (
    directional_weightings,
    directional_weightings_backward,
    update_link,
    update_link_backward,
    update_precedence,
    update_precedence_backward,
)
from .memory import read_memory, read_memory_backward, write_memory, write_memory_backward
from .options import USAGE_ORDERS, StepOptions
from .selection import Kept, keep_largest, keep_largest_backward, largest_cells
from .separable_linkage import (
    check_room,
    separable_directional_weightings,
    separable_directional_weightings_backward,
    separable_products,
)
from .step import (
    Weightings,
    memory_step,
    memory_step_backward,
    read_weighting,
    read_weighting_backward,
    write_weighting,
    write_weighting_backward,
)

__all__ = [
    "USAGE_ORDERS",
    "Kept",
    "LookUp",
    "StepOptions",
    "Weightings",
    "allocation_weighting",
    "allocation_weighting_backward",
    "check_room",
    "content_weighting",
    "content_weighting_backward",
    "cosine_similarity",
    "directional_weightings",
    "directional_weightings_backward",
    "keep_largest",
    "keep_largest_backward",
    "largest_cells",
    "look_up",
    "memory_step",
    "memory_step_backward",
    "read_memory",
    "read_memory_backward",
    "read_weighting",
    "read_weighting_backward",
    "retention",
    "retention_backward",
    "separable_directional_weightings",
    "separable_directional_weightings_backward",
    "separable_products",
    "update_link",
    "update_link_backward",
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
