"""What a training step will take, before it is run."""

from __future__ import annotations

from typing import NamedTuple

from ..state import MemorySizes


class MemoryReport(NamedTuple):
    """Bytes that one training step holds at its peak, by part. Input and optimizer not counted.

    | field           | what                                                                 |
    |-----------------|----------------------------------------------------------------------|
    | parameters      | parameters and their gradients                                       |
    | link_matrices   | checkpoints, the segment made anew, the gradient                     |
    | memory_matrices | likewise                                                             |
    | weightings      | usage, precedence, write and read weightings of every step           |
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
        """Part by part: the two directions of a bidirectional DNC."""
        assert isinstance(other, MemoryReport)
        return MemoryReport(*(a + b for a, b in zip(self, other, strict=True)))


def checkpoints_held(steps: int, interval: int) -> int:
    """Checkpoints between the first step and the last."""
    return (steps - 1) // interval


def matrices_held(steps: int, interval: int, eager: bool, narrow: bool = False) -> int:
    """Link matrices (or memories) that are held at the peak, besides checkpoints.

    The state before the first step and after the last, and the larger of what forward and backward
    need besides: two that take turns, or the segment that is made anew, the gradient, and (in plain
    torch) three in passing. Where checkpoints are narrower than the state, steps write to the two
    that take turns, and a segment begins with its checkpoint made wide.
    """
    forward = 0 if interval == 1 and not narrow else 2
    segment, gradient = min(interval, steps) - 1, 1
    backward = segment + gradient + (3 if eager else 0) + (1 if narrow else 0)
    return 2 + max(forward, backward)


def link_bytes(linkage: str, sizes: MemorySizes, steps: int, fan_out: int, itemsize: int) -> int:
    """What a linkage that is not dense holds: values and columns, or all writes, and gradients.

    A sparse link is held as it was before the first step, after the last, and on the way back; rows
    that a step changes pass through about four arrays.
    """
    B, N, _, _, Hw = sizes
    if linkage == "sparse":
        return B * Hw * N * fan_out * (3 * (itemsize + 4) + 5 * itemsize)
    return 4 * steps * B * Hw * N * itemsize if linkage == "separable" else 0


def vectors_in_passing(R: int, Hw: int, linked: bool, cut_heads: int) -> int:
    """Vectors of N numbers that a composed step makes besides those that are kept, about."""
    return 8 * R + 8 * Hw + (8 * R * Hw if linked else 0) + 8 * cut_heads


def vectors_kept(
    steps: int, interval: int, sizes: MemorySizes, in_place: bool, cut_heads: int
) -> int:
    """Vectors of N numbers that are kept of all steps of a sequence.

    Where memory is written in place, usage and precedence are of a segment and of checkpoints.
    """
    R, Hw = sizes.num_read_heads, sizes.num_write_heads
    held = steps + 1
    if in_place:
        held = min(interval, steps) + 1 + checkpoints_held(steps, interval)
    return held * (1 + Hw) + (steps + 1) * (R + Hw - cut_heads)


def memory_report(
    *,
    steps: int,
    sizes: MemorySizes,
    interval: int,
    eager: bool,
    itemsize: int,
    state_itemsize: int,
    checkpoint_itemsize: int,
    interface_size: int,
    controller_numbers: int,
    features: int,
    output_size: int,
    parameters: int,
    linkage: str = "dense",
    fan_out: int = 1,
    in_place: bool = False,
    cut_heads: int = 0,
) -> MemoryReport:
    """The report of the engine for one direction.

    Args:
        steps: T.
        sizes: of the memory.
        interval: K.
        eager: whether the backend is "eager".
        itemsize, state_itemsize, checkpoint_itemsize: bytes of a number of the parameters, of the
            state, of the link matrices of checkpoints.
        interface_size: length of the interface vector.
        controller_numbers: numbers that the controller keeps at each step of a sequence.
        features: L H + R W.
        output_size: Y.
        parameters: how many there are.
        linkage, fan_out: one of `LINKAGES`, and entries in a row of a sparse link matrix.
        in_place: whether steps write to few cells, in one memory for all of them.
        cut_heads: heads of whose weightings only some entries are kept.
    """
    B, N, W, R, Hw = sizes
    rows = B * steps
    checkpoints = checkpoints_held(steps, interval)
    # In place: the first, the last, the one that goes back, and the gradient.
    memories = 3 if in_place else checkpoints + matrices_held(steps, interval, eager)
    if linkage == "dense":
        narrow = checkpoint_itemsize != state_itemsize
        links = matrices_held(steps, interval, eager, narrow) * state_itemsize
        links = (links + checkpoints * checkpoint_itemsize) * B * Hw * N * N
    else:
        links = link_bytes(linkage, sizes, steps, fan_out, state_itemsize)
    vectors = vectors_kept(steps, interval, sizes, in_place, cut_heads)
    if linkage != "dense":
        vectors += vectors_in_passing(R, Hw, linkage != "none", cut_heads)
    return MemoryReport(
        parameters=2 * parameters * itemsize,
        link_matrices=links,
        memory_matrices=(memories + 1) * B * N * W * state_itemsize,
        weightings=vectors * B * N * state_itemsize,
        interface=2 * rows * (interface_size + R * W) * state_itemsize,
        controller=rows * controller_numbers * itemsize,
        outputs=3 * rows * features * itemsize + 2 * rows * output_size * itemsize,
    )
