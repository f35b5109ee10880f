"""One memory step by hand-derived primitives, as a function that autograd can go through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, Step
from ..state import MemorySizes, MemoryState


@torch.compiler.disable
def hand_derived_step(
    primitives: Any, vector: Tensor, state: MemoryState, usage_order: str
) -> tuple[Tensor, MemoryState]:
    """A step by a module of primitives; arguments and results as for `memory_step`."""
    read_vectors, *new_state = _Step.apply(primitives, usage_order, vector, *state)
    return read_vectors, MemoryState(*new_state)


def refuse_second_gradient() -> None:
    """Raise when a backward pass is itself to be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "hand-derived gradients cannot be differentiated again (create_graph=True); "
            'backend="reference" can do that'
        )


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, primitives: Any, usage_order: str, vector: Tensor, *fields: Tensor
    ) -> tuple[Tensor, ...]:
        vector = vector.contiguous()
        state = MemoryState(*(field.contiguous() for field in fields))
        new_state = MemoryState(*map(torch.empty_like, state))
        B, _, W, R, _ = state.sizes
        read_vectors = vector.new_empty(B, R, W)
        scratch = primitives.make_scratch(state.sizes, vector.dtype, vector.device)
        step = _arrays(primitives, vector, state, new_state, read_vectors)
        primitives.forward(step, scratch, usage_order)
        ctx.save_for_backward(vector, *state, *new_state)
        ctx.primitives, ctx.usage_order = primitives, usage_order
        return read_vectors, *new_state

    @staticmethod
    def backward(
        ctx: Any, d_read_vectors: Tensor, *d_new_state: Tensor
    ) -> tuple[Tensor | None, ...]:
        refuse_second_gradient()
        vector, *fields = ctx.saved_tensors
        state, new_state = MemoryState(*fields[:6]), MemoryState(*fields[6:])
        whole = torch.contiguous_format
        gradient = MemoryState(*(part.clone(memory_format=whole) for part in d_new_state))
        d_vector = torch.empty_like(vector)
        memory, usage, precedence, link, write, read = map(ctx.primitives.array, gradient)
        ctx.primitives.backward(
            _arrays(ctx.primitives, vector, state, new_state, d_read_vectors.contiguous()),
            Adjoint(ctx.primitives.array(d_vector), memory, usage, precedence, link, write, read),
            ctx.primitives.make_scratch(MemorySizes(*state.sizes), vector.dtype, vector.device),
            ctx.usage_order,
        )
        return None, None, d_vector, *gradient


def _arrays(
    primitives: Any, vector: Tensor, state: MemoryState, new_state: MemoryState, reads: Tensor
) -> Step:
    array = primitives.array
    return Step(
        vector=array(vector),
        memory0=array(state.memory),
        memory1=array(new_state.memory),
        usage0=array(state.usage),
        usage1=array(new_state.usage),
        precedence0=array(state.precedence),
        precedence1=array(new_state.precedence),
        link0=array(state.link),
        link1=array(new_state.link),
        write0=array(state.write_weights),
        write1=array(new_state.write_weights),
        read0=array(state.read_weights),
        read1=array(new_state.read_weights),
        reads=array(reads),
    )
