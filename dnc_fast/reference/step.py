"""One whole memory step, from the interface to the read vectors, in the paper's order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..interface import Interface
from ..linkages import linkage_of
from ..linkages.selection import keep_largest
from ..state import MemoryState
from ..step_options import PAPER, StepOptions
from .allocation import allocate, allocate_backward, retention, update_usage
from .content import content_weighting
from .memory import deallocate, read_memory, write_memory
from .precedence import update_precedence
from .sharpness import sharpen


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
    interface: Interface, state: MemoryState, options: StepOptions = PAPER
) -> tuple[Tensor, MemoryState, Weightings]:
    """Write to the memory, then read from it.

    Args:
        interface: this step's interface, activated.
        state: the memory after the previous step; its link determines the linkage.
        options: where the step may differ from the paper.

    Returns:
        read vectors (B, R, W), the memory after this step, and the parts of its weightings.

    Raises:
        ValueError: a separable link is full.
    """
    psi = retention(interface.free_gates, state.read_weights)
    last = state.write_weights if options.usage_gradient else state.write_weights.detach()
    usage = update_usage(state.usage, last, psi)

    content = content_weighting(
        interface.write_keys,
        interface.write_strengths,
        state.memory,
        interface.write_masks,
        options.similarity,
    )
    write_weights, allocation = write_weighting(interface, usage, content, options)
    write_weights = _largest(write_weights, options.write_topk)
    kept = deallocate(state.memory, psi) if options.deallocate else state.memory
    memory = write_memory(kept, write_weights, interface.erase_vectors, interface.write_vectors)

    link, forward, backward = linkage_of(state.link).step(
        state.link, state.precedence, write_weights, state.read_weights, options
    )
    if options.link_sharpness and link is not None:
        assert interface.forward_sharpness is not None and interface.backward_sharpness is not None
        forward = sharpen(forward, interface.forward_sharpness)
        backward = sharpen(backward, interface.backward_sharpness)
    precedence = update_precedence(state.precedence, write_weights)
    read_content = content_weighting(
        interface.read_keys,
        interface.read_strengths,
        memory,
        interface.read_masks,
        options.similarity,
    )
    read_weights = read_weighting(interface.read_modes, backward, read_content, forward)
    read_weights = _largest(read_weights, options.read_topk)

    return (
        read_memory(memory, read_weights),
        MemoryState(memory, usage, precedence, link, write_weights, read_weights),
        Weightings(allocation, content, read_content, forward, backward),
    )


def _largest(weights: Tensor, count: int | None) -> Tensor:
    """Keep only the `count` largest entries of a weighting, scaled to the same sum."""
    if count is None:
        return weights
    return keep_largest(weights, count).spread(weights.shape[-1])


def write_weighting(
    interface: Interface, usage: Tensor, content: Tensor, options: StepOptions
) -> tuple[Tensor, Tensor]:
    """ww_h = g_w (g_a a_h + (1 - g_a) c_h), and the allocation weightings a_h.

    The heads allocate one after another, each on a usage that counts what the heads before it will
    allocate: s_h = s_{h-1} + (1 - s_{h-1}) g_a g_w a_h, s_0 = u_t. s is dropped after the step.

    Equation (7) of docs/primer.md.

    Args:
        interface: this step's interface, activated.
        usage: (B, N), of this step.
        content: (B, Hw, N), the content weightings of the write keys on the old memory.
        options: how cells are allocated.

    Returns:
        write weightings and allocation weightings, each (B, Hw, N).
    """
    allocation_gates = interface.allocation_gates.unsqueeze(-1)
    write_gates = interface.write_gates.unsqueeze(-1)
    shares = (write_gates * allocation_gates).unbind(1)
    allocations = [allocate(usage, options)]
    for share in shares[:-1]:
        usage = usage + (1 - usage) * share * allocations[-1]
        allocations.append(allocate(usage, options))
    allocation = torch.stack(allocations, dim=1)
    write_weights = write_gates * (allocation_gates * allocation + (1 - allocation_gates) * content)
    return write_weights, allocation


def read_weighting(
    read_modes: Tensor, backward: Tensor, content: Tensor, forward: Tensor
) -> Tensor:
    """wr_r = sum_h pi_b,h bwd_h + pi_c c + sum_h pi_f,h fwd_h.

    Equation (12) of docs/primer.md.

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


def write_weighting_backward(
    d_write_weights: Tensor,
    interface: Interface,
    usage: Tensor,
    allocation: Tensor,
    content: Tensor,
    options: StepOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `write_weighting`: of allocation gates, write gates, usage, content."""
    allocation_gates = interface.allocation_gates.unsqueeze(-1)
    write_gates = interface.write_gates.unsqueeze(-1)
    mixed = allocation_gates * allocation + (1 - allocation_gates) * content
    d_mixed = write_gates * d_write_weights
    d_write_gates = (d_write_weights * mixed).sum(-1)
    d_allocation_gates = (d_mixed * (allocation - content)).sum(-1)
    d_allocations = list((allocation_gates * d_mixed).unbind(1))

    shares = (write_gates * allocation_gates).unbind(1)
    allocations = allocation.unbind(1)
    usages = [usage]  # s_0, s_1, ... as each head saw it
    for share, weighting in zip(shares[:-1], allocations, strict=False):
        usages.append(usages[-1] + (1 - usages[-1]) * share * weighting)

    d_usage = torch.zeros_like(usage)
    d_shares = torch.zeros_like(interface.write_gates)
    for head in reversed(range(len(usages))):
        if head + 1 < len(usages):
            free = d_usage * (1 - usages[head])
            d_shares[:, head] = (free * allocations[head]).sum(-1)
            d_allocations[head] = d_allocations[head] + free * shares[head]
            d_usage = d_usage * (1 - shares[head] * allocations[head])
        d_usage = d_usage + allocate_backward(d_allocations[head], usages[head], options)
    return (
        d_allocation_gates + d_shares * interface.write_gates,
        d_write_gates + d_shares * interface.allocation_gates,
        d_usage,
        (1 - allocation_gates) * d_mixed,
    )
