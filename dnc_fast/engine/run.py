"""Whole sequences as one autograd function, differentiable once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..backends.autograd import refuse_second_gradient
from ..checks import autocasts
from ..layout import Layout
from ..state import DNCState, map_tensors, tensors
from ..untraced import untraced
from . import captures
from .called_controller import CalledModule
from .captures import Given, Work
from .controller import controller_run
from .from_inputs import Repeat, layer_parameters
from .interface_layer import InterfaceTensors
from .layered_controller import Layers
from .passes import Passes
from .plan import Plan, Start
from .recording import Recording


@untraced
def run_sequences(
    controller: Any,
    interface: InterfaceTensors,
    x: Tensor,
    batch_sizes: list[int],
    start: Start,
    plan: Plan,
) -> tuple[Tensor, DNCState]:
    """Run a batch of sequences through a DNC.

    Args:
        controller: the cell's.
        interface: of the cell's interface layer.
        x: (sum of batch_sizes, X), one step after another.
        batch_sizes: number of sequences at each step; never increases.
        start: the state before the first step.
        plan: how to run.

    Returns:
        features (rows, L H + R W), and the state of each sequence after its own last step.
    """
    of = controller_run(controller)
    run = _Run(of, controller, interface, plan)
    if interface.weight.dtype != plan.precision.full:
        return run.widened(x, batch_sizes, start)
    return run.run(x, batch_sizes, start)


class _Run:
    """A run of a cell's parts, as a whole or in parts."""

    def __init__(
        self, of: Layers | CalledModule, controller: Any, interface: InterfaceTensors, plan: Plan
    ) -> None:
        self.of, self.controller, self.plan = of, controller, plan
        self.weights, self.form = interface.given(), interface.form()

    def widened(self, x: Tensor, batch_sizes: list[int], start: Start) -> tuple[Tensor, DNCState]:
        """Run a model in half precision: the controller's state is in full, also between parts."""
        own, full = start.made(), self.plan.precision.full
        dtypes = iter([tensor.dtype for tensor in tensors(own.controller)])
        controller = map_tensors(lambda tensor: tensor.to(full), own.controller)
        start = start._replace(state=own._replace(controller=controller))
        features, final = self.run(x, batch_sizes, start)
        controller = map_tensors(lambda tensor: tensor.to(next(dtypes)), final.controller)
        return features, final._replace(controller=controller)

    def run(self, x: Tensor, batch_sizes: list[int], start: Start) -> tuple[Tensor, DNCState]:
        """Run with captures where that is possible."""
        plan, of = self.plan, self.of
        if (
            plan.capture
            and isinstance(of, Layers)
            and not of.draws
            and not self.form.ahead
            and plan.backend.fuses(plan.options, start.is_matrix)
            and batch_sizes[0] == batch_sizes[-1]
            and (stream := captures.CAPTURES.stream(x.device)) is not None
        ):
            return self.in_parts(x, batch_sizes, start, stream)
        return self.launched(x, batch_sizes, start)

    def in_parts(
        self, x: Tensor, batch_sizes: list[int], start: Start, stream: int
    ) -> tuple[Tensor, DNCState]:
        """Run sequences of one length: replay what is captured, launch the rest."""
        assert isinstance(self.of, Layers)
        parameters = [*layer_parameters(self.controller), *self.weights]
        leaves = 1 + len(parameters) - len(self.weights)
        state = [] if start.state is None else list(tensors(start.state))
        keep = torch.is_grad_enabled() and any(
            [one.requires_grad for one in (x, *parameters, *state)]
        )
        work = Work(self.plan, self.of.key, start.sizes, keep, x.device, stream, self.form)

        def passes(steps: int) -> Passes:
            return self._passes(batch_sizes[:steps], keep, start.made())

        given = Given([x, *parameters, *state], leaves, self.controller, start, passes)
        lengths = captures.CAPTURES.parts(work, len(batch_sizes), given)
        if lengths is None:
            return self.launched(x, batch_sizes, start)
        if len(lengths) == 1:
            return self._part(work, lengths[0], given, batch_sizes)
        features = []
        for length, part in zip(
            lengths, x.split([n * batch_sizes[0] for n in lengths]), strict=True
        ):
            state = [] if start.state is None else list(tensors(start.state))
            given = Given([part, *parameters, *state], leaves, self.controller, start, passes)
            found, final = self._part(work, length, given, batch_sizes)
            start = start._replace(state=final)
            features.append(found)
        return torch.cat(features), final

    def _part(
        self, work: Work, steps: int, given: Given, batch_sizes: list[int]
    ) -> tuple[Tensor, DNCState]:
        replay = captures.CAPTURES.take(work, steps, given)
        if replay is None:
            return self.launched(given.inputs[0], batch_sizes[:steps], given.start)
        repeat = Repeat(
            replay.passes,
            self.controller,
            given.start.zeros if given.start.state is None else None,
            replay.kind.wanted,
        )
        features, *final = _Replayed.apply(replay, repeat, *given.inputs)
        parts = iter(final)
        return features, map_tensors(lambda _: next(parts), replay.passes.form)

    def _passes(self, batch_sizes: list[int], keep: bool, state: DNCState) -> Passes:
        return Passes(self.plan, self.of, Layout(batch_sizes, keep), state, self.form)

    def launched(self, x: Tensor, batch_sizes: list[int], start: Start) -> tuple[Tensor, DNCState]:
        """Run without a capture."""
        prepared = self.of.prepare(self.controller, x)
        state = start.made()
        given = [*self.weights, *tensors(state), *prepared]
        keep = torch.is_grad_enabled() and any([one.requires_grad for one in given])
        features, *final = _Sequences.apply(self._passes(batch_sizes, keep, state), *given)
        parts = iter(final)
        return features, map_tensors(lambda _: next(parts), state)


class _Replayed(torch.autograd.Function):
    """A run that replays a capture, as a function of `Given.inputs`."""

    @staticmethod
    def forward(
        ctx: Any, replay: captures.Replay, repeat: Repeat, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        if replay.kind.work.keep:
            ctx.replay, ctx.repeat = replay, repeat
            ctx.save_for_backward(*inputs)
            ctx.set_materialize_grads(False)
        return tuple(replay.forward(inputs))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_gradient(*gradients)
        inputs, repeat = ctx.saved_tensors, ctx.repeat
        replay, ctx.replay = ctx.replay, None
        if replay is None:  # the capture may be in use for other inputs
            return None, None, *repeat.backward(inputs, gradients)
        return None, None, *replay.backward(gradients, ctx.needs_input_grad[2:])


class _Sequences(torch.autograd.Function):
    """A run as a function of interface weights, state, and what the controller prepared.

    The backward pass frees what the forward pass kept. A second backward pass (retain_graph) first
    repeats the forward pass, with the same random numbers.
    """

    @staticmethod
    def forward(ctx: Any, passes: Passes, *given: Tensor) -> tuple[Tensor, ...]:
        keep = passes.layout.keep
        random = _random_state(passes.device) if keep and passes.controller.draws else []
        with _without_autocast(passes.device):
            kept = Recording(passes, given)
            # Aliases, so that what is kept does not refer to this node.
            results = tuple(result.detach() for result in kept.results())
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
        with _without_autocast(ctx.passes.device):
            kept, ctx.kept = ctx.kept, None
            if kept is None:
                kept = _record_again(ctx.passes, given, ctx.random)
            return (None, *kept.backward(gradients))


def _without_autocast(device: torch.device) -> Any:
    """A context: the dtypes of a run are those of its `Precision`. ("meta" knows no autocast.)"""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


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
