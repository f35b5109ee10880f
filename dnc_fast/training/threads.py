"""How many CPU threads suit a model."""

from __future__ import annotations

import torch
from torch import nn

from ..config import DNCConfig

SMALL = 1 << 21
"""Up to so many numbers, in weights and link matrices for each sequence of a step, one is fastest.

More threads save less than waiting for each other takes at every operation. With two threads, 1.4
million numbers took longer than with one, and 2.3 million half as long.
"""


def suitable_threads(model: nn.Module, batch_size: int) -> int:
    """One for a small model, otherwise as many as torch uses now."""
    config = model.config
    numbers = sum(one.numel() for one in model.parameters())
    if isinstance(config, DNCConfig) and config.linkage == "dense":
        numbers += config.num_write_heads * config.num_cells**2
    return 1 if batch_size * numbers <= SMALL else torch.get_num_threads()
