"""Whole sequences as one autograd function, differentiable once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backends.autograd import refuse_second_gradient
from ..layout import Layout
from ..state import DNCState, map_tensors, tensors
from ..untraced import untraced
from . import captures
from .controller import controller_run
from .layered_controller import Layers
from .passes import Passes
from .plan import Plan
from .recording import Recording


@untraced
def run_sequences(
    controller: Any,
    interface: nn.Linear,
    x: Tensor,
    batch_sizes: list[int],
    state: DNCState,
    plan: Plan,
) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through a DNC.

    Args:
        controller, interface: the cell's parts.
        x: (sum of batch_sizes, X), one step after another.
        batch_sizes: number of sequences at each step; never increases.
        state: complete, before the first step.
        plan: how to run.

    Returns:
        features (rows, L H + R W), and the state of each sequence after its own last step.
    """
    weights = [interface.weight] if interface.bias is None else [interface.weight, interface.bias]
    of = controller_run(controller)
    prepared = of.prepare(controller, x)
    keep = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*weights, *tensors(state), *prepared)
    )
    own = state.controller
    if plan.precision.half is not None:  # the state is in full, also between parts
        state = state._replace(
            controller=map_tensors(lambda tensor: tensor.to(plan.precision.full), own)
        )

    def passes(sizes: list[int]) -> Passes:
        return Passes(plan, of, Layout(sizes, keep), state, len(weights))

    whole = passes(batch_sizes)
    may_record = plan.capture and captures.CAPTURES.records_on(whole.device)
    lengths = captures.part_lengths(len(batch_sizes)) if may_record else []
    parts = [passes(batch_sizes[:length]) for length in lengths]
    if may_record and captures.CAPTURES.can_take(whole, parts):
        assert isinstance(of, Layers)
        features = []
        rows = [length * batch_sizes[0] for length in lengths]
        for part, given_part in zip(parts, of.split(prepared, rows), strict=True):
            given = [*weights, *tensors(state), *given_part]
            found, state = _apply(part, given, state, captures.CAPTURES.take(part, given))
            features.append(found)
        output = torch.cat(features) if len(features) > 1 else features[0]
    else:
        output, state = _apply(whole, [*weights, *tensors(state), *prepared], state, None)
    if plan.precision.half is not None:
        dtypes = iter([tensor.dtype for tensor in tensors(own)])
        state = state._replace(
            controller=map_tensors(lambda tensor: tensor.to(next(dtypes)), state.controller)
        )
    return output, state


def _apply(
    passes: Passes, given: list[Tensor], state: DNCState, replay: captures.Replay | None
) -> tuple[Tensor, DNCState]:
    """The features of a run, and its final state with the structure of the first."""
    features, *final = _Sequences.apply(passes, replay, *given)
    parts = iter(final)
    return features, map_tensors(lambda _: next(parts), state)


class _Sequences(torch.autograd.Function):
    """A run as a function of interface weights, state, and what the controller prepared.

    The backward pass frees what the forward pass kept. A second backward pass (retain_graph) first
    repeats the forward pass, with the same random numbers.
    """

    @staticmethod
    def forward(
        ctx: Any, passes: Passes, replay: captures.Replay | None, *given: Tensor
    ) -> tuple[Tensor, ...]:
        keep = passes.layout.keep
        random = _random_state(passes.device) if keep and passes.controller.draws else []
        kept: Recording | captures.Replay
        with torch.autocast(given[0].device.type, enabled=False):  # see `Precision`
            if replay is None:
                kept = Recording(passes, given)
                found = kept.results()
            else:
                kept, found = replay, replay.forward(given)
        # Aliases, so that what is kept does not refer to this node.
        results = tuple(result.detach() for result in found)
        ctx.mark_non_differentiable(*(r for r in results if not r.is_floating_point()))
        if keep:
            ctx.passes, ctx.kept, ctx.random = passes, kept, random
            ctx.save_for_backward(*given)
            ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(*gradients)
        given = ctx.saved_tensors
        with torch.autocast(given[0].device.type, enabled=False):
            kept, ctx.kept = ctx.kept, None
            if kept is None:
                kept = _record_again(ctx.passes, given, ctx.random)
            return (None, None, *kept.backward(gradients))


def _record_again(passes: Passes, given: tuple[Tensor, ...], random: list[Tensor]) -> Recording:
    """Repeat the forward pass, with the same random numbers."""
    if not random:
        return Recording(passes, given)
    now = _random_state(passes.device)
    _set_random_state(passes.device, random)
    recording = Recording(passes, given)
    _set_random_state(passes.device, now)
    return recording


def _random_state(device: torch.device) -> list[Tensor]:
    """The state of all generators that controllers may draw from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)
