"""Exact backpropagation through time without the history of the link matrix.

One autograd function for a whole batch of sequences: controller, interface layer and memory. It
keeps the vectors of each step and a few checkpoints, see `memory_tape`.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backends.composed import Composed
from ..backends.linking import linking
from ..backends.step import refuse_second_gradient
from ..interface import interface_size
from ..reference import StepOptions
from ..state import DNCState, MemoryState, map_tensors, tensors
from .at_once import all_adjoints, all_steps, with_segments
from .captures import CAPTURES, Replay, can_capture, part_lengths
from .controller_tapes import LayeredTape, ModuleTape, controller_tape
from .in_place import InPlacePlayback, InPlaceTape
from .memory_tape import MemoryPlayback, MemoryTape, checkpoint_interval
from .precision import Precision
from .report import checkpoints_held, matrices_held
from .rows import Rows

LINK = MemoryState._fields.index("link")


class Plan(NamedTuple):
    """What a run does, whatever the numbers.

    | field            | what                                                                 |
    |------------------|----------------------------------------------------------------------|
    | primitives       | a module of `dnc_fast.backends`                                      |
    | options          | of the memory's steps                                                |
    | parts            | of composed steps; None for steps with the dense link matrix         |
    | in_place         | whether steps write to few cells, in one memory for all of them      |
    | interval         | K; None for the rule of `checkpoint_interval`                        |
    | checkpoint_dtype | of the link matrices of checkpoints; None for the state's            |
    | precision        | of the run                                                           |
    | capture          | whether graphs may be captured and replayed, see `captures`          |
    """

    primitives: Any
    options: StepOptions
    parts: Any
    in_place: bool
    interval: int | None
    checkpoint_dtype: torch.dtype | None
    precision: Precision
    capture: bool


@torch.compiler.disable
def run_checkpointed(
    controller: nn.Module,
    interface: nn.Linear,
    x: Tensor,
    batch_sizes: list[int],
    state: DNCState,
    plan: Plan,
) -> tuple[Tensor, DNCState]:
    """Take a batch of sequences through a DNC.

    Args:
        controller, interface: the cell's parts.
        x: (sum of batch_sizes, X), step after step.
        batch_sizes: how many sequences each step still has; never grows.
        state: complete, before the first step.
        plan: how.

    Returns:
        features (rows, L H + R W), and the state of each sequence after its own last step.
    """
    weights = [interface.weight] if interface.bias is None else [interface.weight, interface.bias]
    tape = controller_tape(controller, x)
    keep = torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*weights, *tensors(state), *tape.tensors)
    )
    own = state.controller
    if plan.precision.half is not None:  # what is carried is in full, also from part to part
        state = state._replace(
            controller=map_tensors(lambda tensor: tensor.to(plan.precision.full), own)
        )
    whole = Run(tape, Rows(batch_sizes, keep), state, len(weights), plan)
    lengths = part_lengths(len(batch_sizes))
    if plan.capture and can_capture(whole, lengths):
        assert isinstance(tape, LayeredTape)
        found = []
        parts = tape.split([length * batch_sizes[0] for length in lengths])
        for part, length in zip(parts, lengths, strict=True):
            given = _given(weights, state, part)
            run = Run(part, Rows(batch_sizes[:length], keep), state, len(weights), plan)
            features, state = _apply(CAPTURES.run(run, given), given, state)
            found.append(features)
        features = torch.cat(found) if len(found) > 1 else found[0]
    else:
        features, state = _apply(whole, _given(weights, state, tape), state)
    if plan.precision.half is not None:
        dtypes = iter([tensor.dtype for tensor in tensors(own)])
        state = state._replace(
            controller=map_tensors(lambda tensor: tensor.to(next(dtypes)), state.controller)
        )
    return features, state


def _given(weights: list[Tensor], state: DNCState, tape: LayeredTape | ModuleTape) -> list[Tensor]:
    """What a run is given; the tape forgets it, autograd holds it for as long as it needs it."""
    given = [*weights, *tensors(state), *tape.tensors]
    tape.tensors = []
    return given


def _apply(run: Run | Replay, given: list[Tensor], state: DNCState) -> tuple[Tensor, DNCState]:
    """The features of a run, and its final state in the form of the first."""
    features, *final = _Checkpointed.apply(run, *given)
    parts = iter(final)
    return features, map_tensors(lambda _: next(parts), state)


class Run:
    """One pass over the steps and the way back.

    What the pass kept is freed on the way back. Another way back (retain_graph) passes over the
    steps again first, with the same random numbers.

    Args:
        controller: its tape.
        rows: where the states lie.
        state: of the shapes that the run is for.
        num_weights: tensors of the interface layer.
        plan: what to do.
    """

    def __init__(
        self,
        controller: LayeredTape | ModuleTape,
        rows: Rows,
        state: DNCState,
        num_weights: int,
        plan: Plan,
    ) -> None:
        assert state.memory is not None
        self.controller = controller
        self.rows = rows
        self.plan = plan
        self.primitives, self.precision = plan.primitives, plan.precision
        self.sizes = state.memory.sizes
        self.interval = plan.interval or checkpoint_interval(
            rows.steps,
            self.sizes,
            state.memory.memory.element_size(),
            plan.parts is None,
            plan.in_place,
        )
        self.device = state.memory.memory.device
        self.num_weights = num_weights
        self.num_states = len(list(tensors(state)))
        self._composed: Composed | None = None
        self._nest = map_tensors(lambda tensor: tensor.new_empty(0), state)
        self._random = _random_state(self.device) if rows.keep and controller.draws else []
        self._recorded = False
        self._steps: Any = None

    def another(self) -> Run:
        """A run like this one, not begun."""
        run = copy.copy(self)
        run.controller = copy.copy(self.controller)
        return run

    @property
    def at_once(self) -> bool:
        """Whether the backend takes all steps in one call."""
        return (
            hasattr(self.primitives, "forward_steps")
            and self.plan.parts is None
            and not self.controller.draws
            and self.precision.half is None
            and self.plan.checkpoint_dtype is None
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides which work is done, but for the shapes of what is given."""
        plan, controller = self.plan, self.controller
        assert isinstance(controller, LayeredTape)
        return (
            *(plan.primitives.__name__, plan.options, self.interval, plan.checkpoint_dtype),
            *(plan.precision, self.sizes, self.rows.steps, self.rows.keep, self.num_weights),
            *(controller.kind, controller.hidden_size, controller.activation_clip),
        )

    def held_bytes(self, steps: int) -> int:
        """About what so many of its steps hold at their peak."""
        B, N, W, R, Hw = self.sizes
        rows, controller = B * steps, self.controller
        assert isinstance(controller, LayeredTape)
        matrices, vectors = 4, 2 * B  # those around a run, and two that take turns
        if self.rows.keep:
            matrices = matrices_held(steps, self.interval, eager=False)
            matrices += checkpoints_held(steps, self.interval)
            vectors = rows + B
        numbers = matrices * B * N * (Hw * N + W) + vectors * (1 + 2 * Hw + R) * N
        numbers += 2 * rows * (interface_size(W, R, Hw) + R * W + controller.kept_numbers)
        return numbers * self.precision.full.itemsize

    def _split(
        self, given: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor | None, DNCState, list[Tensor]]:
        """Interface weight, its bias, the state before the first step, the controller's tensors."""
        weight, *bias = given[: self.num_weights]
        parts = iter(given[self.num_weights :])
        state = map_tensors(lambda _: next(parts).detach(), self._nest)
        return weight, bias[0] if bias else None, state, list(parts)

    def forward(self, given: tuple[Tensor, ...]) -> list[Tensor]:
        """Take all steps.

        Args:
            given: tensors of the interface layer, of the state, of the controller's tape.

        Returns:
            features, and the tensors of the final state.
        """
        weight, bias, state, controller_tensors = self._split(given)
        rows, controller, precision = self.rows, self.controller, self.precision
        memory, reads0 = state.memory, state.read_vectors
        assert memory is not None and reads0 is not None
        self._recorded = rows.keep
        size = weight.shape[1]
        self.features = weight.new_empty(
            rows.total, size + reads0[0].numel(), dtype=precision.output
        )
        hidden = self.features[:, :size]
        controller.start(
            self.primitives, precision, rows, controller_tensors, hidden, state.controller
        )
        self.tape = self._memory_tape(memory)
        self.final_reads = torch.empty_like(reads0)
        if self.at_once:
            self._forward_at_once(weight, bias, reads0)
        else:
            self._forward_step_by_step(weight, bias, reads0)
        self.tape.release_ring()
        final = self.tape.result()
        if self._composed is not None:
            final = final._replace(link=self._composed.linking.final())
        return [self.features, *controller.final_state(), *tensors(final), self.final_reads]

    def _memory_tape(self, memory: MemoryState) -> MemoryTape:
        plan, rows = self.plan, self.rows
        common = (rows, memory, self.interval, plan.options.usage_order, plan.checkpoint_dtype)
        if plan.parts is None:
            return MemoryTape(self.primitives, *common)
        links = linking(memory.link, plan.parts, plan.options, rows.steps, rows.keep)
        self._composed = Composed(plan.parts, links, plan.options, rows.keep)
        B, Hw = self.sizes.batch_size, self.sizes.num_write_heads
        memory = memory._replace(link=memory.memory.new_empty(B, Hw, 0, 0))  # it goes by itself
        kind = InPlaceTape if plan.in_place else MemoryTape
        return kind(self._composed, rows, memory, *common[2:])

    def _forward_at_once(self, weight: Tensor, bias: Tensor | None, reads0: Tensor) -> None:
        assert isinstance(self.controller, LayeredTape)
        if bias is None:
            bias = weight.new_zeros(len(weight))
        self._steps = all_steps(self.controller, self.tape, weight, bias, self.features, reads0)
        order = self.plan.options.usage_order
        self.primitives.forward_steps(self._steps, self.tape.scratch, order)
        for t in self.rows.last_steps:
            self._finish(t)

    def _forward_step_by_step(self, weight: Tensor, bias: Tensor | None, reads0: Tensor) -> None:
        size = weight.shape[1]
        weight_t = self.precision.operand(weight).t()
        reads = reads0.flatten(1)
        for t, active in enumerate(self.rows.batch_sizes):
            self.controller.forward(t, reads[:active])
            output = self.rows.output(t)
            hidden, vectors = self.features[output, :size], self.tape.vectors[self.rows.step(t)]
            self.precision.fill(vectors, hidden, weight_t, bias)
            reads = self.tape.forward(t).flatten(1)
            if not self.rows.keep:
                self.features[output, size:] = reads
            if t in self.rows.last_steps:
                self._finish(t)
        if self.rows.keep:  # reads of all steps lie as the output does
            self.features[:, size:] = self.tape.reads.flatten(1)

    def _finish(self, t: int) -> None:
        """Put away the state of the sequences whose last step was t."""
        self.controller.finish(t)
        self.tape.finish(t)
        ending = self.rows.ending(t)
        self.final_reads[ending] = self.tape.reads[self.rows.step(t)][ending]

    def backward(
        self, given: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]
    ) -> list[Tensor | None]:
        """Go back over all steps, and free what they kept.

        Args:
            given: as for `forward`.
            gradients: of its results; None stands for zeros.

        Returns:
            gradients of `given`.
        """
        if not self._recorded:
            self._record_again(given)
        found = self.play_back(given, gradients)
        self._recorded = False
        self._steps = None
        self._composed = None
        del self.tape, self.features, self.final_reads
        self.controller.release()
        return found

    def play_back(
        self, given: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]
    ) -> list[Tensor | None]:
        """`backward`, of steps that were just taken, and freeing nothing."""
        weight, bias, state, _ = self._split(given)
        rows, controller, precision = self.rows, self.controller, self.precision
        assert state.read_vectors is not None
        size = weight.shape[1]
        d_features, *d_final = gradients
        num_controller = self.num_states - len(list(tensors(self._nest.memory))) - 1
        controller.start_backward(d_final[:num_controller])
        d_final_memory, d_final_reads = d_final[num_controller:-1], d_final[-1]
        d_reads = torch.zeros_like(self.tape.reads)
        d_hidden = weight.new_zeros(rows.total, size, dtype=precision.full)
        if d_features is not None:
            d_hidden.copy_(d_features[:, :size])
            d_reads.copy_(d_features[:, size:].view(d_reads.shape))
        if d_final_reads is not None:
            for t in rows.last_steps:
                ending = rows.ending(t)
                d_reads[rows.step(t)][ending].add_(d_final_reads[ending])
        d_first_reads = torch.zeros_like(state.read_vectors)
        playback = self._playback(d_final_memory, d_reads)
        if self.at_once:
            assert isinstance(controller, LayeredTape)
            adjoint = all_adjoints(controller, playback, weight, d_hidden, d_first_reads)
            steps = with_segments(self._steps, playback)
            order = self.plan.options.usage_order
            self.primitives.backward_steps(steps, adjoint, self.tape.scratch, order)
        else:
            self._backward_step_by_step(playback, weight, d_hidden, d_first_reads)
        d_weight = precision.product(playback.d_vectors.t(), self.features[:, :size])
        d_weights: list[Tensor | None] = [d_weight.to(weight.dtype)]
        if bias is not None:
            d_weights.append(playback.d_vectors.sum(0).to(bias.dtype))
        d_controller, d_controller_state = controller.gradients()
        d_memory = list(playback.gradient)
        if self._composed is not None:
            d_memory[LINK : LINK + 1] = self._composed.linking.gradient()
        return [*d_weights, *d_controller_state, *d_memory, d_first_reads, *d_controller]

    def _playback(self, d_final: list[Tensor | None], d_reads: Tensor) -> MemoryPlayback:
        if self._composed is None:
            return MemoryPlayback(self.tape, d_final, d_reads)
        after = len(d_final) - (len(MemoryState._fields) - LINK - 1)
        self._composed.linking.start_backward(d_final[LINK:after])
        d_final = [*d_final[:LINK], None, *d_final[after:]]
        if isinstance(self.tape, InPlaceTape):
            return InPlacePlayback(self.tape, d_final, d_reads)
        return MemoryPlayback(self.tape, d_final, d_reads)

    def _backward_step_by_step(
        self, playback: MemoryPlayback, weight: Tensor, d_hidden: Tensor, d_first_reads: Tensor
    ) -> None:
        rows = self.rows
        weight = self.precision.operand(weight)
        for t in reversed(range(rows.steps)):
            d_vector = playback.backward(t)
            d_output = self.precision.add(d_hidden[rows.output(t)], d_vector, weight)
            d_last_reads = self.controller.backward(t, d_output).reshape(
                -1, *d_first_reads[0].shape
            )
            if t:
                start = rows.step(t - 1).start
                playback.d_reads[start : start + len(d_last_reads)].add_(d_last_reads)
            else:
                d_first_reads.copy_(d_last_reads)

    def _record_again(self, given: tuple[Tensor, ...]) -> None:
        """Pass over the steps once more, with the random numbers of the first time."""
        if not self._random:
            self.forward(given)
            return
        now = _random_state(self.device)
        _set_random_state(self.device, self._random)
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
    """A run as a function of interface weights, state, and the controller's tensors."""

    @staticmethod
    def forward(ctx: Any, run: Any, *given: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(given[0].device.type, enabled=False):  # see `Precision`
            # Aliases, so that what the run holds has no way back to this node.
            results = tuple(result.detach() for result in run.forward(given))
        ctx.mark_non_differentiable(*(r for r in results if not r.is_floating_point()))
        if run.rows.keep:
            ctx.run = run
            ctx.save_for_backward(*given)
            ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_gradient()
        given = ctx.saved_tensors
        with torch.autocast(given[0].device.type, enabled=False):
            return (None, *ctx.run.backward(given, gradients))
