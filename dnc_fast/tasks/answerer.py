"""The door for tasks whose inputs depend on what was answered before.

A task knows no model, so it hands out an `Answerer`: whoever has the model shows it the inputs so
far and gives back the outputs, step by step, and at the end gets a batch like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from .base import Batch


class Answerer(ABC):
    """Makes the inputs of a batch from a model's answers. Letters: B sequences, T steps.

    first: the first step whose outputs are wanted; all inputs up to it are known.
    last: the last one.
    """

    first: int
    last: int

    @abstractmethod
    def inputs(self, first: int, last: int) -> Tensor:
        """The inputs of steps `first` to `last`, (steps, B, X); those after an answer not yet
        taken are not known."""

    @abstractmethod
    def take(self, step: int, outputs: Tensor) -> None:
        """Take the outputs (B, Y) of a step: of each from `first` to `last`, in order."""

    @abstractmethod
    def batch(self) -> Batch:
        """All inputs as they came to be, with the targets for what was answered."""
