"""Mixed precision: which dtype layers calculate in, and the scaling that float16 needs.

The memory itself calculates in float32 under autocast, see `DNC`.
"""

from __future__ import annotations

import torch

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass; it does nothing for "float32"."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32")


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss so that float16 gradients do not vanish; does nothing for the others."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")
