"""Whole sequences: how a cell is taken through the steps of a batch."""

from .unroll import unroll

__all__ = ["unroll"]
