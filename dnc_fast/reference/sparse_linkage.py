"""Temporal memory linkage in O(N K): each row of the link matrix keeps K entries.

After Graves et al. 2016, Methods ("Sparse link matrix"). A step writes with the K largest entries
of the write weighting and of the precedence, each scaled to the sum of the whole (`keep_largest`);
then entries below a threshold are dropped, and of more than K in a row the K largest are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..links import SparseLink
from .selection import Kept, keep_largest, keep_largest_backward


class Entry(NamedTuple):
    """What a step writes to the link matrices.

    | field  | shape      | what                                                  |
    |--------|------------|-------------------------------------------------------|
    | rows   | (B, Hw, k) | the kept entries of the write weightings              |
    | columns| (B, Hw, k) | the kept entries of the precedence of the step before |
    | written| (B, Hw, N) | the rows' values, zero elsewhere                      |
    """

    rows: Kept
    columns: Kept
    written: Tensor


def link_entry(
    precedence: Tensor,
    write_weights: Tensor,
    fan_out: int,
    unit_sums: bool = False,
    keep: Callable[[Tensor, int, bool], Kept] = keep_largest,
) -> Entry:
    """What a step writes; both weightings (B, Hw, N). `keep` does what `keep_largest` does."""
    rows = keep(write_weights, fan_out, unit_sums)
    columns = keep(precedence, fan_out, unit_sums)
    return Entry(rows, columns, rows.spread(write_weights.shape[-1]))


def update_sparse_link(
    link: SparseLink, entry: Entry, threshold: float | None = None
) -> SparseLink:
    """L_t[i, j] = (1 - w_i - w_j) L_{t-1}[i, j] + w_i p[j], of the entries that are kept.

    Args:
        link: of the step before.
        entry: what the step writes, w and p.
        threshold: entries below it are dropped; None for 1 / K; 0 drops none.

    Returns:
        the link of this step.
    """
    fan_out = link.values.shape[-1]
    threshold = 1 / fan_out if threshold is None else threshold
    values = (1 - _at_columns(entry.written, link.columns)) * link.values
    dropped = (link.columns < 0) | ((values < threshold) if threshold else False)
    link_columns = link.columns.masked_fill(dropped, -1)
    values, link_columns = _in_order(values.masked_fill(dropped, 0), link_columns)

    index = entry.rows.cells.unsqueeze(-1).expand(*entry.rows.cells.shape, fan_out)
    row_values, row_columns = _written_rows(
        link.values.gather(-2, index), link.columns.gather(-2, index), entry, threshold
    )
    return SparseLink(
        values.scatter(-2, index, row_values), link_columns.scatter(-2, index, row_columns)
    )


def _at_columns(vector: Tensor, columns: Tensor) -> Tensor:
    """vector (B, Hw, N) at columns (B, Hw, n, K); at cell 0 where there is no entry."""
    index = columns.clamp(min=0).long()
    return vector.gather(-1, index.flatten(-2)).view(columns.shape)


def _in_order(values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Entries (..., K) in rising order of their columns, empty places last."""
    end = torch.iinfo(columns.dtype).max
    order = columns.masked_fill(columns < 0, end).argsort(dim=-1, stable=True)
    return values.gather(-1, order), columns.gather(-1, order)


def _written_rows(
    values: Tensor, columns: Tensor, entry: Entry, threshold: float
) -> tuple[Tensor, Tensor]:
    """The rows of entry.rows after the step, from their entries (B, Hw, k, K) before it."""
    fan_out = values.shape[-1]
    weight = entry.rows.values.unsqueeze(-1)
    new_columns = entry.columns.cells.unsqueeze(-2).expand(*weight.shape[:-1], -1)
    new_values = weight * entry.columns.values.unsqueeze(-2)
    same = columns.unsqueeze(-1) == new_columns.unsqueeze(-2)  # (B, Hw, k, K, k)
    kept = (1 - weight - _at_columns(entry.written, columns)) * values
    kept = kept + (same * new_values.unsqueeze(-2)).sum(-1)

    all_values = torch.cat([kept, new_values], dim=-1)
    all_columns = torch.cat([columns, new_columns.to(columns.dtype)], dim=-1)
    out = torch.cat([columns < 0, same.any(-2)], dim=-1)
    out = out | (all_columns == entry.rows.cells.unsqueeze(-1))
    if threshold:
        out = out | (all_values < threshold)
    all_values, all_columns = _in_order(
        all_values.masked_fill(out, 0), all_columns.masked_fill(out, -1)
    )
    lowest = torch.finfo(values.dtype).min
    size = all_values.detach().masked_fill(all_columns < 0, lowest)
    chosen = size.argsort(dim=-1, descending=True, stable=True)[..., :fan_out].sort(-1).values
    return _in_order(all_values.gather(-1, chosen), all_columns.gather(-1, chosen))


def sparse_directional_weightings(link: SparseLink, read_weights: Tensor) -> tuple[Tensor, Tensor]:
    """forward_r = L_t wr_{t-1,r};  backward_r = L_t^T wr_{t-1,r}.

    Args:
        link: of this step.
        read_weights: (B, R, N), of the step before.

    Returns:
        forward and backward weightings, each (B, R, Hw, N).
    """
    ahead, behind = sparse_products(link, read_weights)
    return ahead.transpose(1, 2), behind.transpose(1, 2)


