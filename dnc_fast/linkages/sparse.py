"""Temporal memory linkage in O(N K): each row of the link matrix keeps K entries.

After Graves et al. 2016, Methods ("Sparse link matrix"). A step writes with the K largest entries
of the write weighting and of the precedence, each scaled to the sum of the whole (`keep_largest`);
then entries below a threshold are dropped, and if a row has more than K left, the K largest are
kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_integer
from ..kernels.arrays import Step
from ..opaque import is_traced
from ..portable import stable_order
from ..step_options import StepOptions
from . import selection
from .base import Linkage, LinkBudget, LinkGradients, LinkRun, LinkSizes
from .selection import Kept, keep_largest_backward, scaled


class SparseLink(NamedTuple):
    """The kept entries of each row of the link matrix, in increasing order of their columns.

    | field   | shape         | dtype | meaning                                               |
    |---------|---------------|-------|-------------------------------------------------------|
    | values  | (B, Hw, N, K) | float | L_t[i, columns[i, k]]; 0 in an empty place            |
    | columns | (B, Hw, N, K) | int32 | a cell; -1 in an empty place; empty places come last  |
    """

    values: Tensor
    columns: Tensor

    @classmethod
    def from_dense(cls, link: Tensor, fan_out: int) -> SparseLink:
        """The K largest entries of each row of a link matrix (B, Hw, N, N), ties by column.

        With K < N, entries of zero leave their places empty.

        Raises:
            ValueError: fan_out is less than 1.
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

    def at(self, rows: Tensor) -> SparseLink:
        """Some rows of the link matrices, (n, K), given by `touched_rows` (n, 3)."""
        return SparseLink(*(tensor[tuple(rows.T)] for tensor in self))


class LinkWrite(NamedTuple):
    """What a step writes to the link matrices.

    | field   | shape      | what                                                  |
    |---------|------------|-------------------------------------------------------|
    | rows    | (B, Hw, k) | the kept entries of the write weightings              |
    | columns | (B, Hw, k) | the kept entries of the previous step's precedence    |
    | weights | (B, Hw, N) | the rows' values, zero elsewhere                      |
    """

    rows: Kept
    columns: Kept
    weights: Tensor


def link_write(
    precedence: Tensor,
    write_weights: Tensor,
    fan_out: int,
    unit_sums: bool = False,
    keep: Any = selection.keep_largest,
) -> LinkWrite:
    """What a step writes; both weightings (B, Hw, N). `keep` works like `keep_largest`."""
    rows = keep(write_weights, fan_out, unit_sums)
    columns = keep(precedence, fan_out, unit_sums)
    return LinkWrite(rows, columns, rows.spread(write_weights.shape[-1]))


def update_sparse_link(
    link: SparseLink, write: LinkWrite, threshold: float | None = None
) -> SparseLink:
    """L_t[i, j] = (1 - w_i - w_j) L_{t-1}[i, j] + w_i p[j], for the entries that are kept.

    Args:
        link: of the previous step.
        write: what the step writes, w and p.
        threshold: entries below it are dropped; None for 1 / K; 0 drops none.

    Returns:
        the link of this step.
    """
    fan_out = link.values.shape[-1]
    threshold = 1 / fan_out if threshold is None else threshold
    values = (1 - _at_columns(write.weights, link.columns)) * link.values
    dropped = (link.columns < 0) | ((values < threshold) if threshold else False)
    link_columns = link.columns.masked_fill(dropped, -1)
    values, link_columns = _in_order(values.masked_fill(dropped, 0), link_columns)

    index = write.rows.cells.unsqueeze(-1).expand(*write.rows.cells.shape, fan_out)
    row_values, row_columns = _written_rows(
        link.values.gather(-2, index), link.columns.gather(-2, index), write, threshold
    )
    return SparseLink(
        values.scatter(-2, index, row_values), link_columns.scatter(-2, index, row_columns)
    )


def _at_columns(vector: Tensor, columns: Tensor) -> Tensor:
    """vector (B, Hw, N) at columns (B, Hw, n, K); at cell 0 if there is no entry."""
    index = columns.clamp(min=0).long()
    return vector.gather(-1, index.flatten(-2)).view(columns.shape)


