"""An estimate of the memory that a training step will take."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..linkages import Linkage, LinkBudget, LinkSizes
from ..state import MemorySizes
from .interface_layer import InterfaceForm
from .memory_tape import checkpoint_interval
from .plan import Plan


class MemoryReport(NamedTuple):
    """Peak memory of one training step in bytes, by part, without input and optimizer.

    | field           | what                                                                 |
    |-----------------|----------------------------------------------------------------------|
    | parameters      | parameters and their gradients                                       |
    | link_matrices   | checkpoints, the segment that is rebuilt, the gradient               |
    | memory_matrices | likewise                                                             |
    | weightings      | usage, precedence, write and read weightings of every step, and      |
    |                 | what else the kernels of a step keep for its backward pass           |
    | interface       | interface and read vectors of every step, and their gradients        |
    | controller      | the controller's activations of every step, and their gradients      |
    | outputs         | hidden activations, read vectors, outputs, and their gradients       |
    """

    parameters: int
    link_matrices: int
    memory_matrices: int
    weightings: int
    interface: int
    controller: int
    outputs: int

    @property
    def total(self) -> int:
        """All parts, in bytes."""
        return sum(self)

    def __str__(self) -> str:
        rows = [*self._asdict().items(), ("total", self.total)]
        return "\n".join(
            f"{name.replace('_', ' '):<16}{value / 2**20:10.1f} MiB" for name, value in rows
        )

    def __add__(self, other: object) -> MemoryReport:
        """Add part by part, for the two directions of a bidirectional DNC."""
        assert isinstance(other, MemoryReport)
        return MemoryReport(*(a + b for a, b in zip(self, other, strict=True)))


def checkpoints_held(steps: int, interval: int) -> int:
    """Checkpoints between the first step and the last."""
    return (steps - 1) // interval


def matrices_held(steps: int, interval: int, in_torch: bool, narrow: bool = False) -> int:
    """Link matrices (or memories) that are held at the peak, besides checkpoints.

    Those before the first step and after the last, plus the larger need of the two passes: forward,
    two that alternate; backward, the segment that is rebuilt, the gradient, and (in plain torch)
    three temporary ones. If checkpoints are narrower than the state, steps write to the two that
    alternate, and a segment begins with its checkpoint widened.
    """
    forward = 0 if interval == 1 and not narrow else 2
    segment, gradient = min(interval, steps) - 1, 1
    backward = segment + gradient + (3 if in_torch else 0) + (1 if narrow else 0)
    return 2 + max(forward, backward)


def vectors_kept(
    steps: int, interval: int, sizes: MemorySizes, in_place: bool, cut_heads: int
) -> int:
    """Vectors of N numbers that are kept for all steps of a sequence.

    If memory is written in place, usage and precedence are kept for one segment and checkpoints.
    """
    R, Hw = sizes.num_read_heads, sizes.num_write_heads
    held = steps + 1
    if in_place:
        held = min(interval, steps) + 1 + checkpoints_held(steps, interval)
    return held * (1 + Hw) + (steps + 1) * (R + Hw - cut_heads)


def memory_report(
    plan: Plan,
    sizes: MemorySizes,
    linkage: Linkage,
    device: torch.device,
    *,
    steps: int,
    fan_out: int,
    state_dtype: torch.dtype,
    itemsize: int,
    controller_numbers: int,
    interface: InterfaceForm,
    features: int,
    output_size: int,
    parameters: int,
) -> MemoryReport:
    """The engine's report for one direction.

    Args:
        plan: how sequences are run.
        sizes, linkage, device: of the memory.
        steps: T.
        fan_out: K, entries in each row of a sparse link matrix.
        state_dtype: dtype of the memory.
        itemsize: bytes per parameter.
        controller_numbers: numbers that the controllers keep per step and sequence.
        interface: which tensors the interface layer has.
        features: what the output layer sees, F.
        output_size: Y.
        parameters: their number.
    """
    B, N, W, R, Hw = sizes
    rows, state_itemsize = B * steps, state_dtype.itemsize
    interval = plan.interval or checkpoint_interval(
        steps, sizes, state_itemsize, linkage.is_matrix, plan.in_place, device
    )
    checkpoints = checkpoints_held(steps, interval)
    in_torch = plan.backend.in_torch
    # In place: the first, the last, the one that is restored, and the gradient.
    memories = 3 if plan.in_place else checkpoints + matrices_held(steps, interval, in_torch)
    checkpoint_dtype = plan.checkpoint_dtype or state_dtype
    narrow = checkpoint_dtype.itemsize != state_itemsize
    link_bytes = linkage.bytes(
        LinkSizes(B, Hw, N, fan_out),
        LinkBudget(
            steps=steps,
            num_read_heads=R,
            itemsize=state_itemsize,
            checkpoint_itemsize=checkpoint_dtype.itemsize,
            matrices=matrices_held(steps, interval, in_torch, narrow),
            checkpoints=checkpoints,
        ),
    )
    cut_heads = (Hw + (R if plan.options.read_topk else 0)) if plan.in_place else 0
    vectors = vectors_kept(steps, interval, sizes, plan.in_place, cut_heads)
    kept = 0
    if plan.backend.fuses(plan.options, linkage.is_matrix):
        kept = rows * plan.backend.kept_numbers(sizes, plan.options)
    else:  # temporary, as measured, about
        vectors += 8 * (R + Hw) + 3 * cut_heads
        if plan.options.link_sharpness:  # both directional weightings
            vectors += 2 * steps * R * Hw
    # Each vector and its gradient; before normalisation; from the end, with the gradient.
    copies = 2 + interface.norm + 2 * interface.ahead
    return MemoryReport(
        parameters=2 * parameters * itemsize,
        link_matrices=link_bytes,
        memory_matrices=(memories + 1) * B * N * W * state_itemsize,
        weightings=(vectors * B * N + kept) * state_itemsize,
        interface=rows
        * (copies * plan.options.interface_length(W, R, Hw) + 2 * R * W)
        * state_itemsize,
        controller=rows * controller_numbers * itemsize,
        outputs=3 * rows * features * itemsize + 2 * rows * output_size * itemsize,
    )
