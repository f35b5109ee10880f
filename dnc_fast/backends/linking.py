"""What composed steps do with the link, by kind of linkage: forward, and back again.

Each kind goes forward from `start`'s link, one step after another, and back in the opposite order.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from .. import reference
from ..kernels.arrays import Step
from ..links import Link, SeparableLink, SparseLink
from ..reference import Kept, StepOptions
from ..reference.sparse_linkage import (
    Entry,
    link_entry,
    link_entry_backward,
    update_sparse_link_backward,
)

Weightings = tuple[Tensor | None, Tensor | None]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class Linking(Protocol):
    """What a linkage does in composed steps."""

    def forward(self, step: Step) -> Weightings:
        """Take the link to step t; both weightings (B, Hw, R, N), forward and backward in time."""

    def final(self) -> Link:
        """The link after the last step."""

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        """Begin the way back, from the gradients of the tensors of `final`."""

    def backward(
        self, step: Step, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> Gradients:
        """Take the link and its gradient to step t - 1.

        Args:
            step: t.
            d_read: (B, R, N), gradient of the read weightings of step t.
            modes_ahead, modes_behind: (B, R, Hw).

        Returns:
            L_t d_r and L_t^T d_r, each (B, Hw, R, N); what the link adds to the gradients of the
            write weightings and of the precedence, each (B, Hw, N). None stands for zeros.
        """

    def gradient(self) -> list[Tensor | None]:
        """Gradients of the tensors of the first link."""


class NoLinking:
    """No linkage: the link matrix stays zero."""

    def forward(self, step: Step) -> Weightings:
        return None, None

    def final(self) -> Link:
        return None

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        pass

    def backward(
        self, step: Step, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> Gradients:
        return None, None, None, None

    def gradient(self) -> list[Tensor | None]:
        return []


class SparseLinking:
    """A sparse link, changed in place; of each step the rows that it changes are put away.

    Args:
        link: before the first step.
        parts: a module of parts, see `composed`.
        options: of the steps.
        keep: whether there will be a way back.
    """

    def __init__(self, link: SparseLink, parts: Any, options: StepOptions, keep: bool) -> None:
        self._link = SparseLink(*(_own(tensor.detach()) for tensor in link))
        self._parts, self._options, self._keep = parts, options, keep
        self._done: list[tuple[Kept, Kept, Tensor, SparseLink]] = []
        self._d_values = torch.empty(0)

    def forward(self, step: Step) -> Weightings:
        link = self._active(step)
        fan_out = link.values.shape[-1]
        unit_sums, keep = self._options.link_unit_sums, self._parts.keep_largest
        entry = link_entry(step.precedence0, step.write1, fan_out, unit_sums, keep)
        done = self._parts.update_sparse_link_(link, entry, self._options.link_threshold)
        if self._keep:
            self._done.append((entry.rows, entry.columns, *done))  # the rest has N numbers
        weightings: Weightings = self._parts.sparse_products(link, step.read0)
        return weightings

    def final(self) -> Link:
        return SparseLink(*map(_own, self._link)) if self._keep else self._link

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        given = d_final[0]
        self._d_values = torch.zeros_like(self._link.values) if given is None else _own(given)
        self._d_values.masked_fill_(self._link.columns < 0, 0)

    def backward(
        self, step: Step, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> Gradients:
        link, d_values = self._active(step), self._d_values[: len(step.read0)]
        x, y = self._parts.sparse_products(link, d_read)
        self._parts.sparse_backward(d_values, link, d_read, step.read0, modes_ahead, modes_behind)
        written, columns, rows, before = self._done.pop()
        entry = Entry(written, columns, written.spread(step.write1.shape[-1]))
        places = tuple(rows.T)
        after = SparseLink(*(tensor[places] for tensor in link))
        d_before, d_written, d_precedence = update_sparse_link_backward(
            d_values[places], before, after, rows, entry
        )
        d_values[places] = d_before
        for tensor, old in zip(link, before, strict=True):
            tensor[places] = old
        d_precedence, d_write = link_entry_backward(
            d_written, d_precedence, entry, self._options.link_unit_sums
        )
        return x, y, d_write, d_precedence

    def gradient(self) -> list[Tensor | None]:
        return [self._d_values, None]

    def _active(self, step: Step) -> SparseLink:
        """The link of the sequences that a step has."""
        return SparseLink(*(tensor[: len(step.read0)] for tensor in self._link))


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


class SeparableLinking:
    """A separable link, to which each step adds its write.

    Args:
        link: before the first step.
        parts: a module of parts, see `composed`.
        steps: T.
    """

    def __init__(self, link: SeparableLink, parts: Any, steps: int) -> None:
        self._parts = parts
        B, Hw, held, N = link.write_weights.shape
        self._first = self._writes = held
        self._history = SeparableLink(
            *(tensor.new_zeros(held + steps, B, Hw, N) for tensor in link)
        )
        for history, tensor in zip(self._history, link, strict=True):
            history[:held] = tensor.detach().permute(2, 0, 1, 3)
        self._gradient = self._history
        self._versions: list[int] = []

    def forward(self, step: Step) -> Weightings:
        active = len(step.read0)
        self._history.write_weights[self._writes, :active] = step.write1
        self._history.precedence[self._writes, :active] = step.precedence0
        self._writes += 1
        weightings: Weightings = self._parts.separable_products(self._link(active), step.read0)
        return weightings

    def final(self) -> Link:
        self._versions = [tensor._version for tensor in self._history]
        return self._link(self._history.precedence.shape[1])

    def _link(self, active: int) -> SeparableLink:
        return self._writes_of(self._history, active)

    def _writes_of(self, tensors: SeparableLink, active: int) -> SeparableLink:
        """Those so far of the sequences that are still there, (b, Hw, S, N) each."""
        return SeparableLink(
            *(tensor[: self._writes, :active].permute(1, 2, 0, 3) for tensor in tensors)
        )

    def start_backward(self, d_final: list[Tensor | None]) -> None:
        if self._versions != [tensor._version for tensor in self._history]:
            raise RuntimeError(
                "state.memory.link was modified in place before the backward pass, which needs the "
                "writes that it holds; change a copy of it"
            )
        self._gradient = SeparableLink(
            *(
                torch.zeros_like(history) if given is None else _own(given.permute(2, 0, 1, 3))
                for given, history in zip(d_final, self._history, strict=True)
            )
        )

    def backward(
        self, step: Step, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> Gradients:
        link = self._link(len(step.read0))
        x, y = self._parts.separable_products(link, d_read)
        gradient = self._writes_of(self._gradient, len(step.read0))
        self._parts.separable_backward(
            gradient, link, d_read, step.read0, modes_ahead, modes_behind
        )
        self._writes -= 1
        d_write, d_precedence = (tensor[:, :, -1] for tensor in gradient)
        return x, y, d_write, d_precedence

    def gradient(self) -> list[Tensor | None]:
        return [part[: self._first].permute(1, 2, 0, 3) for part in self._gradient]


def linking(link: Link, parts: Any, options: StepOptions, steps: int, keep: bool) -> Linking:
    """What steps do with a link.

    Args:
        link: before the first step.
        parts: a module of parts, see `composed`.
        options: of the steps.
        steps: T.
        keep: whether there will be a way back.

    Raises:
        ValueError: a separable link has no room for so many writes.
    """
    if isinstance(link, SparseLink):
        return SparseLinking(link, parts, options, keep)
    if isinstance(link, SeparableLink):
        reference.check_room(link, steps, options.link_history)
        return SeparableLinking(link, parts, steps)
    assert link is None
    return NoLinking()
