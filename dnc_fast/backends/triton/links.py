"""Link runs with the Triton kernels. Everything here gives the same bits every time."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.arrays import Step
from ...kernels.gpu import launch, linkage, separable_linkage, sparse_linkage
from ...kernels.gpu import selection as kernels
from ...linkages import LinkGradients, selection
from ...linkages.dense import DenseRun
from ...linkages.selection import Kept
from ...linkages.separable import SeparableLink, SeparableRun
from ...linkages.sparse import LinkWrite, SparseLink, SparseRun


def keep_largest(weights: Tensor, count: int, unit_sums: bool = False) -> Kept:
    """See `selection.keep_largest`, used for float64: that fits into no word with an index."""
    if weights.dtype == torch.float64:
        return selection.keep_largest(weights, count, unit_sums)
    cells = kernels.largest_cells(weights.flatten(0, -2), count).unflatten(0, weights.shape[:-1])
    total = weights.sum(-1, keepdim=True)
    return Kept(cells, weights.gather(-1, cells), torch.ones_like(total) if unit_sums else total)


class TritonDenseRun(DenseRun):
    """The link pass of the fused step's kernels, alone."""

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        rows, columns = _partial_sums(step, 0, 0)
        linkage.launch_pass(*_given(step), step.link1, step.precedence1, rows, columns)
        return rows.sum(2), columns.sum(2)

    def rebuild(self, step: Step) -> None:
        linkage.launch_pass(*_given(step), step.link1)

    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients:
        rows, columns = _partial_sums(step, 1, 2)
        none, d_read = torch.zeros_like(modes_ahead[..., :1]), d_read.contiguous()
        modes = torch.cat([modes_behind, none, modes_ahead], dim=-1)
        linkage.launch_pass_backward(*_given(step), d_link, d_read, d_read, modes, rows, columns)
        *x, row_sums = rows.sum(2).unbind(2)
        *y, column_sums, d_precedence = columns.sum(2).unbind(2)
        return LinkGradients(
            torch.stack(x, 2), torch.stack(y, 2), row_sums - column_sums, d_precedence
        )


def _given(step: Step) -> tuple[Tensor, ...]:
    """The first arguments of both passes."""
    return step.write1, step.precedence0, step.read0, step.link0


def _partial_sums(step: Step, more_rows: int, more_columns: int) -> tuple[Tensor, Tensor]:
    """Buffers for the sums of R read heads and a few more, by chunk and by strip."""
    (B, Hw, N), R = step.write1.shape, step.read0.shape[1]
    sizes = linkage.tiling(N, step.write1.dtype)
    return (
        launch.new_like(step.link0, B, Hw, sizes["CHUNKS"], R + more_rows, N),
        launch.new_like(step.link0, B, Hw, sizes["STRIPS"], R + more_columns, N),
    )


class TritonSparseRun(SparseRun):
    """A sparse link."""

    keep_largest = staticmethod(keep_largest)

    def update(
        self, link: SparseLink, write: LinkWrite, threshold: float
    ) -> tuple[Tensor, SparseLink]:
        """See `SparseRun`.

        The host waits for the device once, for the number of rows that change, which is the length
        of the result.
        """
        fan_out = link.values.shape[-1]
        if fan_out > sparse_linkage.MOST_ENTRIES:
            return super().update(link, write, threshold)
        marked = torch.zeros_like(write.weights, dtype=torch.int8).scatter_(-1, write.rows.cells, 1)
        written = sparse_linkage.Entry(
            write.weights,
            marked,
            write.columns.cells,
            write.columns.values,
            write.weights.new_full((1,), threshold) if threshold else None,
        )
        rows = sparse_linkage.touched(*link, written).nonzero().contiguous()
        return rows, SparseLink(*sparse_linkage.merge(rows, *link, written))

    def products(self, link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return sparse_linkage.products(*link, vectors)

    def add_gradient(
        self,
        d_values: Tensor,
        link: SparseLink,
        d_read: Tensor,
        last: Tensor,
        modes_ahead: Tensor,
        modes_behind: Tensor,
    ) -> None:
        sparse_linkage.add_backward(d_values, link.columns, d_read, last, modes_ahead, modes_behind)


class TritonSeparableRun(SeparableRun):
    """A separable link."""

    def products(self, link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return separable_linkage.products(*link, vectors)

    def products_backward(
        self, d_ahead: Tensor, d_behind: Tensor, link: SeparableLink, read_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        ways = d_ahead.transpose(1, 2), d_behind.transpose(1, 2)
        return separable_linkage.products_backward(*ways, *link, read_weights)