def sparse_products(link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """L_t v and L_t^T v of vectors (B, R, N), each (B, Hw, R, N)."""
    products = [_products(link, vector) for vector in vectors.unbind(1)]
    ahead, behind = zip(*products, strict=True)
    return torch.stack(ahead, dim=2), torch.stack(behind, dim=2)


def _products(link: SparseLink, vector: Tensor) -> tuple[Tensor, Tensor]:
    """L v and L^T v of a vector (B, N), each (B, Hw, N)."""
    vector = vector.unsqueeze(1).expand(link.values.shape[:-1])
    ahead = (link.values * _at_columns(vector, link.columns)).sum(-1)
    index = link.columns.clamp(min=0).long().flatten(-2)
    parts = (link.values * vector.unsqueeze(-1)).flatten(-2)
    return ahead, torch.zeros_like(vector).scatter_add(-1, index, parts)


def touched_rows(link: SparseLink, entry: Entry, threshold: float | None = None) -> Tensor:
    """(n, 3) int64: batch element, write head and row of what a step may change.

    That are the rows written, those with an entry in a column written, and those of a given link
    with an entry below the threshold.
    """
    threshold = 1 / link.values.shape[-1] if threshold is None else threshold
    marked = torch.zeros_like(entry.written, dtype=torch.bool).scatter(-1, entry.rows.cells, True)
    changed = _at_columns(marked, link.columns)
    if threshold:
        changed = changed | (link.values < threshold)
    return (marked | (changed & (link.columns >= 0)).any(-1)).nonzero()


def update_sparse_link_backward(
    d_rows: Tensor, before: SparseLink, after: SparseLink, rows: Tensor, entry: Entry
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `update_sparse_link` on the rows that a step touched, derived by hand.

    With G the gradient of L_t at an entry that both steps have, or that was new:

        dL_{t-1} = (1 - w_i - w_j) G;  dw_i += sum_j G (p_j - L_{t-1});  dw_j -= G L_{t-1}
        dp_j += w_i G

    Args:
        d_rows: (n, K), gradient of the values of those rows after the step.
        before, after: those rows, values and columns (n, K) each.
        rows: (n, 3), see `touched_rows`.
        entry: what the step wrote.

    Returns:
        gradients of the rows' values before the step (n, K), of the whole weightings that `entry`
        kept entries of: at the written cells, at the columns, each (B, Hw, N).
    """
    d_written, d_precedence = torch.zeros_like(entry.written), torch.zeros_like(entry.written)
    N = entry.written.shape[-1]
    precedence = entry.columns.spread(N)
    place = rows[:, 0] * entry.written.shape[1] + rows[:, 1]
    own = place * N + rows[:, 2]
    old, new = (
        place.unsqueeze(-1) * N + link.columns.clamp(min=0).long() for link in (before, after)
    )
    weight = entry.written.flatten()[own].unsqueeze(-1)
    same = before.columns.unsqueeze(-1) == after.columns.unsqueeze(-2)
    same = same & (before.columns >= 0).unsqueeze(-1)
    carried = (same * d_rows.unsqueeze(-2)).sum(-1)  # G of the entries before
    d_before = (1 - weight - entry.written.flatten()[old]) * carried
    pulled = carried * before.values
    gained = (d_rows * precedence.flatten()[new] * (after.columns >= 0)).sum(-1) - pulled.sum(-1)
    _add_at(d_written, own, gained)
    _add_at(d_written, old, -pulled)
    _add_at(d_precedence, new, weight * d_rows * (after.columns >= 0))
    return d_before, d_written, d_precedence


def _add_at(out: Tensor, index: Tensor, values: Tensor) -> None:
    """out.view(-1)[index] += values, in the same order every time on every device."""
    flat, index, values = out.view(-1), index.flatten(), values.flatten()
    if out.device.type == "cpu":
        flat.index_add_(0, index, values)
    else:  # where index_add_ is atomic, this sorts
        flat.index_put_((index,), values, accumulate=True)


def link_entry_backward(
    d_written: Tensor, d_precedence: Tensor, entry: Entry, unit_sums: bool = False
) -> tuple[Tensor, Tensor]:
    """Gradients of `link_entry`: of precedence and write_weights, each (B, Hw, N).

    Args:
        d_written, d_precedence: (B, Hw, N), gradients of the weightings that it kept entries of.
        entry, unit_sums: what it returned, and was given.
    """
    N = d_written.shape[-1]
    d_columns = d_precedence.gather(-1, entry.columns.cells)
    d_rows = d_written.gather(-1, entry.rows.cells)
    return (
        keep_largest_backward(d_columns, entry.columns, N, unit_sums),
        keep_largest_backward(d_rows, entry.rows, N, unit_sums),
    )


def sparse_directional_weightings_backward(
    d_ahead: Tensor, d_behind: Tensor, link: SparseLink, read_weights: Tensor
) -> Tensor:
    """Gradient of `sparse_directional_weightings` of the link's values, (B, Hw, N, K).

    dL_ij = sum_r dfwd_r[i] wr_r[j] + wr_r[i] dbwd_r[j], where there is an entry; that of the read
    weightings is L^T dfwd + L dbwd, see `sparse_products`.

    Args:
        d_ahead, d_behind: (B, R, Hw, N).
        link, read_weights: what the function was given.
    """
    d_values = torch.zeros_like(link.values)
    for r in range(read_weights.shape[1]):
        last = read_weights[:, r].unsqueeze(1).expand(d_values.shape[:-1])
        d_values += d_ahead[:, r].unsqueeze(-1) * _at_columns(last, link.columns)
        d_values += last.unsqueeze(-1) * _at_columns(d_behind[:, r], link.columns)
    return d_values.masked_fill_(link.columns < 0, 0)