def _in_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (..., K) in increasing order of their columns, empty places last."""
    end = torch.iinfo(columns.dtype).max
    order = stable_order(columns.masked_fill(columns < 0, end))
    return values.gather(-1, order), columns.gather(-1, order)


def _written_rows(
    values: Tensor, columns: Tensor, write: LinkWrite, threshold: float
) -> tuple[Tensor, Tensor]:
    """The rows of write.rows after the step, from their entries (B, Hw, k, K) before it."""
    fan_out = values.shape[-1]
    weight = scaled(write.rows).unsqueeze(-1)
    new_columns = write.columns.cells.unsqueeze(-2).expand(*weight.shape[:-1], -1)
    new_values = weight * scaled(write.columns).unsqueeze(-2)
    same = columns.unsqueeze(-1) == new_columns.unsqueeze(-2)  # (B, Hw, k, K, k)
    kept = (1 - weight - _at_columns(write.weights, columns)) * values
    kept = kept + (same * new_values.unsqueeze(-2)).sum(-1)

    all_values = torch.cat([kept, new_values], dim=-1)
    all_columns = torch.cat([columns, new_columns.to(columns.dtype)], dim=-1)
    out = torch.cat([columns < 0, same.any(-2)], dim=-1)
    out = out | (all_columns == write.rows.cells.unsqueeze(-1))
    if threshold:
        out = out | (all_values < threshold)
    all_values, all_columns = _in_order(
        all_values.masked_fill(out, 0), all_columns.masked_fill(out, -1)
    )
    lowest = torch.finfo(values.dtype).min
    size = all_values.detach().masked_fill(all_columns < 0, lowest)
    chosen = stable_order(size, descending=True)[..., :fan_out].sort(-1).values
    return _in_order(all_values.gather(-1, chosen), all_columns.gather(-1, chosen))


def sparse_products(link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v for vectors (B, R, N), each (B, Hw, R, N).

    For the previous read weightings, these are the forward and backward weightings.
    """
    products = [_products(link, vector) for vector in vectors.unbind(1)]
    ahead, behind = zip(*products, strict=True)
    return torch.stack(ahead, dim=2), torch.stack(behind, dim=2)


