"""Whole sequences: how a cell is taken through the steps of a batch."""

from .checkpointed import run_checkpointed
from .unroll import unroll

__all__ = ["run_checkpointed", "unroll"]
