"""The interface for tasks whose inputs depend on earlier answers.

A task knows no model, so it hands out an `Answerer`. The caller, who has the model, runs it on the
inputs so far, passes back the outputs step by step, and in the end gets a batch like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .batch import Batch


class Answerer(ABC):
    """Makes the inputs of a batch from a model's answers. Letters: B sequences, T steps.

    first: the first step whose outputs are needed; all inputs up to it are known.
    last: the last one.
    """

    first: int
    last: int

    @abstractmethod
    def inputs(self, first: int, last: int) -> Tensor:
        """The inputs of steps `first` to `last`, (steps, B, X); those after an answer are only
        known once `take` has been called with it."""

    @abstractmethod
    def take(self, step: int, outputs: Tensor) -> None:
        """Take the outputs (B, Y) of a step; to be called for `first` to `last` in order."""

    @abstractmethod
    def batch(self) -> Batch:
        """The batch with all inputs that were made, and the targets of its answers."""
