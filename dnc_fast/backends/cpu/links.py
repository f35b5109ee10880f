"""Link runs with the compiled kernels, shared among threads by strips of cells.

The strips are fixed, so that results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.arrays import Adjoint, Choices, Step
from ...kernels.cpu import separable_linkage, sparse_linkage
from ...kernels.cpu import step as kernels
from ...linkages import LinkGradients
from ...linkages.dense import DenseRun
from ...linkages.separable import SeparableLink, SeparableRun
from ...linkages.sparse import LinkWrite, SparseLink, SparseRun
from . import selection
from .arrays import array, arrays, run_strips
from .thread_team import ranges_of, run_ranges


class CpuDenseRun(DenseRun):
    """The link stage of the fused step's kernels, alone."""

    def forward(self, step: Step) -> tuple[Tensor, Tensor]:
        scratch = self._run(kernels.forward, step, (), None, Choices())
        return torch.from_numpy(scratch.rows), torch.from_numpy(scratch.columns.sum(1))

    def rebuild(self, step: Step) -> None:
        self._run(kernels.rebuild, step, (), None)

    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients:
        modes, none = array(_modes(modes_ahead, modes_behind)), _nothing(step)
        adjoint = Adjoint(
            vector=none[..., 0],
            memory=none,
            usage=none[..., 0],
            precedence=none,
            link=array(d_link),
            write=none,
            read=arrays(d_read)[0],
        )
        scratch = self._run(kernels.backward, step, (adjoint,), None, Choices(), modes=modes)
        return LinkGradients(
            ahead=torch.from_numpy(scratch.rows),
            behind=torch.from_numpy(scratch.columns.sum(1)),
            write_weights=torch.from_numpy(scratch.row_sums - scratch.column_sums.sum(1)),
            precedence=torch.from_numpy(scratch.d_precedence.sum(1)),
        )

    def _run(
        self,
        kernel: Callable[..., None],
        step: Step,
        gradients: tuple[Adjoint, ...],
        *rest: Any,
        modes: np.ndarray | None = None,
    ) -> kernels.Scratch:
        """Run a kernel's link stage on all strips; returns its scratch arrays."""
        B, Hw, N = step.write1.shape
        none = _nothing(step)
        link = {
            name: arrays(getattr(step, name))[0]
            for name in ("precedence0", "link0", "link1", "write1", "read0")
        }
        others = dict.fromkeys(
            ("memory0", "memory1", "precedence1", "write0", "read1", "reads"), none
        )
        flat = dict.fromkeys(("vector", "usage0", "usage1"), none[..., 0])
        scratch = kernels.make_scratch(B, N, 0, step.read0.shape[1], Hw, none.dtype)
        if modes is not None:
            scratch.modes[:] = modes
        count = B * kernels.num_strips(N)
        step = Step(**link, **others, **flat)
        run_strips(count, partial(kernel, kernels.LINKS), step, *gradients, scratch, *rest)
        return scratch


def _nothing(step: Step) -> np.ndarray:
    """A placeholder for unused arrays of a step, (0, N, 1)."""
    return np.empty((0, step.write1.shape[-1], 1), array(step.write1).dtype)


