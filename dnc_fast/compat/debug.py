"""What `debug=True` returns: what each step left in the memory of one sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..state import DNCState
from .states import memory_dict

Look = dict[str, Tensor]


def look(state: DNCState, read_topk: int | None) -> Look:
    """The memory after a step, each part flattened and on the CPU.

    Args:
        state: of one sequence.
        read_topk: how many cells a head reads; None for all.
    """
    memory: Any = state.memory
    parts = memory_dict(memory, state.read_vectors)
    if read_topk is not None:
        kept = min(read_topk, memory.usage.shape[1])
        least_used = memory.usage.argmin(1)
        cells = torch.cat([memory.read_weights.topk(kept).indices.flatten(), least_used])
        parts["read_positions"] = cells
        parts["visible_memory"] = memory.memory[0, cells]
        parts["least_used_mem"] = least_used
    return {key: part.detach().flatten().cpu() for key, part in parts.items()}


def join_looks(stages: list[list[Look]]) -> dict[str, Any]:
    """Arrays (T * num_layers, size), the layers of a step next to each other.

    Args:
        stages: the looks of each `Stage`, one step after another.
    """
    looks = [one for step in zip(*stages, strict=True) for one in step]
    return {key: torch.stack([one[key] for one in looks]).numpy() for key in looks[0]}
