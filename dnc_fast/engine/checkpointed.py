"""Exact backpropagation through time without the history of the link matrix.

One autograd function for a whole batch of sequences: controller, interface layer and memory. It
keeps the vectors of each step and a few checkpoints, see `memory_tape`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..backends.step import refuse_second_gradient
from ..state import DNCState, MemoryState, map_tensors, tensors
from .at_once import all_adjoints, all_steps, with_segments
from .controller_tapes import controller_tape
from .memory_tape import MemoryPlayback, MemoryTape, checkpoint_interval
from .rows import Rows


@torch.compiler.disable
def run_checkpointed(
    controller: nn.Module,
    interface: nn.Linear,
    x: Tensor,
    batch_sizes: list[int],
    state: DNCState,
    *,
    primitives: Any,
    usage_order: str,
    interval: int | None,
) -> tuple[Tensor, DNCState]:
    """Take a batch of sequences through a DNC.

    Args:
        controller, interface: the cell's parts.
        x: (sum of batch_sizes, X), step after step.
        batch_sizes: how many sequences each step still has; never grows.
        state: complete, before the first step.
        primitives: a module of `dnc_fast.backends`.
        usage_order: one of `USAGE_ORDERS`.
        interval: K; None for the rule of `checkpoint_interval`.

    Returns:
        features (rows, L H + R W), and the state of each sequence after its own last step.
    """
    assert state.memory is not None and state.read_vectors is not None
    tape = controller_tape(controller, x)
    weights = [interface.weight] if interface.bias is None else [interface.weight, interface.bias]
    given = [*weights, *tensors(state), *tape.tensors]
    rows = Rows(
        batch_sizes, torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    )
    sizes = state.memory.sizes
    if interval is None:
        interval = checkpoint_interval(rows.steps, sizes, state.memory.memory.element_size())
    run = _Run(tape, rows, state, len(weights), primitives, usage_order, interval)
    tape.tensors = []  # autograd holds them now, for as long as it needs them
    features, *final = _Checkpointed.apply(run, *given)
    parts = iter(final)
    return features, map_tensors(lambda _: next(parts), state)


class _Run:
    """One pass over the steps and the way back.

    What the pass kept is freed on the way back. Another way back (retain_graph) passes over the
    steps again first, with the same random numbers.
    """

    def __init__(
        self,
        controller: Any,
        rows: Rows,
        state: DNCState,
        num_weights: int,
        primitives: Any,
        usage_order: str,
        interval: int,
    ) -> None:
        self.controller = controller
        self.rows = rows
        self.state = map_tensors(Tensor.detach, state)
        self.num_weights = num_weights
        self.num_states = len(list(tensors(state)))
        self.primitives = primitives
        self.usage_order = usage_order
        self.interval = interval
        self.device = next(tensors(state)).device
        self.random = _random_state(self.device) if rows.keep else []
        self.recorded = False
        self.at_once = hasattr(primitives, "forward_steps") and controller.can_run_at_once
        self.steps: Any = None

    def _split(self, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Interface weight, its bias, and the controller's tensors."""
        weight, *bias = given[: self.num_weights]
        return weight, bias[0] if bias else None, list(given[self.num_weights + self.num_states :])

    def forward(self, given: tuple[Tensor, ...]) -> list[Tensor]:
        weight, bias, controller_tensors = self._split(given)
        rows, controller = self.rows, self.controller
        self.recorded = rows.keep
        memory, reads0 = self.state.memory, self.state.read_vectors
        size = weight.shape[1]
        self.features = weight.new_empty(rows.total, size + reads0[0].numel())
        hidden = self.features[:, :size]
        controller.start(self.primitives, rows, controller_tensors, hidden, self.state.controller)
        self.tape = MemoryTape(self.primitives, rows, memory, self.interval, self.usage_order)
        self.final_reads = torch.empty_like(reads0)
        if self.at_once:
            self._forward_at_once(weight, bias)
        else:
            self._forward_step_by_step(weight, bias)
        self.tape.release_ring()
        final = DNCState(None, self.tape.final, self.final_reads)
        return [self.features, *controller.final_state(), *tensors(final)]

    def _forward_at_once(self, weight: Tensor, bias: Tensor | None) -> None:
        if bias is None:
            bias = weight.new_zeros(len(weight))
        self.steps = all_steps(
            self.controller, self.tape, weight, bias, self.features, self.state.read_vectors
        )
        self.primitives.forward_steps(self.steps, self.tape.scratch, self.usage_order)
        for t in self.rows.last_steps:
            self._finish(t)

    def _forward_step_by_step(self, weight: Tensor, bias: Tensor | None) -> None:
        size = weight.shape[1]
        weight_t = weight.t()
        reads = self.state.read_vectors.flatten(1)
        for t, active in enumerate(self.rows.batch_sizes):
            self.controller.forward(t, reads[:active])
            output = self.rows.output(t)
            hidden, vectors = self.features[output, :size], self.tape.vectors[self.rows.step(t)]
            if bias is None:
                torch.mm(hidden, weight_t, out=vectors)
            else:
                torch.addmm(bias, hidden, weight_t, out=vectors)
            reads = self.tape.forward(t).flatten(1)
            self.features[output, size:] = reads
            if t in self.rows.last_steps:
                self._finish(t)

    def _finish(self, t: int) -> None:
        """Put away the state of the sequences whose last step was t."""
        self.controller.finish(t)
        self.tape.finish(t)
        ending = self.rows.ending(t)
        self.final_reads[ending] = self.tape.reads[self.rows.step(t)][ending]

    def backward(
        self, given: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]
    ) -> list[Tensor | None]:
        if not self.recorded:
            self._record_again(given)
        weight, bias, _ = self._split(given)
        rows, controller = self.rows, self.controller
        size = weight.shape[1]
        d_features, *d_final = gradients
        num_controller = self.num_states - len(MemoryState._fields) - 1
        controller.start_backward(d_final[:num_controller])
        d_final_memory, d_final_reads = d_final[num_controller:-1], d_final[-1]
        shape = self.tape.reads.shape
        d_reads = weight.new_zeros(shape)
        d_hidden = weight.new_zeros(rows.total, size)
        if d_features is not None:
            d_hidden.copy_(d_features[:, :size])
            d_reads.copy_(d_features[:, size:].view(shape))
        if d_final_reads is not None:
            for t in rows.last_steps:
                ending = rows.ending(t)
                d_reads[rows.step(t)][ending] += d_final_reads[ending]
        d_first_reads = torch.zeros_like(self.state.read_vectors)
        playback = MemoryPlayback(self.tape, d_final_memory, d_reads)
        if self.at_once:
            adjoint = all_adjoints(controller, playback, weight, d_hidden, d_first_reads)
            steps = with_segments(self.steps, playback)
            self.primitives.backward_steps(steps, adjoint, self.tape.scratch, self.usage_order)
        else:
            self._backward_step_by_step(playback, weight, d_hidden, d_first_reads)
        d_weights: list[Tensor | None] = [playback.d_vectors.t() @ self.features[:, :size]]
        if bias is not None:
            d_weights.append(playback.d_vectors.sum(0))
        d_controller, d_controller_state = controller.gradients()
        d_state = [*d_controller_state, *playback.gradient, d_first_reads]
        self.recorded = False
        self.steps = None
        del self.tape, self.features, self.final_reads
        controller.release()
        return [*d_weights, *d_state, *d_controller]

    def _backward_step_by_step(
        self, playback: MemoryPlayback, weight: Tensor, d_hidden: Tensor, d_first_reads: Tensor
    ) -> None:
        rows = self.rows
        for t in reversed(range(rows.steps)):
            d_vector = playback.backward(t)
            d_output = d_hidden[rows.output(t)].addmm_(d_vector, weight)
            d_last_reads = self.controller.backward(t, d_output).reshape(
                -1, *d_first_reads[0].shape
            )
            if t:
                start = rows.step(t - 1).start
                playback.d_reads[start : start + len(d_last_reads)] += d_last_reads
            else:
                d_first_reads.copy_(d_last_reads)

    def _record_again(self, given: tuple[Tensor, ...]) -> None:
        """Pass over the steps once more, with the random numbers of the first time."""
        now = _random_state(self.device)
        _set_random_state(self.device, self.random)
        self.forward(given)
        _set_random_state(self.device, now)


def _random_state(device: torch.device) -> list[Tensor]:
    """What controllers may draw random numbers from."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)


class _Checkpointed(torch.autograd.Function):
    """`_Run` as a function of interface weights, state, and the controller's tensors."""

    @staticmethod
    def forward(ctx: Any, run: _Run, *given: Tensor) -> tuple[Tensor, ...]:
        # Aliases, so that what the run holds has no way back to this node.
        results = tuple(result.detach() for result in run.forward(given))
        if run.rows.keep:
            ctx.run = run
            ctx.save_for_backward(*given)
            ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_gradient()
        return (None, *ctx.run.backward(ctx.saved_tensors, gradients))