def _products(link: SparseLink, vector: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v for a vector (B, N), each (B, Hw, N)."""
    vector = vector.unsqueeze(1).expand(link.values.shape[:-1])
    ahead = (link.values * _at_columns(vector, link.columns)).sum(-1)
    index = link.columns.clamp(min=0).long().flatten(-2)
    parts = (link.values * vector.unsqueeze(-1)).flatten(-2)
    return ahead, torch.zeros_like(vector).scatter_add(-1, index, parts)


def touched_rows(link: SparseLink, write: LinkWrite, threshold: float | None = None) -> Tensor:
    """(n, 3) int64: batch element, write head and row of each row that a step may change.

    These are the written rows, those with an entry in a written column, and those of a user's
    link with an entry below the threshold.
    """
    threshold = 1 / link.values.shape[-1] if threshold is None else threshold
    marked = torch.zeros_like(write.weights, dtype=torch.bool).scatter(-1, write.rows.cells, True)
    changed = _at_columns(marked, link.columns)
    if threshold:
        changed = changed | (link.values < threshold)
    return (marked | (changed & (link.columns >= 0)).any(-1)).nonzero()


def update_sparse_link_backward(
    d_rows: Tensor, before: SparseLink, after: SparseLink, rows: Tensor, write: LinkWrite
) -> tuple[Tensor, Tensor, Tensor]:
    """Hand-derived gradients of `update_sparse_link` on the rows that a step touched.

    With G the gradient of L_t at an entry that both steps have or that is new:

        dL_{t-1} = (1 - w_i - w_j) G;  dw_i += sum_j G (p_j - L_{t-1});  dw_j -= G L_{t-1}
        dp_j += w_i G

    Args:
        d_rows: (n, K), gradient of the values of those rows after the step.
        before, after: those rows, values and columns (n, K) each.
        rows: (n, 3), see `touched_rows`.
        write: what the step wrote.

    Returns:
        gradients of the rows' values before the step (n, K), and of the whole weightings whose
        entries `write` kept: the write weightings and the precedence, each (B, Hw, N).
    """
    d_written, d_precedence = torch.zeros_like(write.weights), torch.zeros_like(write.weights)
    N = write.weights.shape[-1]
    precedence = write.columns.spread(N)
    place = rows[:, 0] * write.weights.shape[1] + rows[:, 1]
    own = place * N + rows[:, 2]
    old, new = (
        place.unsqueeze(-1) * N + link.columns.clamp(min=0).long() for link in (before, after)
    )
    weight = write.weights.flatten()[own].unsqueeze(-1)
    same = before.columns.unsqueeze(-1) == after.columns.unsqueeze(-2)
    same = same & (before.columns >= 0).unsqueeze(-1)
    carried = (same * d_rows.unsqueeze(-2)).sum(-1)  # G of the entries before
    d_before = (1 - weight - write.weights.flatten()[old]) * carried
    pulled = carried * before.values
    gained = (d_rows * precedence.flatten()[new] * (after.columns >= 0)).sum(-1) - pulled.sum(-1)
    _add_at(d_written, own, gained)
    _add_at(d_written, old, -pulled)
    _add_at(d_precedence, new, weight * d_rows * (after.columns >= 0))
    return d_before, d_written, d_precedence


def _add_at(out: Tensor, index: Tensor, values: Tensor) -> None:
    """out.view(-1)[index] += values, in a fixed order on every device."""
    flat, index, values = out.view(-1), index.flatten(), values.flatten()
    if out.device.type == "cpu":
        flat.index_add_(0, index, values)
    else:  # index_add_ is atomic there, this sorts
        flat.index_put_((index,), values, accumulate=True)


def link_write_backward(
    d_written: Tensor, d_precedence: Tensor, write: LinkWrite, unit_sums: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradients of `link_write`: of precedence and write_weights, each (B, Hw, N).

    Args:
        d_written, d_precedence: (B, Hw, N), gradients of the weightings whose entries it kept.
        write, unit_sums: its result and its argument.
    """
    N = d_written.shape[-1]
    d_columns = d_precedence.gather(-1, write.columns.cells)
    d_rows = d_written.gather(-1, write.rows.cells)
    return (
        keep_largest_backward(d_columns, write.columns, N, unit_sums),
        keep_largest_backward(d_rows, write.rows, N, unit_sums),
    )


def sparse_products_backward(
    d_ahead: Tensor, d_behind: Tensor, link: SparseLink, read_weights: Tensor
) -> Tensor:
    """Gradient of `sparse_products` with respect to the link's values, (B, Hw, N, K).

    dL_ij = sum_r dfwd_r[i] wr_r[j] + wr_r[i] dbwd_r[j], if there is an entry; that of the read
    weightings is L^T dfwd + L dbwd, see `sparse_products`.

    Args:
        d_ahead, d_behind: (B, R, Hw, N).
        link, read_weights: the function's arguments.
    """
    d_values = torch.zeros_like(link.values)
    for r in range(read_weights.shape[1]):
        last = read_weights[:, r].unsqueeze(1).expand(d_values.shape[:-1])
        d_values += d_ahead[:, r].unsqueeze(-1) * _at_columns(last, link.columns)
        d_values += last.unsqueeze(-1) * _at_columns(d_behind[:, r], link.columns)
    return d_values.masked_fill_(link.columns < 0, 0)


class SparseRun(LinkRun):
    """A sparse link in plain torch, updated in place; it keeps the old rows that each step changes.

    A backend overrides the passes over the link, from `keep_largest` on.
    """

    def __init__(self, link: SparseLink, options: StepOptions, steps: int, keep: bool) -> None:
        super().__init__(link, options, steps, keep)
        self._link = SparseLink(*(_clone(tensor.detach()) for tensor in link))
        self._done: list[tuple[Kept, Kept, Tensor, SparseLink]] = []
        self._d_values = torch.empty(0, device=link.values.device)

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        link = self._active(step)
        fan_out, unit_sums = link.values.shape[-1], self.options.link_unit_sums
        write = link_write(step.precedence0, step.write1, fan_out, unit_sums, self.keep_largest)
        threshold = self.options.link_threshold
        changed = self.update(link, write, 1 / fan_out if threshold is None else threshold)
        if self.keep:
            self._done.append((write.rows, write.columns, *changed))  # the rest has N numbers
        return self.products(link, step.read0)

    def final(self, matrix: Tensor) -> SparseLink:
        return SparseLink(*map(_clone, self._link)) if self.keep else self._link

    def begin_backward(self, d_final: list[Tensor | None]) -> None:
        given = d_final[0]
        self._d_values = torch.zeros_like(self._link.values) if given is None else _clone(given)
        self._d_values.masked_fill_(self._link.columns < 0, 0)

    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients:
        link, d_values = self._active(step), self._d_values[: len(step.read0)]
        x, y = self.products(link, d_read)
        self.add_gradient(d_values, link, d_read, step.read0, modes_ahead, modes_behind)
        kept_rows, columns, rows, before = self._done.pop()
        write = LinkWrite(kept_rows, columns, kept_rows.spread(step.write1.shape[-1]))
        places = tuple(rows.T)
        d_before, d_written, d_precedence = update_sparse_link_backward(
            d_values[places], before, link.at(rows), rows, write
        )
        d_values[places] = d_before
        for tensor, old in zip(link, before, strict=True):
            tensor[places] = old
        d_precedence, d_write = link_write_backward(
            d_written, d_precedence, write, self.options.link_unit_sums
        )
        return LinkGradients(x, y, d_write, d_precedence)

    def gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        return [self._d_values, None]

    def _active(self, step: Step) -> SparseLink:
        """The link, for the sequences in a step."""
        return SparseLink(*(tensor[: len(step.read0)] for tensor in self._link))

    keep_largest = staticmethod(selection.keep_largest)

    def update(
        self, link: SparseLink, write: LinkWrite, threshold: float
    ) -> tuple[Tensor, SparseLink]:
        """Update a link from step t - 1 to step t, in place.

        Returns:
            the rows that may have changed (n, 3), and their old values and columns, (n, K) each.
        """
        rows = touched_rows(link, write, threshold)
        before = link.at(rows)
        for tensor, new in zip(link, update_sparse_link(link, write, threshold), strict=True):
            tensor.copy_(new)
        return rows, before

    def products(self, link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """L_t v and L_t^T v for vectors (B, R, N), each (B, Hw, R, N)."""
        return sparse_products(link, vectors)

    def add_gradient(
        self,
        d_values: Tensor,
        link: SparseLink,
        d_read: Tensor,
        last: Tensor,
        modes_ahead: Tensor,
        modes_behind: Tensor,
    ) -> None:
        """Add the gradients of both directional weightings to d_values (B, Hw, N, K).

        d_read is the gradient of step t's read weightings, last are those of step t - 1, each
        (B, R, N); modes_ahead and modes_behind (B, R, Hw).
        """
        d_read = d_read.unsqueeze(2)
        d_ahead, d_behind = modes_ahead.unsqueeze(-1) * d_read, modes_behind.unsqueeze(-1) * d_read
        d_values += sparse_products_backward(d_ahead, d_behind, link, last)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


class SparseLinkage(Linkage):
    """K entries of each row of the link matrix, a `SparseLink`."""

    name = "sparse"
    link_type = SparseLink
    run_type = SparseRun
    integers = ("link.columns",)

    def empty(self, sizes: LinkSizes, dtype: torch.dtype, device: Any) -> SparseLink:
        B, Hw, N, K = sizes
        values = torch.zeros(B, Hw, N, K, dtype=dtype, device=device)
        return SparseLink(values, torch.full(values.shape, -1, dtype=torch.int32, device=device))

    def shapes(self, link: SparseLink, sizes: LinkSizes) -> dict[str, tuple[int, ...]]:
        B, Hw, N, K = sizes
        shape = (B, Hw, N, K or (link.values.shape[-1] if link.values.dim() == 4 else 0))
        return {"link.values": shape, "link.columns": shape}

    def check(self, link: SparseLink, num_cells: int) -> None:
        """Raise if columns are not cells, or not in increasing order with the empty places last.

        On a CPU only: elsewhere the check would have to wait for the device.
        """
        columns = link.columns
        if columns.device.type != "cpu" or is_traced() or not columns.numel():
            return
        lowest, highest = columns.aminmax()
        if lowest < -1 or highest >= num_cells:
            raise ValueError(
                f"state.link.columns must be cells from 0 to {num_cells - 1}, or -1 in empty "
                f"places, got {int(lowest)} to {int(highest)}"
            )
        left, right = columns[..., :-1], columns[..., 1:]
        if ((right >= 0) & ((right <= left) | (left < 0))).any():
            raise ValueError(
                "state.link.columns must increase along each row, each cell once, -1 last; "
                "SparseLink.from_dense makes such rows"
            )

    def step(
        self,
        link: SparseLink,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[SparseLink, Tensor, Tensor]:
        fan_out = link.values.shape[-1]
        write = link_write(precedence, write_weights, fan_out, options.link_unit_sums)
        link = update_sparse_link(link, write, options.link_threshold)
        ahead, behind = sparse_products(link, read_weights)
        return link, ahead.transpose(1, 2), behind.transpose(1, 2)

    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        """Values and columns before the first step, after the last and in the backward pass.

        The rows that a step changes need about four more arrays, and the gradient one.
        """
        B, Hw, N, K = sizes
        entries = B * Hw * N * K * (3 * (budget.itemsize + 4) + 5 * budget.itemsize)
        return entries + budget.in_passing(sizes)
