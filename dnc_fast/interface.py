"""The interface vector: what the controller tells the memory at each step.

One raw vector per step, split in this order (Graves et al. 2016, Methods, "Interface parameters"),
for R read heads, Hw write heads and cell size W:

    read keys (R, W) | read strengths (R) | write keys (Hw, W) | write strengths (Hw) |
    erase vectors (Hw, W) | write vectors (Hw, W) | free gates (R) | allocation gates (Hw) |
    write gates (Hw) | read modes (R, 1 + 2 Hw): backward[Hw], content, forward[Hw]
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels.interface import interface_shapes, interface_size

__all__ = [
    "STRENGTHS",
    "Interface",
    "interface_shapes",
    "interface_size",
    "oneplus",
    "parse_interface",
    "parse_interface_backward",
]


STRENGTHS = {"oneplus": 1.0, "softplus": 0.0}
"""Activations of strengths, by their least value: what is added to log(1 + e^x)."""


class Interface(NamedTuple):
    """One step's interface after its activations; strengths may be as small as 0 with softplus.

    | field             | shape            | range     |
    |-------------------|------------------|-----------|
    | read_keys         | (B, R, W)        | real      |
    | read_strengths    | (B, R)           | [1, inf)  |
    | write_keys        | (B, Hw, W)       | real      |
    | write_strengths   | (B, Hw)          | [1, inf)  |
    | erase_vectors     | (B, Hw, W)       | [0, 1]    |
    | write_vectors     | (B, Hw, W)       | real      |
    | free_gates        | (B, R)           | [0, 1]    |
    | allocation_gates  | (B, Hw)          | [0, 1]    |
    | write_gates       | (B, Hw)          | [0, 1]    |
    | read_modes        | (B, R, 1 + 2 Hw) | sums to 1 |
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
) -> Interface:
    """Split a raw vector (B, interface_size) and apply the activations of each part.

    strengths: one of `STRENGTHS`.
    """
    least = STRENGTHS[strengths]
    shapes = interface_shapes(cell_size, num_read_heads, num_write_heads)
    lengths = [torch.Size(shape).numel() for shape in shapes.values()]
    parts = vector.split_with_sizes(lengths, dim=-1)
    raw = Interface(
        *(
            part.view(*vector.shape[:-1], *shape)
            for part, shape in zip(parts, shapes.values(), strict=True)
        )
    )
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
    )


def parse_interface_backward(
    d_interface: Interface, interface: Interface, strengths: str = "oneplus"
) -> Tensor:
    """Hand-derived gradient of the raw vector (B, interface_size).

    Each gradient follows from the activation's value and d: sigmoid d s (1 - s), softmax
    p (d - p.d), oneplus d (1 - e^(1 - y)), softplus d (1 - e^-y).

    Args:
        d_interface: gradient of the interface.
        interface: what `parse_interface` returned.
        strengths: its argument.
    """
    least = STRENGTHS[strengths]

    def gate(d: Tensor, value: Tensor) -> Tensor:
        return d * value * (1 - value)

    def strength(d: Tensor, value: Tensor) -> Tensor:
        return d * -torch.expm1(least - value)

    d, modes = d_interface, interface.read_modes
    parts = Interface(
        read_keys=d.read_keys,
        read_strengths=strength(d.read_strengths, interface.read_strengths),
        write_keys=d.write_keys,
        write_strengths=strength(d.write_strengths, interface.write_strengths),
        erase_vectors=gate(d.erase_vectors, interface.erase_vectors),
        write_vectors=d.write_vectors,
        free_gates=gate(d.free_gates, interface.free_gates),
        allocation_gates=gate(d.allocation_gates, interface.allocation_gates),
        write_gates=gate(d.write_gates, interface.write_gates),
        read_modes=modes * (d.read_modes - (modes * d.read_modes).sum(-1, keepdim=True)),
    )
    return torch.cat([part.flatten(1) for part in parts], dim=-1)
