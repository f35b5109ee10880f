"""What the state holds of the temporal order of writes, by kind of linkage.

Letters: B batch, N memory cells, Hw write heads, S writes so far, K fan-out.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from .checks import check_integer

LINKAGES = ("dense", "sparse", "separable", "none")
"""`dense`: the link matrix of the paper. `sparse`: K entries of each of its rows. `separable`: the
writes themselves, exact where each writes to one cell. `none`: a link matrix that stays zero."""


class SparseLink(NamedTuple):
    """The entries of each row of the link matrix that are kept, in rising order of their columns.

    | field   | shape         | dtype | meaning                                               |
    |---------|---------------|-------|-------------------------------------------------------|
    | values  | (B, Hw, N, K) | float | L_t[i, columns[i, k]]; 0 in an empty place            |
    | columns | (B, Hw, N, K) | int32 | a cell; -1 in an empty place; those are a row's last  |
    """

    values: Tensor
    columns: Tensor

    @classmethod
    def from_dense(cls, link: Tensor, fan_out: int) -> SparseLink:
        """The K largest entries of each row of a link matrix (B, Hw, N, N), ties by column.

        With K < N, entries of zero leave their places empty.

        Raises:
            ValueError: fan_out is not a number of entries.
        """
        check_integer("fan_out", fan_out, minimum=1)
        N = link.shape[-1]
        order = link.detach().argsort(dim=-1, descending=True, stable=True)[..., :fan_out]
        columns = order.sort(-1).values
        values = link.gather(-1, columns)
        if fan_out < N:
            empty = values == 0
            order = columns.masked_fill(empty, N).argsort(dim=-1, stable=True)
            columns = columns.masked_fill(empty, -1).gather(-1, order)
            values = values.gather(-1, order)
        room = (0, max(fan_out - N, 0))
        pad = torch.nn.functional.pad
        return cls(pad(values, room), pad(columns.to(torch.int32), room, value=-1))

    def to_dense(self) -> Tensor:
        """The link matrix (B, Hw, N, N)."""
        *sizes, N, _ = self.values.shape
        zeros = self.values.new_zeros(*sizes, N, N)
        return zeros.scatter_add(-1, self.columns.clamp(min=0).long(), self.values)


class SeparableLink(NamedTuple):
    """The writes so far, the oldest first, of which the link matrix is made.

    | field         | shape         | meaning                                               |
    |---------------|---------------|-------------------------------------------------------|
    | write_weights | (B, Hw, S, N) | ww_s                                                  |
    | precedence    | (B, Hw, S, N) | p_{s-1}, before the write                             |
    """

    write_weights: Tensor
    precedence: Tensor

    def last(self, count: int) -> SeparableLink:
        """The newest `count` writes; those before them are forgotten, and so are their links.

        Raises:
            ValueError: count is not a number of writes.
        """
        check_integer("count", count, minimum=0)
        start = max(self.write_weights.shape[-2] - count, 0)
        return SeparableLink(*(tensor[..., start:, :] for tensor in self))

    def filled(self, count: int) -> SeparableLink:
        """The same with `count` writes; those to come are empty and change nothing."""
        room = (0, 0, 0, count - self.write_weights.shape[-2])
        return SeparableLink(*(torch.nn.functional.pad(tensor, room) for tensor in self))


Link: TypeAlias = Tensor | SparseLink | SeparableLink | None


def empty_link(
    linkage: str,
    shape: tuple[int, int, int],
    fan_out: int,
    dtype: torch.dtype,
    device: torch.device | str | None,
) -> Link:
    """The link before the first write.

    Args:
        linkage: one of `LINKAGES`.
        shape: B, Hw, N.
        fan_out: K, of the sparse one.
        dtype, device: of its numbers.
    """
    if linkage == "none":
        return None
    if linkage == "sparse":
        values = torch.zeros(*shape, fan_out, dtype=dtype, device=device)
        columns = torch.full(values.shape, -1, dtype=torch.int32, device=device)
        return SparseLink(values, columns)
    B, Hw, N = shape
    if linkage == "separable":
        return SeparableLink(
            *(torch.zeros(B, Hw, 0, N, dtype=dtype, device=device) for _ in range(2))
        )
    return torch.zeros(B, Hw, N, N, dtype=dtype, device=device)


def linkage_of(link: Link) -> str:
    """Which of `LINKAGES` a state's link is of."""
    if link is None:
        return "none"
    if isinstance(link, SparseLink):
        return "sparse"
    return "separable" if isinstance(link, SeparableLink) else "dense"
