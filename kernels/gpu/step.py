"""The whole memory step on a GPU: one program per batch element, or kernels over tiles of cells."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import Adjoint, Step
from ..interface import interface_offsets, interface_size
from . import launch, linkage, ops, small_step, tiled_step
from .allocation import Head, launch_products, launch_rank_backward


class Scratch(NamedTuple):
    """What the kernels of a tiled step store for each other, with T tiles."""

    products: Tensor  # (B, Hw, N), products of the u' before each cell
    allocation: Tensor  # (B, Hw, N), allocation weightings
    seen: Tensor  # (B, Hw, N), the usage that each head saw; usage1 for the first
    write_scores: Tensor  # (B, Hw, N), strength times similarity of the write keys
    write_parts: Tensor  # (B, Hw, 3, T), see `store_softmax_parts`
    read_scores: Tensor  # (B, R, N), likewise of the read keys
    read_parts: Tensor  # (B, R, 3, T)
    rows: Tensor  # flat, partial sums of the link pass
    columns: Tensor  # likewise
    reads_by_tile: Tensor  # (B, T, R, W), what each tile adds to the read vectors
    changes: Tensor  # (B, R, N), gradients of the read weightings
    modes: Tensor  # (B, R, 1 + 2 Hw), read modes
    totals: Tensor  # (B, Hw, 2, T), see `read_backward_kernel`
    d_written: Tensor  # (B, Hw, N), gradients of the write weightings
    d_allocation: Tensor  # (B, Hw, N), gradients of the allocation weightings
    d_seen: Tensor  # (B, N), gradient of the usage that a head saw
    d_shares: Tensor  # (B, Hw, ranges of compared cells), see `usage_backward_kernel`
    d_vector_by_tile: Tensor  # (B, T, interface size), what each tile adds to its gradient


def make_scratch(
    B: int, N: int, W: int, R: int, Hw: int, dtype: torch.dtype, device: torch.device
) -> Scratch | None:
    """Scratch for these sizes or smaller batches; None where one program does the whole step."""
    if launch.fits_one_program(N, W):
        return None
    like = torch.empty(0, dtype=dtype, device=device)
    T = launch.cdiv(N, launch.cell_tile(N, W))
    ranges = launch.rank_ranges(N)

    def new(*shape: int) -> Tensor:
        return launch.new_like(like, *shape)

    rows, columns = linkage.partials(like, B, N, R, Hw)
    return Scratch(
        products=new(B, Hw, N),
        allocation=new(B, Hw, N),
        seen=new(B, Hw, N),
        write_scores=new(B, Hw, N),
        write_parts=new(B, Hw, 3, T),
        read_scores=new(B, R, N),
        read_parts=new(B, R, 3, T),
        rows=rows,
        columns=columns,
        reads_by_tile=new(B, T, R, W),
        changes=new(B, R, N),
        modes=new(B, R, 1 + 2 * Hw),
        totals=new(B, Hw, 2, T),
        d_written=new(B, Hw, N),
        d_allocation=new(B, Hw, N),
        d_seen=new(B, N),
        d_shares=new(B, Hw, ranges),
        d_vector_by_tile=new(B, T, interface_size(W, R, Hw)),
    )


def _sizes(step: Step, robust: bool = False) -> dict[str, Any]:
    """Constants of the kernels of a step; each takes those that it names."""
    (_, N, W), R, Hw = step.memory0.shape, step.read0.shape[1], step.write0.shape[1]
    BM = launch.cell_tile(N, W)
    TILES, link = launch.cdiv(N, BM), linkage.tiling(N, step.memory0.dtype)
    return {
        "N": N,
        "W": W,
        "R": R,
        "HW": Hw,
        "SIZE": interface_size(W, R, Hw),
        "TILES": TILES,
        "BT": launch.block(TILES),
        "SHARES": launch.rank_ranges(N),
        "STRIPS": link["STRIPS"],
        "CHUNKS": link["CHUNKS"],
        "BM": BM,
        "BN": launch.block(N),
        "BW": launch.block(W),
        "BR": launch.block(R),
        "BHW": launch.block(Hw),
        "BMODES": launch.block(1 + 2 * Hw),
        "ROBUST": robust,
        "DTYPE": launch.compute_dtype(step.memory0.dtype),
    }


def _run_small(kernel: Any, arrays: dict[str, Tensor], sizes: dict[str, Any]) -> None:
    """Launch a kernel that does the whole step in one program per batch element."""
    num_warps = launch.warps(sizes["BN"] * max(sizes["BN"], sizes["BW"]))
    launch.run_by_name(kernel, (len(arrays["vector"]),), arrays, sizes, num_warps)


def _run_tiled(kernel: Any, arrays: dict[str, Tensor], sizes: dict[str, Any]) -> None:
    """Launch a kernel over tiles of cells."""
    grid = (len(arrays["vector"]), sizes["TILES"])
    launch.run_by_name(kernel, grid, arrays, sizes, launch.warps(sizes["BM"] * sizes["BW"]))


def forward(step: Step, scratch: Scratch | None, robust: bool) -> None:
    """Fill step.*1 and step.reads."""
    arrays, sizes = step._asdict(), _sizes(step, robust)
    if scratch is None:
        _run_small(small_step.forward_kernel, arrays, sizes)
        return
    arrays |= scratch._asdict()
    _run_tiled(tiled_step.usage_kernel, arrays, sizes)
    _allocate(step, scratch, robust)
    _run_tiled(tiled_step.write_kernel, arrays, sizes)
    given = step.write1, step.precedence0, step.read0, step.link0
    filled = step.link1, step.precedence1, scratch.rows, scratch.columns
    linkage.launch_pass(*given, *filled)
    _run_tiled(tiled_step.read_kernel, arrays, sizes)
    launch.total(scratch.reads_by_tile[: len(step.vector)], step.reads)


def _allocate(step: Step, scratch: Scratch, robust: bool) -> None:
    """Allocation weightings, one head after another."""
    B, Hw, _ = step.write0.shape
    heads = [_head(step, scratch, head) for head in range(Hw)]
    for head, current in enumerate(heads):
        launch_products(
            current.usage,
            current.products,
            scratch.allocation[:B, head],
            robust,
            next_usage=heads[head + 1].usage if head + 1 < Hw else None,
            allocation_gate=current.allocation_gate,
            write_gate=current.write_gate,
            raw=True,
        )


def _allocate_backward(step: Step, scratch: Scratch, robust: bool) -> None:
    """Backward through the allocation weightings, the last head first; fills scratch.d_seen."""
    B, Hw, _ = step.write0.shape
    heads = [_head(step, scratch, head) for head in range(Hw)]
    d_usage = scratch.d_seen[:B]
    for head in reversed(range(Hw)):
        launch_rank_backward(
            heads[head],
            d_usage,
            robust,
            d_next_usage=d_usage if head + 1 < Hw else None,
            before=heads[head - 1] if head else None,
            d_share=scratch.d_shares[:B, head - 1] if head else None,
            raw=True,
        )


def _head(step: Step, scratch: Scratch, head: int) -> Head:
    """A write head: the usage it saw, and its gates in the interface vectors."""
    B, Hw, _ = step.write0.shape
    R, W = step.reads.shape[1:]
    offsets = interface_offsets(W, R, Hw)
    return Head(
        usage=scratch.seen[:B, head] if head else step.usage1,
        products=scratch.products[:B, head],
        d_allocation=scratch.d_allocation[:B, head],
        allocation_gate=step.vector[:, offsets["allocation_gates"] + head],
        write_gate=step.vector[:, offsets["write_gates"] + head],
    )


def rebuild(step: Step, scratch: Scratch | None, with_link: bool) -> None:
    """Fill memory1, and link1 if `with_link`, from memory0, link0, the vectors and write1."""
    _run_tiled(tiled_step.rebuild_kernel, step._asdict(), _sizes(step))
    if with_link:
        linkage.launch_pass(step.write1, step.precedence0, step.read0, step.link0, step.link1)


def backward(step: Step, adjoint: Adjoint, scratch: Scratch | None, robust: bool) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place.
    """
    arrays, sizes = step._asdict() | {"d_reads": step.reads}, _sizes(step, robust)
    arrays |= {f"d_{name}": tensor for name, tensor in adjoint._asdict().items()}
    if scratch is None:
        _run_small(small_step.backward_kernel, arrays, sizes)
        return
    arrays |= scratch._asdict()
    _allocate(step, scratch, robust)
    _run_tiled(tiled_step.read_backward_kernel, arrays, sizes)
    linkage.launch_pass_backward(
        step.write1, step.precedence0, step.read0, step.link0, adjoint.link, scratch.changes,
        scratch.changes, scratch.modes, scratch.rows, scratch.columns,
    )  # fmt: skip
    _run_tiled(tiled_step.write_backward_kernel, arrays, sizes)
    _allocate_backward(step, scratch, robust)
    _run_tiled(tiled_step.usage_backward_kernel, arrays, sizes)
    launch.total(scratch.d_vector_by_tile[: len(step.vector)], adjoint.vector)