class CpuSparseRun(SparseRun):
    """A sparse link; small operations stay in plain torch."""

    keep_largest = staticmethod(selection.keep_largest)

    def update(
        self, link: SparseLink, write: LinkWrite, threshold: float
    ) -> tuple[Tensor, SparseLink]:
        B, Hw, N, K = link.values.shape
        values, columns = (array(tensor).reshape(B * Hw, N, K) for tensor in link)
        marked = np.zeros((B * Hw, N), np.uint8)
        cells = array(write.rows.cells).reshape(B * Hw, -1)
        np.put_along_axis(marked, cells, np.uint8(sparse_linkage.WRITTEN), axis=1)
        least = values.dtype.type(threshold)
        count = B * Hw * sparse_linkage.num_strips(N)
        run_strips(count, sparse_linkage.touch, values, columns, marked, least)
        heads, rows = np.nonzero(marked)
        before = SparseLink(
            torch.from_numpy(values[heads, rows]), torch.from_numpy(columns[heads, rows])
        )
        run_strips(
            len(rows),
            sparse_linkage.update,
            *(heads, rows, values, columns, marked),
            array(write.weights).reshape(B * Hw, N),
            array(write.columns.cells).reshape(B * Hw, -1),
            array(write.columns.values.contiguous()).reshape(B * Hw, -1),
            least,
            np.empty((len(rows), 2 * K), values.dtype),
            np.empty((len(rows), 2 * K), columns.dtype),
        )
        return torch.from_numpy(np.stack([heads // Hw, heads % Hw, rows], axis=1)), before

    def products(self, link: SparseLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        B, Hw, N, K = link.values.shape
        R = vectors.shape[1]
        ahead, behind = (vectors.new_empty(B, Hw, R, N) for _ in range(2))
        run_strips(
            B * Hw * R,
            sparse_linkage.products,
            *(array(tensor).reshape(B * Hw, N, K) for tensor in link),
            *arrays(vectors),
            *(array(out).reshape(B * Hw, R, N) for out in (ahead, behind)),
        )
        return ahead, behind

    def add_gradient(
        self,
        d_values: Tensor,
        link: SparseLink,
        d_read: Tensor,
        last: Tensor,
        modes_ahead: Tensor,
        modes_behind: Tensor,
    ) -> None:
        B, Hw, N, K = d_values.shape
        run_strips(
            B * Hw * sparse_linkage.num_strips(N),
            sparse_linkage.gradient,
            array(link.columns).reshape(B * Hw, N, K),
            *arrays(d_read, last, _modes(modes_ahead, modes_behind).flatten(0, 1)),
            array(d_values).reshape(B * Hw, N, K),
        )


class CpuSeparableRun(SeparableRun):
    """A separable link."""

    def products(self, link: SeparableLink, vectors: Tensor) -> tuple[Tensor, Tensor]:
        history, (of,) = _history(link), arrays(vectors)
        _, B, Hw, N = history[0].shape
        count = B * Hw * separable_linkage.num_strips(N)
        left, diagonal = (np.empty((count, separable_linkage.STRIP), of.dtype) for _ in range(2))
        ahead, behind = (vectors.new_empty(B, Hw, vectors.shape[1], N) for _ in range(2))
        sums = _dots(history, of, left)
        run_strips(
            count,
            separable_linkage.combine,
            *(*history, of, sums, left, diagonal, array(ahead), array(behind)),
        )
        return ahead, behind

    def add_gradient(
        self,
        gradient: SeparableLink,
        link: SeparableLink,
        d_read: Tensor,
        last: Tensor,
        modes_ahead: Tensor,
        modes_behind: Tensor,
    ) -> None:
        history, (change, before) = _history(link), arrays(d_read, last)
        S, B, Hw, N = history[0].shape
        count = B * Hw * separable_linkage.num_strips(N)
        left = np.empty((count, separable_linkage.STRIP), change.dtype)
        sums, d_sums = (_dots(history, vectors, left) for vectors in (before, change))
        ranges = ranges_of(count, torch.get_num_threads())
        shape = (len(ranges), 4, separable_linkage.STRIP)
        found = [tensor.permute(2, 0, 1, 3) for tensor in gradient]
        whole = [tensor.contiguous() for tensor in found]
        run_ranges(
            ranges,
            separable_linkage.gradients,
            np.array([first for first, _ in ranges]),
            *(*history, change, before),
            *arrays(_modes(modes_ahead, modes_behind)),
            *(sums, d_sums),
            np.empty((len(ranges), S, separable_linkage.STRIP), change.dtype),
            np.empty(shape, change.dtype),
            *map(array, whole),
        )
        for tensor, result in zip(found, whole, strict=True):
            if result is not tensor:
                tensor.copy_(result)


def _modes(ahead: Tensor, behind: Tensor) -> Tensor:
    """(B, Hw, R, 2): read modes forward and backward."""
    return torch.stack([ahead, behind], dim=-1).transpose(1, 2)


def _history(link: SeparableLink) -> list[np.ndarray]:
    """The writes as (S, B, Hw, N), the run's own layout."""
    return arrays(*(tensor.permute(2, 0, 1, 3) for tensor in link))


def _dots(history: list[np.ndarray], vectors: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(B Hw, S, R, 2): C_s.v and A_s.v."""
    S, B, Hw, N = history[0].shape
    count = separable_linkage.num_strips(N)
    parts = np.empty((B * Hw * count, S, vectors.shape[1], 2), vectors.dtype)
    run_strips(B * Hw * count, separable_linkage.dots, *history, vectors, left, parts)
    return parts.reshape(B * Hw, count, *parts.shape[1:]).sum(1)
