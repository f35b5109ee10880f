"""A memory in pieces: each of P processes holds N / P cells, and their rows of the link matrix.

torchrun --nproc-per-node 2 examples/sharded_memory.py          a few seconds on a CPU

A prototype in plain PyTorch, with gradients by autograd, for the dense and the sparse linkage. What
the processes, called ranks, send each other at each step is in docs/distributed.md. It prints that,
and how far outputs and gradients are from those of the whole memory in one process.
"""

import argparse
import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dnc_fast import MemoryState, memory_step
from dnc_fast.interface import Interface, interface_size, parse_interface
from dnc_fast.linkages import SparseLink
from dnc_fast.linkages.sparse import LinkWrite, link_write, update_sparse_link
from dnc_fast.reference import (
    SIMILARITY_FUNCTIONS,
    read_memory,
    read_weighting,
    retention,
    update_precedence,
    update_usage,
    write_memory,
    write_weighting,
)
from dnc_fast.step_options import PAPER

sent: list[tuple[str, int]] = []
"""Each collective of a forward pass, and the numbers in it."""


# Collectives with gradients. A gradient is that of the sum of what all ranks calculate.


class _Gather(torch.autograd.Function):
    """From each rank's cells (..., n) to all cells (..., N)."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return _gather(own)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _scatter_sum(gradient)


class _ScatterSum(torch.autograd.Function):
    """From all cells (..., N) on each rank to the sum over ranks for a rank's cells (..., n)."""

    @staticmethod
    def forward(ctx: Any, all_cells: Tensor) -> Tensor:
        return _scatter_sum(all_cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _gather(gradient)


class _Sum(torch.autograd.Function):
    """The sum over ranks, on all of them."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def _gather(own: Tensor) -> Tensor:
    shares = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(shares, own.contiguous())
    return torch.cat(shares, dim=-1)


def _scatter_sum(all_cells: Tensor) -> Tensor:
    total = all_cells.contiguous().clone()
    dist.all_reduce(total)  # a reduce-scatter would do, but not every backend has one
    return total[..., own_cells(total.shape[-1])]


def noted(how: Any, what: str, tensor: Tensor) -> Tensor:
    """The result of a collective, which is noted in `sent`."""
    result = how.apply(tensor)
    sent.append((what, max(tensor.numel(), result.numel())))
    return result


# The memory step


def count() -> int:
    return dist.get_world_size()


def own_cells(num_cells: int) -> slice:
    """The cells that this rank holds."""
    size, rest = divmod(num_cells, count())
    if rest:
        raise ValueError(f"num_cells must be a multiple of the {count()} ranks, got {num_cells}")
    return slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)


def sharded(state: MemoryState) -> MemoryState:
    """What this rank holds of a state: rows of memory and link, and all of each weighting."""
    own = own_cells(state.usage.shape[-1])
    link = state.link
    rows = (
        SparseLink(*(part[:, :, own] for part in link))
        if isinstance(link, SparseLink)
        else link[:, :, own]
    )
    return state._replace(memory=state.memory[:, own], link=rows)


def sharded_step(interface: Interface, state: MemoryState) -> tuple[Tensor, MemoryState]:
    """`dnc_fast.memory_step`, the paper's, of a memory whose rows are sharded.

    Vectors of N numbers (usage, precedence, weightings) are on all ranks; each calculates them by
    itself from weightings that are gathered. n = N / P.

    Args:
        interface: of this step, activated; the same on all ranks.
        state: memory (B, n, W) and link, (B, Hw, n, N) or its sparse rows, of this rank's cells.

    Returns:
        read vectors (B, R, W), the same on all ranks, and the state after the step.
    """
    own = own_cells(state.usage.shape[-1])
    psi = retention(interface.free_gates, state.read_weights)
    usage = update_usage(state.usage, state.write_weights, psi)

    logits = _logits(interface.write_keys, interface.write_strengths, state.memory)
    content = noted(_Gather, "write content: B Hw N", logits).softmax(-1)
    write_weights, _ = write_weighting(interface, usage, content, PAPER)
    memory = write_memory(
        state.memory, write_weights[..., own], interface.erase_vectors, interface.write_vectors
    )

    link, forward, backward = _link_step(state, write_weights)
    backward = noted(_ScatterSum, "backward weightings: B R Hw N", backward)
    precedence = update_precedence(state.precedence, write_weights)

    logits = _logits(interface.read_keys, interface.read_strengths, memory)
    sums = noted(_Gather, "sums of read content: B R P", logits.logsumexp(-1, keepdim=True))
    content = (logits - sums.logsumexp(-1, keepdim=True)).exp()
    read = read_weighting(interface.read_modes, backward, content, forward)
    read_vectors = noted(_Sum, "read vectors: B R W", read_memory(memory, read))
    read_weights = noted(_Gather, "read weightings: B R N", read)
    return read_vectors, MemoryState(memory, usage, precedence, link, write_weights, read_weights)


def _logits(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    return strengths.unsqueeze(-1) * SIMILARITY_FUNCTIONS["cosine"].forward(keys, memory, None)[0]


def _link_step(state: MemoryState, write_weights: Tensor) -> tuple[Any, Tensor, Tensor]:
    """This rank's rows of the link, and what they give of the directional weightings.

    Returns:
        link, forward weightings of the rank's cells (B, R, Hw, n), and the rank's part of the
        backward weightings of all cells (B, R, Hw, N).
    """
    step = _sparse_link_step if isinstance(state.link, SparseLink) else _dense_link_step
    return step(state, write_weights, own_cells(write_weights.shape[-1]))


def _dense_link_step(
    state: MemoryState, write_weights: Tensor, own: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """L_t[i, j] = (1 - ww_i - ww_j) L_{t-1}[i, j] + ww_i p_{t-1}[j] for this rank's i and all j."""
    row, column = write_weights[..., own].unsqueeze(-1), write_weights.unsqueeze(-2)
    link = (1 - row - column) * state.link + row * state.precedence.unsqueeze(-2)
    link = link.masked_fill(torch.eye(column.shape[-1], dtype=torch.bool)[own], 0)
    last = state.read_weights.unsqueeze(1)
    forward, backward = last @ link.mT, last[..., own] @ link
    return link, forward.transpose(1, 2), backward.transpose(1, 2)


def _sparse_link_step(
    state: MemoryState, write_weights: Tensor, own: slice
) -> tuple[SparseLink, Tensor, Tensor]:
    """The same with K entries in each row.

    `update_sparse_link` takes row i of a link for cell i. So cells are counted from the rank's
    first one, and past the last from cell 0 on; what is written to the rows of other ranks goes
    to one more row, which is dropped.
    """
    n, fan_out = state.link.values.shape[-2:]
    N = write_weights.shape[-1]
    write = link_write(state.precedence, write_weights, fan_out)
    write = LinkWrite(
        write.rows._replace(cells=((write.rows.cells - own.start) % N).clamp(max=n)),
        write.columns._replace(cells=(write.columns.cells - own.start) % N),
        write.weights.roll(-own.start, -1),
    )
    more = (0, 0, 0, 1)
    columns = _shifted(state.link.columns, -own.start, N)
    link = SparseLink(F.pad(state.link.values, more), F.pad(columns, more, value=-1))
    values, columns = (part[..., :n, :] for part in update_sparse_link(link, write))
    columns = _shifted(columns, own.start, N)

    last = state.read_weights.unsqueeze(2)  # (B, R, 1, N)
    index = columns.clamp(min=0).long().flatten(-2).unsqueeze(1)
    index = index.expand(-1, last.shape[1], -1, -1)  # (B, R, Hw, n K)
    there = last.expand(*index.shape[:-1], N).gather(-1, index).unflatten(-1, (n, fan_out))
    forward = (values.unsqueeze(1) * there).sum(-1)
    parts = (values.unsqueeze(1) * last[..., own].unsqueeze(-1)).flatten(-2)
    backward = parts.new_zeros(*index.shape[:-1], N).scatter_add(-1, index, parts)
    return SparseLink(values, columns), forward, backward


def _shifted(columns: Tensor, by: int, num_cells: int) -> Tensor:
    """Columns whose cells are counted from another one; -1 stays."""
    return torch.where(columns < 0, columns, (columns + by) % num_cells)


# A demonstration


def compare(num_cells: int, steps: int, linkage: str) -> tuple[float, float]:
    """The largest differences from one process: of read vectors, of gradients of the interface."""
    B, N, W, R = 2, num_cells, 8, 2
    torch.manual_seed(0)  # so that all ranks draw the same
    vectors = torch.randn(steps, B, interface_size(W, R), dtype=torch.float64)
    start = MemoryState.zeros(B, N, W, R, linkage=linkage, dtype=torch.float64)
    start = start._replace(memory=torch.randn_like(start.memory))

    whole, state, expected = vectors.clone().requires_grad_(), start, []
    for vector in whole:
        read, state = memory_step(vector, state, backend="reference")
        expected.append(read)
    torch.stack(expected).square().sum().backward()

    part, state, found = vectors.clone().requires_grad_(), sharded(start), []
    for vector in part:
        read, state = sharded_step(parse_interface(vector, W, R), state)
        found.append(read)
    # All ranks calculate this loss, and gradients are those of the sum over ranks.
    (torch.stack(found).square().sum() / count()).backward()
    gradient = part.grad
    dist.all_reduce(gradient)  # each rank has the part of it that went through its cells
    differences = torch.stack(found) - torch.stack(expected), gradient - whole.grad
    return tuple(difference.abs().max().item() for difference in differences)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    for linkage in ("dense", "sparse"):
        sent.clear()
        outputs, gradients = compare(options.cells, options.steps, linkage)
        if dist.get_rank() == 0:
            print(f"{linkage}: off by {outputs:.1g}, gradients by {gradients:.1g}; at each step")
            for what, numbers in sent[: len(sent) // options.steps]:
                print(f"  {numbers:6,} numbers, {what}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