@torch.library.custom_op("dnc_fast::memory_step", mutates_args=())
def memory_step(
    vector: Tensor,
    memory: Tensor,
    usage: Tensor,
    precedence: Tensor,
    link: Tensor,
    write_weights: Tensor,
    read_weights: Tensor,
    robust: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read vectors (B, R, W), and the fields of the state after the step.

    Args:
        vector: (B, interface size), raw; any float dtype.
        memory, usage, precedence, link, write_weights, read_weights: the state before the step,
            float32 or float64.
        robust: whether usages that round to the same multiple of 2^-8 count as equal.
    """
    vector, *state = launch.contiguous(
        vector, memory, usage, precedence, link, write_weights, read_weights
    )
    new_state = [torch.empty_like(tensor) for tensor in state]
    B, N, W = memory.shape
    R, Hw = read_weights.shape[1], write_weights.shape[1]
    reads = memory.new_empty(B, R, W)
    scratch = make_scratch(B, N, W, R, Hw, memory.dtype, memory.device)
    forward(_step(vector, state, new_state, reads), scratch, robust)
    results: Any = (reads, *new_state)
    return results


def _step(vector: Tensor, state: Any, new_state: Any, reads: Tensor) -> Step:
    """The arrays of a step."""
    pairs = (tensor for pair in zip(state, new_state, strict=True) for tensor in pair)
    return Step(*(vector, *pairs, reads))


@memory_step.register_fake
def _(vector: Tensor, *inputs: Any) -> Any:
    *state, _ = inputs
    (B, _, W), R = state[0].shape, state[-1].shape[1]
    return (state[0].new_empty(B, R, W), *launch.contiguous_like(*state))


@torch.library.custom_op("dnc_fast::memory_step_backward", mutates_args=())
def memory_step_backward(
    d_reads: Tensor,
    d_memory: Tensor,
    d_usage: Tensor,
    d_precedence: Tensor,
    d_link: Tensor,
    d_write_weights: Tensor,
    d_read_weights: Tensor,
    vector: Tensor,
    memory: Tensor,
    usage: Tensor,
    precedence: Tensor,
    link: Tensor,
    write_weights: Tensor,
    read_weights: Tensor,
    new_memory: Tensor,
    new_usage: Tensor,
    new_write_weights: Tensor,
    new_read_weights: Tensor,
    robust: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the inputs of `memory_step`, given those of its outputs."""
    vector, d_reads, *state = launch.contiguous(
        vector, d_reads, memory, usage, precedence, link, write_weights, read_weights
    )
    whole = torch.contiguous_format
    adjoint = Adjoint(
        torch.empty_like(vector),
        *(
            tensor.clone(memory_format=whole)
            for tensor in (d_memory, d_usage, d_precedence, d_link, d_write_weights, d_read_weights)
        ),
    )
    # The backward pass reads neither the precedence nor the link matrix of step t.
    new_state = (new_memory, new_usage, precedence, link, new_write_weights, new_read_weights)
    B, N, W = memory.shape
    R, Hw = read_weights.shape[1], write_weights.shape[1]
    scratch = make_scratch(B, N, W, R, Hw, memory.dtype, memory.device)
    backward(_step(vector, state, launch.contiguous(*new_state), d_reads), adjoint, scratch, robust)
    gradients: Any = tuple(adjoint)
    return gradients


@memory_step_backward.register_fake
def _(*inputs: Any) -> Any:
    return launch.contiguous_like(*inputs[7:14])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, new_memory, new_usage, _, _, new_write_weights, new_read_weights = output
    *tensors, ctx.robust = inputs
    ctx.save_for_backward(*tensors, new_memory, new_usage, new_write_weights, new_read_weights)


def _backward(ctx: Any, *d_output: Tensor) -> tuple[Tensor | None, ...]:
    return (*memory_step_backward(*d_output, *ctx.saved_tensors, ctx.robust), None)


memory_step.register_autograd(_backward, setup_context=_setup)
ops.refuse_second_gradient(memory_step_backward)
