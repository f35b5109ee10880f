"""The names of links before `dnc_fast.linkages`, for states that were pickled then."""

from .linkages import SeparableLink, SparseLink

__all__ = ["SeparableLink", "SparseLink"]
