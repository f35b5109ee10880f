"""How much memory a device has, and how much of it is free."""

from __future__ import annotations

from functools import cache

import torch


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on a GPU now, torch's cache included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@cache
def total_bytes(device: torch.device) -> int | None:
    """The memory of a GPU; None elsewhere."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory
