"""The paper's equations in plain PyTorch: the truth that every other path is tested against.

One file per group of equations, one function per equation, in the paper's order. Nothing here is
clever; all of it is differentiable by autograd and takes any float dtype.
"""

from .allocation import USAGE_ORDERS, allocation_weighting, retention, update_usage, usage_order
from .content import content_weighting, cosine_similarity
from .linkage import directional_weightings, update_link, update_precedence
from .memory import read_memory, write_memory
from .step import Weightings, memory_step

__all__ = [
    "USAGE_ORDERS",
    "Weightings",
    "allocation_weighting",
    "content_weighting",
    "cosine_similarity",
    "directional_weightings",
    "memory_step",
    "read_memory",
    "retention",
    "update_link",
    "update_precedence",
    "update_usage",
    "usage_order",
    "write_memory",
]
