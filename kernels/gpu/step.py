"""The whole memory step on a GPU: kernels for small memories, or over tiles of cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arrays import Adjoint, Step
from . import launch, ops, small_step, tiled_step
from .variant import PAPER, Variant

Scratch = small_step.Scratch | tiled_step.Scratch


def make_scratch(
    B: int,
    N: int,
    W: int,
    R: int,
    Hw: int,
    dtype: torch.dtype,
    device: torch.device,
    variant: Variant = PAPER,
) -> Scratch:
    """Scratch for steps of this variant, with these sizes or smaller batches."""
    way = small_step if launch.is_small(N, W) else tiled_step
    like = torch.empty(0, dtype=dtype, device=device)
    return way.make_scratch(B, N, W, R, Hw, like, variant)


def kept_size(N: int, W: int, R: int, Hw: int, variant: Variant = PAPER) -> int:
    """How many numbers a step keeps for its backward pass, for each batch element."""
    way = small_step if launch.is_small(N, W) else tiled_step
    return way.kept_size(N, W, R, Hw, variant)


def make_kept(step: Step, variant: Variant = PAPER) -> Tensor:
    """Room for what a step keeps, (B, kept_size), in the dtype that kernels compute in."""
    B, N, W = step.memory0.shape
    size = kept_size(N, W, step.read0.shape[1], step.write0.shape[1], variant)
    return launch.new_like(step.memory0, B, size)


def forward(step: Step, scratch: Scratch, robust: bool, kept: Tensor | None = None) -> None:
    """Fill step.*1 and step.reads; and kept, from `make_kept`, if there will be a backward pass."""
    if isinstance(scratch, small_step.Scratch):
        small_step.forward(step, scratch, robust, kept)
    else:
        tiled_step.forward(step, scratch, robust, kept)


def rebuild(step: Step, with_link: bool, variant: Variant = PAPER) -> None:
    """Fill memory1, and link1 if `with_link`, from memory0, link0, the vectors and write1."""
    tiled_step.rebuild(step, with_link, variant)


def begin_backward(scratch: Scratch) -> None:
    """Before the backward pass through some steps, from the last to the first."""
    if isinstance(scratch, tiled_step.Scratch):
        tiled_step.begin_backward(scratch)


def backward(step: Step, adjoint: Adjoint, scratch: Scratch, robust: bool, kept: Tensor) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place. kept was filled
    by `forward`. The gradient of the memory is complete only after `finish_backward`.
    """
    if isinstance(scratch, small_step.Scratch):
        small_step.backward(step, adjoint, scratch, robust, kept)
    else:
        tiled_step.backward(step, adjoint, scratch, robust, kept)


def finish_backward(memory: Tensor, d_memory: Tensor, scratch: Scratch) -> None:
    """After the backward pass through some steps: complete the gradient of the memory before."""
    if isinstance(scratch, tiled_step.Scratch):
        tiled_step.finish_backward(memory, d_memory, scratch)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read vectors (B, R, W), the fields of the state after the step, and what backward needs.

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
    step = _step(vector, state, new_state, reads)
    kept = make_kept(step)
    forward(step, scratch, robust, kept)
    results: Any = (reads, *new_state, kept)
    return results


def _step(vector: Tensor, state: Any, new_state: Any, reads: Tensor) -> Step:
    """The arrays of a step."""
    pairs = (tensor for pair in zip(state, new_state, strict=True) for tensor in pair)
    return Step(*(vector, *pairs, reads))


@memory_step.register_fake
def _(vector: Tensor, *inputs: Any) -> Any:
    *state, _ = inputs
    (B, N, W), R, Hw = state[0].shape, state[-1].shape[1], state[-2].shape[1]
    kept = launch.new_like(state[0], B, kept_size(N, W, R, Hw))
    return (state[0].new_empty(B, R, W), *launch.contiguous_like(*state), kept)


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
    kept: Tensor,
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
    step = _step(vector, state, launch.contiguous(*new_state), d_reads)
    begin_backward(scratch)
    backward(step, adjoint, scratch, robust, kept)
    finish_backward(step.memory0, adjoint.memory, scratch)
    gradients: Any = tuple(adjoint)
    return gradients


@memory_step_backward.register_fake
def _(*inputs: Any) -> Any:
    return launch.contiguous_like(*inputs[7:14])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, new_memory, new_usage, _, _, new_write_weights, new_read_weights, kept = output
    *tensors, ctx.robust = inputs
    new = new_memory, new_usage, new_write_weights, new_read_weights
    ctx.save_for_backward(*tensors, *new, kept)


def _backward(ctx: Any, *d_output: Tensor) -> tuple[Tensor | None, ...]:
    return (*memory_step_backward(*d_output[:-1], *ctx.saved_tensors, ctx.robust), None)


memory_step.register_autograd(_backward, setup_context=_setup)
ops.refuse_second_gradient(memory_step_backward)
