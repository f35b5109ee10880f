"""What a DNC did at each step of a sequence: for pictures and debugging."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .interface import Interface
from .reference import Weightings
from .state import MemoryState


class Trace(NamedTuple):
    """Every weighting, gate, usage and strength of every step, detached.

    The leading axes are those of the output: (T, B), or (B, T) with batch_first, or (T) unbatched.
    The trace of a PackedSequence is padded with zeros past the end of each sequence.

    | field                  | shape                                                         |
    |------------------------|---------------------------------------------------------------|
    | read_keys              | (T, B, R, W)                                                  |
    | read_strengths         | (T, B, R)                                                     |
    | write_keys             | (T, B, Hw, W)                                                 |
    | write_strengths        | (T, B, Hw)                                                    |
    | erase_vectors          | (T, B, Hw, W)                                                 |
    | write_vectors          | (T, B, Hw, W)                                                 |
    | free_gates             | (T, B, R)                                                     |
    | allocation_gates       | (T, B, Hw)                                                    |
    | write_gates            | (T, B, Hw)                                                    |
    | read_modes             | (T, B, R, 1 + 2 Hw)                                           |
    | allocation_weights     | (T, B, Hw, N)                                                 |
    | write_content_weights  | (T, B, Hw, N)                                                 |
    | read_content_weights   | (T, B, R, N)                                                  |
    | forward_weights        | (T, B, R, Hw, N)                                              |
    | backward_weights       | (T, B, R, Hw, N)                                              |
    | usage                  | (T, B, N)                                                     |
    | precedence             | (T, B, Hw, N)                                                 |
    | write_weights          | (T, B, Hw, N)                                                 |
    | read_weights           | (T, B, R, N)                                                  |
    | read_vectors           | (T, B, R, W)                                                  |
    | read_masks             | (T, B, R, W), or (T, B, 0) in a model without masks           |
    | write_masks            | (T, B, Hw, W), or (T, B, 0)                                   |
    | forward_sharpness      | (T, B, R, Hw), or (T, B, 0) in a model without link sharpness |
    | backward_sharpness     | likewise                                                      |
    """

    read_keys: Tensor
    read_strengths: Tensor
    write_keys: Tensor
    write_strengths: Tensor
    erase_vectors: Tensor
    write_vectors: Tensor
    free_gates: Tensor
    allocation_gates: Tensor
    write_gates: Tensor
    read_modes: Tensor
    allocation_weights: Tensor
    write_content_weights: Tensor
    read_content_weights: Tensor
    forward_weights: Tensor
    backward_weights: Tensor
    usage: Tensor
    precedence: Tensor
    write_weights: Tensor
    read_weights: Tensor
    read_vectors: Tensor
    read_masks: Tensor
    write_masks: Tensor
    forward_sharpness: Tensor
    backward_sharpness: Tensor


def trace_step(
    interface: Interface, weightings: Weightings, state: MemoryState, read_vectors: Tensor
) -> Trace:
    """One step's trace, (B, ...) each."""
    parts = {**interface._asdict(), **weightings._asdict(), **state._asdict()}
    parts["read_vectors"] = read_vectors
    none = read_vectors.new_empty(len(read_vectors), 0)
    found = {name: none if parts[name] is None else parts[name] for name in Trace._fields}
    return Trace(**{name: part.detach() for name, part in found.items()})


def join_steps(steps: list[Trace]) -> Trace:
    """Join the traces of all steps along the batch axis, one step's rows after another."""
    return Trace(*map(torch.cat, zip(*steps, strict=True)))
