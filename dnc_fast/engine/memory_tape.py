"""The memory over the steps of a batch: keeps every step's vectors and every K-th step's matrices.

Memory and link matrix after a step follow from those before it and from vectors alone (write
weightings, precedence, erase and write vectors). So the backward pass rebuilds them from the last
checkpoint, one segment of K steps at a time, and never holds more than T / K + K of each.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..backends.parts import StepRun
from ..backends.step import final_gradients
from ..kernels.arrays import Adjoint, Step
from ..layout import Layout
from ..state import MemorySizes, MemoryState
from .card import free_bytes

KEEP_ALL_BELOW = 32 * 2**20
"""Off a GPU: if the link matrices of all steps take at most this many bytes, all are kept."""

SHARE_OF_FREE = 4
"""On a GPU: matrices may take one part in this many of its free memory."""

_intervals_on_card: dict[tuple[Any, ...], int] = {}
"""K for sizes on a GPU, chosen once per process, so that it does not change with use."""


def checkpoint_interval(
    steps: int,
    sizes: MemorySizes,
    itemsize: int,
    matrix: bool = True,
    in_place: bool = False,
    device: torch.device | None = None,
) -> int:
    """K: 1 if the matrices of all steps may be kept, otherwise the root of T, rounded up.

    Off a GPU, link matrices may take `KEEP_ALL_BELOW`. On a GPU, where rebuilding takes launches,
    link matrices and memories may take a share of what is free when these sizes are first seen,
    see `SHARE_OF_FREE`, and K is the smallest with which they do: the larger K, the more steps are
    rebuilt.

    Checkpoints and the segment that is rebuilt take T / K + K matrices, which is least at that
    root. If the link is not a matrix, memories count instead. If memory is written in place, usage
    and precedence count, and if those of all steps fit, all steps are one segment: K is T.
    """
    B, N, W, _, Hw = sizes
    for_each_cell = 1 + Hw if in_place else Hw * N if matrix else W
    one_step = B * N * for_each_cell * itemsize
    least = math.isqrt(steps - 1) + 1
    if device is None or device.type != "cuda":
        all_fit = steps * one_step <= KEEP_ALL_BELOW
        return (steps if in_place else 1) if all_fit else least
    key = device, steps, sizes, itemsize, matrix, in_place
    if key not in _intervals_on_card:
        one_step += B * N * W * itemsize if matrix else 0
        fitting = free_bytes(device) // (SHARE_OF_FREE * one_step)
        if in_place:
            interval = steps if steps <= fitting else least
        else:
            fit = (K for K in range(1, least) if -(-steps // K) + (K if K > 1 else 0) <= fitting)
            interval = next(fit, least)
        _intervals_on_card[key] = interval
    return _intervals_on_card[key]


class MemoryTape:
    """Records a forward run of the memory.

    Args:
        steps: runs the memory from step to step.
        layout: the rows of each step.
        state: the memory before the first step, with its link as a matrix.
        interval: K.
        checkpoint_dtype: of the link matrices of checkpoints; None for the state's.
    """

    def __init__(
        self,
        steps: StepRun,
        layout: Layout,
        state: MemoryState,
        interval: int,
        checkpoint_dtype: torch.dtype | None = None,
    ) -> None:
        _, N, W, R, Hw = state.sizes
        self.steps = steps
        self.layout = layout
        self.interval = interval if layout.keep else layout.steps
        self.link_dtype = checkpoint_dtype or state.link.dtype
        self.initial = MemoryState(*(tensor.detach().contiguous() for tensor in state))
        self.final = MemoryState(*map(torch.empty_like, self.initial))
        new = state.memory.new_empty
        self.vectors = new(layout.num_step_rows, steps.options.interface_length(W, R, Hw))
        self.reads = new(layout.total, R, W)  # of all steps, kept or not: they are output
        sizes = {
            "usage": (N,), "precedence": (Hw, N), "write_weights": (Hw, N), "read_weights": (R, N)
        }  # fmt: skip
        self.vector_states = {name: new(self.num_rows(name), *size) for name, size in sizes.items()}
        for name, buffer in self.vector_states.items():
            buffer[: layout.batch_size] = getattr(self.initial, name)
        self.checkpoints: dict[int, tuple[Tensor, Tensor]] = {}
        self._ring: list[tuple[Tensor, Tensor]] = []
        self._arrays = {name: steps.array(part) for name, part in self.vector_states.items()}
        self._vectors, self._reads = map(steps.array, (self.vectors, self.reads))

    def alternates(self, name: str) -> bool:
        """Whether a vector state has two blocks of B rows that alternate, instead of all steps'."""
        return not self.layout.keep

    def num_rows(self, name: str) -> int:
        """Rows of the buffer of a vector state."""
        return 2 * self.layout.batch_size if self.alternates(name) else self.layout.num_state_rows

    def around(self, name: str, t: int) -> tuple[slice, slice]:
        """The rows of a vector state before and after step t, for the sequences in it."""
        if not self.alternates(name):
            return self.layout.before(t), self.layout.after(t)
        starts, size = (
            [(t + k) % 2 * self.layout.batch_size for k in (0, 1)],
            self.layout.batch_sizes[t],
        )
        return slice(starts[0], starts[0] + size), slice(starts[1], starts[1] + size)

    def forward(self, t: int) -> Tensor:
        """Run step t, whose interface vectors are in `vectors`.

        Returns:
            read vectors (b, R, W).
        """
        place, size = self.layout.output(t), self.layout.batch_sizes[t]
        memory0, link0 = self.matrices(t)
        memory1, link1 = self.matrices(t + 1)
        step = self._step(
            t, memory0[:size], memory1[:size], link0[:size], link1[:size], self._reads[place]
        )
        self.steps.forward(step)
        if t + 1 in self.checkpoints:
            kept = self.checkpoints[t + 1][1]
            if kept is not link1:
                kept.copy_(link1[:size])
        return self.reads[place]

    def finish(self, t: int) -> None:
        """Save the final state of the sequences whose last step was t."""
        ending = self.layout.ending(t)
        for name, buffer in self.vector_states.items():
            getattr(self.final, name)[ending] = buffer[self.around(name, t)[1]][ending]
        memory, link = self.matrices(t + 1)
        if memory is not self.final.memory:
            self.final.memory[ending] = memory[ending]
            self.final.link[ending] = link[ending]

    def result(self) -> MemoryState:
        """The final state, to be returned to the caller."""
        return self.final

    def matrices(self, t: int) -> tuple[Tensor, Tensor]:
        """The memory and link matrix before step t, to be read or written."""
        if t == 0:
            return self.initial.memory, self.initial.link
        if t == self.layout.steps:
            return self.final.memory, self.final.link
        if t % self.interval == 0:
            if t not in self.checkpoints:
                size = self.layout.batch_sizes[t - 1]
                self.checkpoints[t] = self._new_matrices(size, self.link_dtype)
            memory, link = self.checkpoints[t]
            return memory, link if link.dtype == self.initial.link.dtype else self._turn(t)[1]
        return self._turn(t)

    def _turn(self, t: int) -> tuple[Tensor, Tensor]:
        """One of the two that alternate."""
        while len(self._ring) < 2:
            self._ring.append(self._new_matrices(self.layout.batch_size, self.initial.link.dtype))
        return self._ring[t % 2]

    def _new_matrices(self, size: int, link_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        memory, link = self.initial.memory, self.initial.link
        return (
            memory.new_empty(size, *memory.shape[1:]),
            link.new_empty(size, *link.shape[1:], dtype=link_dtype),
        )

    def _step(
        self,
        t: int,
        memory0: Tensor,
        memory1: Tensor,
        link0: Tensor,
        link1: Tensor,
        reads: Any,
    ) -> Step:
        """The arrays of step t."""
        array = self.steps.array
        usage, precedence, write, read = (
            [buffer[rows] for rows in self.around(name, t)] for name, buffer in self._arrays.items()
        )
        return Step(
            self._vectors[self.layout.step(t)],
            *(array(memory0), array(memory1), *usage, *precedence),
            *(array(link0), array(link1), *write, *read),
            reads,
        )

    def release_ring(self) -> None:
        """Free what only the forward pass needed."""
        self._ring = []

    def begin_backward(self, d_final: list[Tensor | None], d_reads: Tensor) -> MemoryGradients:
        """Begin the backward pass; see `MemoryGradients`."""
        return MemoryGradients(self, d_final, d_reads)


class MemoryGradients:
    """Gradients in the backward pass through a `MemoryTape`, from the last step to the first.

    Args:
        tape: recorded with everything kept.
        d_final: gradients of the final state's tensors; None means zeros.
        d_reads: (rows, R, W), gradients of the read vectors; each step adds to them.
    """

    def __init__(self, tape: MemoryTape, d_final: list[Tensor | None], d_reads: Tensor) -> None:
        self.tape = tape
        self.state = final_gradients(d_final, tape.steps, tape.initial)
        self.vectors = torch.empty_like(tape.vectors)
        self.reads = d_reads
        array = tape.steps.array
        self._vectors, self._reads = array(self.vectors), array(d_reads)
        self._state = [array(part) for part in self.state]
        self._first = tape.layout.steps
        self._segment: list[tuple[Tensor, Tensor]] = []
        self._spare: list[tuple[Tensor, Tensor]] = []
        self._widened: Tensor | None = None

    def backward(self, t: int) -> Tensor:
        """Run step t backward; t decreases from call to call.

        Returns:
            gradients of its interface vectors (b, interface size).
        """
        tape, layout = self.tape, self.tape.layout
        if t < self._first:
            self._first, self._segment = t - t % tape.interval, self.segment(t)
            self._rebuild(t)
        size, place = layout.batch_sizes[t], layout.step(t)
        (memory0, link0), (memory1, _) = self._segment[t - self._first : t - self._first + 2]
        step = tape._step(
            t, memory0[:size], memory1[:size], link0[:size], link0[:size], self._reads[place]
        )
        memory, usage, precedence, link, write, read = (part[:size] for part in self._state)
        adjoint = Adjoint(self._vectors[place], memory, usage, precedence, link, write, read)
        tape.steps.backward(step, adjoint)
        return self.vectors[place]

    def segment(self, last: int) -> list[tuple[Tensor, Tensor]]:
        """The matrices of the segment that ends with step `last`, kept or to be rebuilt.

        Those before its first step and after each step. The link matrix after the last step is
        never used.
        """
        tape, steps = self.tape, self.tape.layout.steps
        first = last - last % tape.interval
        matrices = [self._matrices_before(first)]
        for place, t in enumerate(range(first, last + 1)):
            if self.kept(t):
                matrices.append(tape.checkpoints[t + 1])
                continue
            if place == len(self._spare):
                memory, link = tape.initial.memory, tape.initial.link
                needs_link = place + 1 < min(tape.interval, steps)
                self._spare.append(
                    (torch.empty_like(memory), torch.empty_like(link) if needs_link else link)
                )
            matrices.append(self._spare[place])
        return matrices

    def _matrices_before(self, first: int) -> tuple[Tensor, Tensor]:
        """The matrices at the start of the segment that begins with step `first`."""
        tape = self.tape
        memory, link = tape.checkpoints.get(first, (tape.initial.memory, tape.initial.link))
        if link.dtype == tape.initial.link.dtype:
            return memory, link
        if self._widened is None:
            self._widened = torch.empty_like(tape.initial.link)
        return memory, self._widened[: len(link)].copy_(link)

    def kept(self, t: int) -> bool:
        """Whether a checkpoint holds the matrices after step t."""
        return t + 1 in self.tape.checkpoints

    def _rebuild(self, last: int) -> None:
        """Rebuild the matrices of the segment that ends with step `last`."""
        tape, layout = self.tape, self.tape.layout
        for place, t in enumerate(range(self._first, last + 1)):
            if self.kept(t):
                return
            size = layout.batch_sizes[t]
            (memory0, link0), (memory1, link1) = self._segment[place : place + 2]
            step = tape._step(
                t,
                memory0[:size],
                memory1[:size],
                link0[:size],
                link1[:size],
                self._reads[layout.step(t)],
            )
            tape.steps.rebuild(step, with_link=t < last)
