"""The interface vector: what the controller tells the memory at each step.

One raw vector per step, split in this order (Graves et al. 2016, Methods, "Interface parameters"),
for R read heads, Hw write heads and cell size W:

    read keys (R, W) | read strengths (R) | write keys (Hw, W) | write strengths (Hw) |
    erase vectors (Hw, W) | write vectors (Hw, W) | free gates (R) | allocation gates (Hw) |
    write gates (Hw) | read modes (R, 1 + 2 Hw): backward[Hw], content, forward[Hw]

and, where the memory step has them (Csordas & Schmidhuber 2019),

    read masks (R, W) | write masks (Hw, W)
    forward sharpness (R, Hw) | backward sharpness (R, Hw)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels.interface import interface_shapes, interface_size

__all__ = [
    "NO_EXTRAS",
    "STRENGTHS",
    "Extras",
    "Interface",
    "interface_shapes",
    "interface_size",
    "oneplus",
    "parse_interface",
    "parse_interface_backward",
]


STRENGTHS = {"oneplus": 1.0, "softplus": 0.0}
"""Activations of strengths, by their least value: what is added to log(1 + e^x)."""


class Extras(NamedTuple):
    """Which parts an interface has besides the paper's.

    | field      | what                                                                          |
    |------------|-------------------------------------------------------------------------------|
    | mask_floor | the least value of a mask; None: there are no masks                           |
    | sharpness  | whether directional weightings have a sharpness                               |
    """

    mask_floor: float | None = None
    sharpness: bool = False


NO_EXTRAS = Extras()
"""The paper's interface vector."""


class Interface(NamedTuple):
    """One step's interface after its activations; None where it lacks a part.

    With softplus, strengths may be as small as 0.

    | field              | shape            | range           |
    |--------------------|------------------|-----------------|
    | read_keys          | (B, R, W)        | real            |
    | read_strengths     | (B, R)           | [1, inf)        |
    | write_keys         | (B, Hw, W)       | real            |
    | write_strengths    | (B, Hw)          | [1, inf)        |
    | erase_vectors      | (B, Hw, W)       | [0, 1]          |
    | write_vectors      | (B, Hw, W)       | real            |
    | free_gates         | (B, R)           | [0, 1]          |
    | allocation_gates   | (B, Hw)          | [0, 1]          |
    | write_gates        | (B, Hw)          | [0, 1]          |
    | read_modes         | (B, R, 1 + 2 Hw) | sums to 1       |
    | read_masks         | (B, R, W)        | [mask_floor, 1] |
    | write_masks        | (B, Hw, W)       | [mask_floor, 1] |
    | forward_sharpness  | (B, R, Hw)       | [1, inf)        |
    | backward_sharpness | (B, R, Hw)       | [1, inf)        |
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
    read_masks: Tensor | None = None
    write_masks: Tensor | None = None
    forward_sharpness: Tensor | None = None
    backward_sharpness: Tensor | None = None


def oneplus(x: Tensor, least: float = 1.0) -> Tensor:
    """1 + log(1 + e^x), at least 1 (Graves et al. 2016, Methods); or another least value.

    Above 40, log(1 + e^x) equals x even in float64; torch's own threshold of 20 is off by 2e-9.
    """
    return least + F.softplus(x, threshold=40.0)


def parse_interface(
    vector: Tensor,
    cell_size: int,
    num_read_heads: int,
    num_write_heads: int = 1,
    strengths: str = "oneplus",
    extras: Extras = NO_EXTRAS,
) -> Interface:
    """Split a raw vector (B, interface_size) and apply the activations of each part.

    strengths: one of `STRENGTHS`.

    Equation (1) of docs/primer.md.
    """
    least, (floor, sharpness) = STRENGTHS[strengths], extras
    shapes = interface_shapes(
        cell_size, num_read_heads, num_write_heads, floor is not None, sharpness
    )
    lengths = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = zip(shapes.items(), vector.split_with_sizes(lengths, dim=-1), strict=True)
    rows = vector.shape[:-1]
    raw = Interface(**{name: part.view(*rows, *shape) for (name, shape), part in parts})

    def mask(part: Tensor | None) -> Tensor | None:
        if part is None or floor is None:
            return None
        return floor + (1 - floor) * torch.sigmoid(part)

    def optional_oneplus(part: Tensor | None) -> Tensor | None:
        return None if part is None else oneplus(part)

    return Interface(
        read_keys=raw.read_keys,
        read_strengths=oneplus(raw.read_strengths, least),
        write_keys=raw.write_keys,
        write_strengths=oneplus(raw.write_strengths, least),
        erase_vectors=torch.sigmoid(raw.erase_vectors),
        write_vectors=raw.write_vectors,
        free_gates=torch.sigmoid(raw.free_gates),
        allocation_gates=torch.sigmoid(raw.allocation_gates),
        write_gates=torch.sigmoid(raw.write_gates),
        read_modes=torch.softmax(raw.read_modes, dim=-1),
        read_masks=mask(raw.read_masks),
        write_masks=mask(raw.write_masks),
        forward_sharpness=optional_oneplus(raw.forward_sharpness),
        backward_sharpness=optional_oneplus(raw.backward_sharpness),
    )


def parse_interface_backward(
    d_interface: Interface,
    interface: Interface,
    strengths: str = "oneplus",
    extras: Extras = NO_EXTRAS,
) -> Tensor:
    """Hand-derived gradient of the raw vector (B, interface_size).

    Each gradient follows from the activation's value and d: sigmoid d s (1 - s), softmax
    p (d - p.d), oneplus d (1 - e^(1 - y)), softplus d (1 - e^-y), a mask of floor f
    d (m - f) (1 - m) / (1 - f).

    Args:
        d_interface: gradient of the interface.
        interface: what `parse_interface` returned.
        strengths, extras: its arguments.
    """
    least = STRENGTHS[strengths]

    def gate(d: Tensor, value: Tensor) -> Tensor:
        return d * value * (1 - value)

    def strength(d: Tensor, value: Tensor, least: float) -> Tensor:
        return d * -torch.expm1(least - value)

    def mask(d: Tensor | None, value: Tensor | None) -> Tensor | None:
        if d is None or value is None or extras.mask_floor is None:
            return None
        floor = extras.mask_floor
        return d * (value - floor) * (1 - value) / (1 - floor)

    def sharpness(d: Tensor | None, value: Tensor | None) -> Tensor | None:
        return None if d is None or value is None else strength(d, value, 1.0)

    d, modes = d_interface, interface.read_modes
    parts = Interface(
        read_keys=d.read_keys,
        read_strengths=strength(d.read_strengths, interface.read_strengths, least),
        write_keys=d.write_keys,
        write_strengths=strength(d.write_strengths, interface.write_strengths, least),
        erase_vectors=gate(d.erase_vectors, interface.erase_vectors),
        write_vectors=d.write_vectors,
        free_gates=gate(d.free_gates, interface.free_gates),
        allocation_gates=gate(d.allocation_gates, interface.allocation_gates),
        write_gates=gate(d.write_gates, interface.write_gates),
        read_modes=modes * (d.read_modes - (modes * d.read_modes).sum(-1, keepdim=True)),
        read_masks=mask(d.read_masks, interface.read_masks),
        write_masks=mask(d.write_masks, interface.write_masks),
        forward_sharpness=sharpness(d.forward_sharpness, interface.forward_sharpness),
        backward_sharpness=sharpness(d.backward_sharpness, interface.backward_sharpness),
    )
    return torch.cat([part.flatten(1) for part in parts if part is not None], dim=-1)
