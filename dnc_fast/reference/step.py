"""One whole memory step, from the interface to the read vectors, in the paper's order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..interface import Interface
from ..state import MemoryState
from .allocation import allocation_weighting, retention, update_usage
from .content import content_weighting
from .linkage import directional_weightings, update_link, update_precedence
from .memory import read_memory, write_memory


class Weightings(NamedTuple):
    """The parts from which a step mixes its write and read weightings.

    | field                 | shape         |
    |-----------------------|---------------|
    | allocation_weights    | (B, Hw, N)    |
    | write_content_weights | (B, Hw, N)    |
    | read_content_weights  | (B, R, N)     |
    | forward_weights       | (B, R, Hw, N) |
    | backward_weights      | (B, R, Hw, N) |
    """

    allocation_weights: Tensor
    write_content_weights: Tensor
    read_content_weights: Tensor
    forward_weights: Tensor
    backward_weights: Tensor


def memory_step(
    interface: Interface, state: MemoryState, usage_order: str = "exact"
) -> tuple[Tensor, MemoryState, Weightings]:
    """Write to the memory, then read from it.

    Args:
        interface: this step's interface, activated.
        state: the memory after the step before.
        usage_order: one of `USAGE_ORDERS`.

    Returns:
        read vectors (B, R, W), the memory after this step, and the weightings' parts.
    """
    psi = retention(interface.free_gates, state.read_weights)
    usage = update_usage(state.usage, state.write_weights, psi)

    content = content_weighting(interface.write_keys, interface.write_strengths, state.memory)
    write_weights, allocation = _write_weighting(interface, usage, content, usage_order)
    memory = write_memory(
        state.memory, write_weights, interface.erase_vectors, interface.write_vectors
    )

    link = update_link(state.link, state.precedence, write_weights)
    precedence = update_precedence(state.precedence, write_weights)
    forward, backward = directional_weightings(link, state.read_weights)
    read_content = content_weighting(interface.read_keys, interface.read_strengths, memory)
    read_weights = _read_weighting(interface.read_modes, backward, read_content, forward)

    return (
        read_memory(memory, read_weights),
        MemoryState(memory, usage, precedence, link, write_weights, read_weights),
        Weightings(allocation, content, read_content, forward, backward),
    )


def _write_weighting(
    interface: Interface, usage: Tensor, content: Tensor, usage_order: str
) -> tuple[Tensor, Tensor]:
    """ww_h = g_w (g_a a_h + (1 - g_a) c_h), and the allocation weightings a_h.

    The heads allocate one after another, each on a usage that counts what the heads before it will
    allocate: s_h = s_{h-1} + (1 - s_{h-1}) g_a g_w a_h, s_0 = u_t. It is not carried on.

    Args:
        interface: this step's interface, activated.
        usage: (B, N), of this step.
        content: (B, Hw, N), the content weightings of the write keys on the old memory.
        usage_order: one of `USAGE_ORDERS`.

    Returns:
        write weightings and allocation weightings, each (B, Hw, N).
    """
    allocation_gates = interface.allocation_gates.unsqueeze(-1)
    write_gates = interface.write_gates.unsqueeze(-1)
    shares = (write_gates * allocation_gates).unbind(1)
    allocations = [allocation_weighting(usage, usage_order)]
    for share in shares[:-1]:
        usage = usage + (1 - usage) * share * allocations[-1]
        allocations.append(allocation_weighting(usage, usage_order))
    allocation = torch.stack(allocations, dim=1)
    write_weights = write_gates * (allocation_gates * allocation + (1 - allocation_gates) * content)
    return write_weights, allocation


def _read_weighting(
    read_modes: Tensor, backward: Tensor, content: Tensor, forward: Tensor
) -> Tensor:
    """wr_r = sum_h pi_b,h bwd_h + pi_c c + sum_h pi_f,h fwd_h.

    Args:
        read_modes: (B, R, 1 + 2 Hw): backward[Hw], content, forward[Hw].
        backward: (B, R, Hw, N).
        content: (B, R, N).
        forward: (B, R, Hw, N).

    Returns:
        (B, R, N).
    """
    modes = torch.cat([backward, content.unsqueeze(-2), forward], dim=-2)
    return (read_modes.unsqueeze(-2) @ modes).squeeze(-2)
