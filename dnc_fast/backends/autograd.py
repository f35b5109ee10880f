"""A backend's step and its parts as autograd functions, differentiable once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from ..checks import autocasts
from ..kernels.arrays import Adjoint, Step
from ..linkages import LINKAGES
from ..state import MemoryState
from ..step_options import PAPER, StepOptions
from .parts import Parts, StepRun
from .step import LINK, final_gradients, first_gradients, step_run


def without_autocast(method: Callable[..., Any]) -> Callable[..., Any]:
    """Run a forward or backward method without autocast, in the dtypes of its arguments."""

    @wraps(method)
    def plainly(ctx: Any, *given: Any) -> Any:
        device = next(part.device for part in given if isinstance(part, Tensor))
        if not autocasts(device):
            return method(ctx, *given)
        with torch.autocast(device.type, enabled=False):
            return method(ctx, *given)

    return plainly


def refuse_second_gradient(*gradients: Tensor | None) -> None:
    """Raise if the backward pass itself is to be differentiated, or batched by vmap.

    Args:
        gradients: of the results.
    """
    functorch = torch._C._functorch
    if any(
        functorch.is_functorch_wrapped_tensor(one) or functorch.is_legacy_batchedtensor(one)
        for one in gradients
        if one is not None
    ):
        raise RuntimeError(
            "hand-derived gradients cannot be batched (jacobian or hessian with vectorize=True, "
            'is_grads_batched=True); backend="reference" can do that'
        )
    if torch.is_grad_enabled():
        raise RuntimeError(
            "hand-derived gradients cannot be differentiated again (create_graph=True); "
            'backend="reference" can do that'
        )


def arrays(
    run: StepRun, vector: Tensor, before: MemoryState, after: MemoryState, reads: Tensor
) -> Step:
    """The arrays of the step between two states whose links are matrices."""
    pairs = (part for pair in zip(before, after, strict=True) for part in pair)
    return Step(*map(run.array, (vector, *pairs, reads)))


def hand_derived_step(
    backend: Parts, vector: Tensor, state: MemoryState, options: StepOptions
) -> tuple[Tensor, MemoryState]:
    """One step of a backend; arguments and results as in `memory_step`."""
    if autocasts(vector.device):
        with torch.autocast(vector.device.type, enabled=False):
            return hand_derived_step(backend, vector, state, options)
    link_type = Tensor if isinstance(state.link, Tensor) else type(state.link)
    read_vectors, *found = _Step.apply(backend, options, link_type, vector, *memory_tensors(state))
    return read_vectors, memory_state(link_type, found)


def _with_link(state: MemoryState, link: Any) -> MemoryState:
    """The state with another link."""
    return state if link is state.link else state._replace(link=link)


def memory_tensors(state: MemoryState) -> list[Tensor]:
    """The tensors of a state, those of its link among them; faster than for any nest."""
    link = state.link
    parts = (link,) if isinstance(link, Tensor) else link or ()
    return [*state[:LINK], *parts, *state[LINK + 1 :]]


def memory_state(link_type: type, parts: Iterable[Tensor]) -> MemoryState:
    """The inverse of `memory_tensors`."""
    memory, usage, precedence, *links, write_weights, read_weights = parts
    link = links[0] if link_type is Tensor else link_type(*links)
    return MemoryState(memory, usage, precedence, link, write_weights, read_weights)


class _Step(torch.autograd.Function):
    """A memory step as a function of the interface vector and the tensors of the state."""

    @staticmethod
    def forward(
        ctx: Any, backend: Parts, options: StepOptions, link_type: type, *given: Tensor
    ) -> tuple[Tensor, ...]:
        keep = any(ctx.needs_input_grad)
        ctx.begin = partial(step_run, backend, options=options, steps=1, keep=keep)
        ctx.link_type = link_type
        vector, state = _given(link_type, given)
        ctx.run = ctx.begin(state)
        reads, after = _run_step(ctx.run, vector, state)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*given, *after)
        results = reads, *memory_tensors(_with_link(after, ctx.run.final_link(after.link)))
        if link_type is not Tensor:  # aliases, as no result may be a view of what the run holds
            results = tuple(result.detach() for result in results)
            ctx.mark_non_differentiable(*(r for r in results if not r.is_floating_point()))
        return results

    @staticmethod
    @without_autocast
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(*gradients)
        d_reads, *d_final = gradients
        count = len(ctx.saved_tensors) - len(MemoryState._fields)
        vector, state = _given(ctx.link_type, ctx.saved_tensors[:count])
        run, ctx.run = ctx.run, None
        if run is None:  # a second backward pass (retain_graph): the first one used up the run
            run = ctx.begin(state)
            _run_step(run, vector, state)
        before = _with_link(state, run.link_matrix(state))
        after = MemoryState(*ctx.saved_tensors[count:])
        if d_reads is None:
            d_reads = vector.new_zeros(len(vector), *_read_shape(state))
        step = arrays(run, vector, before, after, d_reads.contiguous())
        d_vector, gradient = torch.empty_like(vector), final_gradients(d_final, run, before)
        run.backward(step, Adjoint(*map(run.array, (d_vector, *gradient))))
        return None, None, None, d_vector, *first_gradients(gradient, run, before)


def _given(link_type: type, given: Iterable[Tensor]) -> tuple[Tensor, MemoryState]:
    """The interface vector and the state before a step, contiguous."""
    vector, *fields = (tensor.contiguous() for tensor in given)
    return vector, memory_state(link_type, fields)


def _read_shape(state: MemoryState) -> tuple[int, int]:
    return state.read_weights.shape[1], state.memory.shape[2]


def _run_step(run: StepRun, vector: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
    """Run a step: its read vectors, and the state after it with its link as a matrix."""
    before = _with_link(state, run.link_matrix(state))
    after = MemoryState(*map(torch.empty_like, before))
    reads = vector.new_empty(len(vector), *_read_shape(state))
    run.forward(arrays(run, vector, before, after, reads))
    return reads, after


class ContentWeighting(torch.autograd.Function):
    """A backend's `look_up`, as a function of keys, strengths, memory and masks."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, backend: Parts, similarity: str, *given: Any) -> Tensor:
        keys, strengths, memory, masks = given
        varied = masks is not None or similarity != PAPER.similarity
        backend.prepare(memory.dtype, memory.shape[1], varied=varied)
        ctx.backend, ctx.similarity = backend, similarity
        ctx.save_for_backward(*given)
        return backend.look_up(keys, strengths, memory, masks, similarity).weights

    @staticmethod
    @without_autocast
    def backward(ctx: Any, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(d_weights)
        given = ctx.saved_tensors
        d_memory = torch.zeros_like(given[2], memory_format=torch.contiguous_format)
        found = ctx.backend.look_up(*given, similarity=ctx.similarity)
        d_weights = d_weights.clone(memory_format=torch.contiguous_format)  # it is used up
        d_keys, d_strengths, d_masks = ctx.backend.look_up_backward(
            d_weights, found, d_memory, *given, ctx.similarity
        )
        return None, None, d_keys, d_strengths, d_memory, d_masks


class AllocationWeighting(torch.autograd.Function):
    """A backend's `allocate` on a usage (B, N)."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, backend: Parts, usage: Tensor, options: StepOptions) -> Tensor:
        backend.prepare(usage.dtype, usage.shape[1])
        ctx.backend, ctx.options = backend, options
        ctx.save_for_backward(usage)
        return backend.allocate(usage, options)

    @staticmethod
    @without_autocast
    def backward(ctx: Any, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(d_weights)
        (usage,) = ctx.saved_tensors
        return None, ctx.backend.allocate_backward(d_weights, usage, ctx.options), None


class WriteMemory(torch.autograd.Function):
    """A backend's `write` to a memory (B, N, W)."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, backend: Parts, *given: Tensor) -> Tensor:
        backend.prepare(given[0].dtype, given[0].shape[1])
        ctx.backend = backend
        ctx.save_for_backward(*given)
        out = torch.empty_like(given[0], memory_format=torch.contiguous_format)
        memory, write_weights, erase_vectors, write_vectors = given
        backend.write(memory, write_weights, erase_vectors, write_vectors, out)
        return out

    @staticmethod
    @without_autocast
    def backward(ctx: Any, d_memory: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(d_memory)
        d_memory = d_memory.clone(memory_format=torch.contiguous_format)
        others = ctx.backend.write_backward(d_memory, *ctx.saved_tensors)
        return None, d_memory, *others


class DenseLink(torch.autograd.Function):
    """A backend's link matrix and both directional weightings (B, R, Hw, N).

    A run differentiates read weightings that mix all write heads. So the backward pass treats each
    write head as a batch element with 2 R read heads: R in forward mode and R in backward mode.
    """

    @staticmethod
    @without_autocast
    def forward(ctx: Any, backend: Parts, *given: Tensor) -> tuple[Tensor, ...]:
        backend.prepare(given[0].dtype, given[0].shape[-1], "dense")
        ctx.backend = backend
        ctx.save_for_backward(*given)
        link, precedence, write_weights, read_weights = (tensor.contiguous() for tensor in given)
        out = torch.empty_like(link)
        run, step = _link_step(backend, link, precedence, write_weights, read_weights, out)
        ahead, behind = run.forward(step)
        return out, ahead.transpose(1, 2).contiguous(), behind.transpose(1, 2).contiguous()

    @staticmethod
    @without_autocast
    def backward(ctx: Any, d_link: Tensor, *d_weightings: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(d_link, *d_weightings)
        link, precedence, write_weights, last = (part.contiguous() for part in ctx.saved_tensors)
        B, R, N = last.shape
        Hw = link.shape[1]
        d_link = d_link.clone(memory_format=torch.contiguous_format)
        d_read = torch.cat([part.transpose(1, 2) for part in d_weightings], dim=2).flatten(0, 1)
        last = last.unsqueeze(1).expand(-1, Hw, -1, -1).flatten(0, 1).repeat(1, 2, 1)
        link, precedence, write_weights = (
            part.flatten(0, 1).unsqueeze(1) for part in (link, precedence, write_weights)
        )
        run, step = _link_step(ctx.backend, link, precedence, write_weights, last, link)
        ahead = link.new_zeros(B * Hw, 2 * R, 1)
        ahead[:, :R] = 1
        found = run.backward(step, d_link.flatten(0, 1).unsqueeze(1), d_read, ahead, 1 - ahead)
        # forward = L wr has the gradient L^T d, backward = L^T wr has L d.
        d_last = found.behind[:, 0, :R] + found.ahead[:, 0, R:]
        return (
            None,
            d_link,
            found.precedence.view(B, Hw, N),
            found.write_weights.view(B, Hw, N),
            d_last.view(B, Hw, R, N).sum(1),
        )


def _link_step(
    backend: Parts,
    link: Tensor,
    precedence: Tensor,
    write_weights: Tensor,
    read_weights: Tensor,
    out: Tensor,
) -> tuple[Any, Step]:
    """A run of a dense link, and a step whose arrays are placeholders except for the link's."""
    nothing = link.new_empty(0)
    run = LINKAGES["dense"].run(link, PAPER, 1, True, backend.link_runs)
    step = Step(
        vector=nothing,
        memory0=nothing,
        memory1=nothing,
        usage0=nothing,
        usage1=nothing,
        precedence0=precedence,
        precedence1=torch.empty_like(precedence),
        link0=link,
        link1=out,
        write0=write_weights,
        write1=write_weights,
        read0=read_weights,
        read1=read_weights,
        reads=nothing,
    )
    return run, step
