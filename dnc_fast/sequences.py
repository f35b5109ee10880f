"""The forms of input and output that nn.LSTM supports: padded, batch first, unbatched, packed.

Inside the package there is only one: rows, one step after another. Step t has `batch_sizes[t]`
rows, and the longest sequences come first (the layout of `PackedSequence.data`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .checks import check_tensor
from .state import map_tensors

State = TypeVar("State")


@dataclass(frozen=True)
class Sequences:
    """A batch of sequences as rows; converts results back to the form of the input.

    Attributes:
        rows: (rows, X), one step after another.
        steps: T, of the longest sequence.
        batch_size: B, the number of sequences.
        batch_first, unbatched, packed: the form of the input.
        sizes: number of sequences at each step; None if they are of one length.
    """

    rows: Tensor
    steps: int
    batch_size: int
    batch_first: bool
    unbatched: bool
    packed: PackedSequence | None = None
    sizes: list[int] | None = None

    @classmethod
    def of(
        cls, x: Tensor | PackedSequence, input_size: int, batch_first: bool, like: Tensor
    ) -> Sequences:
        """Convert a model's input.

        Args:
            x: (T, B, X), or (B, T, X) with `batch_first`, or (T, X), or a PackedSequence.
            input_size: X.
            batch_first: whether the batch comes before the steps.
            like: a parameter of the model, for its device and dtype.

        Raises:
            TypeError: `x` is neither a tensor of the model's dtype nor a PackedSequence of one.
            ValueError: its shape, device or values are wrong.
        """
        if isinstance(x, PackedSequence):
            check_tensor("input.data", x.data, like.device, like.dtype)
            if x.data.dim() != 2 or x.data.shape[-1] != input_size:
                raise ValueError(
                    f"input.data must have shape (rows, {input_size}), got {tuple(x.data.shape)}"
                )
            sizes = x.batch_sizes.tolist()
            return cls(x.data, len(sizes), sizes[0], batch_first, False, x, sizes)
        check_tensor("input", x, like.device, like.dtype)
        layout = "(B, T, X)" if batch_first else "(T, B, X)"
        if x.dim() not in (2, 3) or x.shape[-1] != input_size:
            raise ValueError(
                f"input must have shape {layout} or, unbatched, (T, X) with X={input_size}, "
                f"got {tuple(x.shape)}"
            )
        unbatched = x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
        elif batch_first:
            x = x.transpose(0, 1)
        steps, batch_size, _ = x.shape
        if not steps:
            raise ValueError(f"input must have at least one step, got T=0, B={batch_size}")
        return cls(x.flatten(0, 1), steps, batch_size, batch_first, unbatched)

    @property
    def batch_sizes(self) -> list[int]:
        """Number of sequences at each step; never increases. It fixes T in an exported graph."""
        return [self.batch_size] * self.steps if self.sizes is None else self.sizes

    def _places(self) -> tuple[Tensor, Tensor]:
        """Each row's step and its index in the batch."""
        device = self.rows.device
        sizes = torch.tensor(self.batch_sizes, device=device)
        steps = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
        places = [torch.arange(size, device=device) for size in self.batch_sizes]
        return steps, torch.cat(places)

    def reversal(self) -> Tensor:
        """The order of rows that reverses each sequence in time.

        Applied twice, it restores the original order.
        """
        if self.packed is None:  # need not wait for the device
            rows = torch.arange(self.rows.shape[0], device=self.rows.device)
            return rows.view(self.steps, self.batch_size).flip(0).flatten()
        steps, places = self._places()
        sizes = torch.tensor(self.batch_sizes, device=self.rows.device)
        starts = sizes.cumsum(0) - sizes
        lengths = torch.bincount(places)
        return starts[lengths[places] - 1 - steps] + places

    def restore(self, rows: Tensor) -> Tensor | PackedSequence:
        """Rows of results in the form of the input."""
        if self.packed is not None:
            return PackedSequence(rows, *self.packed[1:])
        return self.pad(rows)

    def pad(self, rows: Tensor) -> Tensor:
        """Rows of results as a padded batch, with zeros past the end of each sequence."""
        if self.packed is None:
            padded = rows.view(self.steps, self.batch_size, *rows.shape[1:])
        else:
            padded = rows.new_zeros(self.steps, self.batch_size, *rows.shape[1:])
            padded[self._places()] = rows
            if self.packed.unsorted_indices is not None:
                padded = padded[:, self.packed.unsorted_indices]
        if self.unbatched:
            return padded.squeeze(1)
        return padded.transpose(0, 1) if self.batch_first else padded

    def with_batch(self, state: State) -> State:
        """The user's state, with a batch axis added where the input has none."""
        return add_batch_axis(state) if self.unbatched else state

    def sort_state(self, state: State) -> State:
        """A state with its batch in the order of the rows instead of that of the input."""
        return self._reorder(state, None if self.packed is None else self.packed.sorted_indices)

    def restore_state(self, state: State) -> State:
        """A state for the user: in the order of the input, without a batch axis if it has none."""
        if self.unbatched:
            return map_tensors(lambda tensor: tensor.squeeze(0), state)
        return self._reorder(state, None if self.packed is None else self.packed.unsorted_indices)

    @staticmethod
    def _reorder(state: State, order: Tensor | None) -> State:
        if order is None:
            return state
        return map_tensors(lambda tensor: tensor.index_select(0, order), state)


def add_batch_axis(state: State) -> State:
    """The user's state of an unbatched sequence, as a batch of one.

    Raises:
        ValueError: it has a batch axis already.
    """
    memory = getattr(getattr(state, "memory", None), "memory", None)
    if isinstance(memory, Tensor) and memory.dim() == 3:
        raise ValueError(
            f"state must have no batch axis, like the input, got memory {tuple(memory.shape)}; "
            "give the input a batch axis too, or start from the state of an unbatched call"
        )
    return map_tensors(lambda tensor: tensor.unsqueeze(0), state)
