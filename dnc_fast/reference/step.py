"""One whole memory step, from the interface to the read vectors, in the paper's order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..interface import Interface
from ..links import Link, SeparableLink, SparseLink
from ..state import MemoryState
from .allocation import (
    allocation_weighting,
    allocation_weighting_backward,
    retention,
    retention_backward,
    update_usage,
    update_usage_backward,
)
from .content import content_weighting, content_weighting_backward, look_up
from .linkage import (
    directional_weightings,
    directional_weightings_backward,
    update_link,
    update_link_backward,
    update_precedence,
    update_precedence_backward,
)
from .memory import read_memory, read_memory_backward, write_memory, write_memory_backward
from .options import PAPER, StepOptions
from .selection import keep_largest
from .separable_linkage import (
    check_room,
    extend_separable_link,
    separable_directional_weightings,
)
from .sparse_linkage import link_entry, sparse_directional_weightings, update_sparse_link


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
        state: the memory after the step before; its link tells the linkage.
        options: what is calculated otherwise than in the paper.

    Returns:
        read vectors (B, R, W), the memory after this step, and the weightings' parts.
    """
    psi = retention(interface.free_gates, state.read_weights)
    usage = update_usage(state.usage, state.write_weights, psi)

    content = content_weighting(interface.write_keys, interface.write_strengths, state.memory)
    write_weights, allocation = write_weighting(interface, usage, content, options.usage_order)
    write_weights = _largest(write_weights, options.write_topk)
    memory = write_memory(
        state.memory, write_weights, interface.erase_vectors, interface.write_vectors
    )

    link, forward, backward = link_writes(state, write_weights, options)
    precedence = update_precedence(state.precedence, write_weights)
    read_content = content_weighting(interface.read_keys, interface.read_strengths, memory)
    read_weights = read_weighting(interface.read_modes, backward, read_content, forward)
    read_weights = _largest(read_weights, options.read_topk)

    return (
        read_memory(memory, read_weights),
        MemoryState(memory, usage, precedence, link, write_weights, read_weights),
        Weightings(allocation, content, read_content, forward, backward),
    )


def _largest(weights: Tensor, count: int | None) -> Tensor:
    """The weighting with its `count` largest entries only, of the same sum."""
    if count is None:
        return weights
    return keep_largest(weights, count).spread(weights.shape[-1])


def link_writes(
    state: MemoryState, write_weights: Tensor, options: StepOptions
) -> tuple[Link, Tensor, Tensor]:
    """Link what is written to what was written before, by the linkage of the state.

    Args:
        state: the memory after the step before.
        write_weights: (B, Hw, N), of this step.
        options: of the step.

    Returns:
        the link of this step, and where it leads from what was read last, forward and backward,
        each (B, R, Hw, N).

    Raises:
        ValueError: a separable link is full.
    """
    link, last = state.link, state.read_weights
    if isinstance(link, SparseLink):
        fan_out = link.values.shape[-1]
        entry = link_entry(state.precedence, write_weights, fan_out, options.link_unit_sums)
        link = update_sparse_link(link, entry, options.link_threshold)
        return link, *sparse_directional_weightings(link, last)
    if isinstance(link, SeparableLink):
        check_room(link, 1, options.link_history)
        link = extend_separable_link(link, state.precedence, write_weights)
        return link, *separable_directional_weightings(link, last)
    if link is None:
        B, Hw, N = write_weights.shape
        nowhere = write_weights.new_zeros(B, last.shape[1], Hw, N)
        return None, nowhere, nowhere
    link = update_link(link, state.precedence, write_weights)
    return link, *directional_weightings(link, last)


def write_weighting(
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


def read_weighting(
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


def memory_step_backward(
    d_read_vectors: Tensor,
    d_new_state: MemoryState,
    interface: Interface,
    state: MemoryState,
    new_state: MemoryState,
    weightings: Weightings,
    usage_order: str = "exact",
) -> tuple[Interface, MemoryState]:
    """Gradients of `memory_step`, derived by hand: the same equations from the last to the first.

    Args:
        d_read_vectors: (B, R, W), gradient of the read vectors.
        d_new_state: gradient of the new state, tensor by tensor.
        interface, state, usage_order: what `memory_step` was given.
        new_state, weightings: what it returned.

    Returns:
        gradients of the interface and of the state.
    """
    allocation, write_content, read_content, forward, backward = weightings
    memory, write_weights = new_state.memory, new_state.write_weights

    d_memory, d_read_weights = read_memory_backward(d_read_vectors, memory, new_state.read_weights)
    d_memory = d_memory + d_new_state.memory
    d_read_weights = d_read_weights + d_new_state.read_weights
    d_read_modes, d_backward, d_content, d_forward = read_weighting_backward(
        d_read_weights, interface.read_modes, backward, read_content, forward
    )
    keys, strengths = interface.read_keys, interface.read_strengths
    d_read_keys, d_read_strengths, d_memory_read = content_weighting_backward(
        d_content, look_up(keys, strengths, memory), keys, strengths, memory
    )
    d_link, d_last_read_weights = directional_weightings_backward(
        d_forward, d_backward, new_state.link, state.read_weights
    )

    d_precedence, d_write_weights = update_precedence_backward(
        d_new_state.precedence, state.precedence, write_weights
    )
    d_link, d_precedence_link, d_write_weights_link = update_link_backward(
        d_link + d_new_state.link, state.link, state.precedence, write_weights
    )
    d_memory, d_write_weights_memory, d_erase_vectors, d_write_vectors = write_memory_backward(
        d_memory + d_memory_read,
        state.memory,
        write_weights,
        interface.erase_vectors,
        interface.write_vectors,
    )
    d_write_weights = (
        d_new_state.write_weights + d_write_weights + d_write_weights_link + d_write_weights_memory
    )
    d_allocation_gates, d_write_gates, d_usage, d_write_content = write_weighting_backward(
        d_write_weights, interface, new_state.usage, allocation, write_content, usage_order
    )
    keys, strengths = interface.write_keys, interface.write_strengths
    d_write_keys, d_write_strengths, d_memory_write = content_weighting_backward(
        d_write_content, look_up(keys, strengths, state.memory), keys, strengths, state.memory
    )

    psi = retention(interface.free_gates, state.read_weights)
    d_usage, d_last_write_weights, d_psi = update_usage_backward(
        d_usage + d_new_state.usage, state.usage, state.write_weights, psi
    )
    d_free_gates, d_read_weights_free = retention_backward(
        d_psi, interface.free_gates, state.read_weights
    )
    return (
        Interface(
            read_keys=d_read_keys,
            read_strengths=d_read_strengths,
            write_keys=d_write_keys,
            write_strengths=d_write_strengths,
            erase_vectors=d_erase_vectors,
            write_vectors=d_write_vectors,
            free_gates=d_free_gates,
            allocation_gates=d_allocation_gates,
            write_gates=d_write_gates,
            read_modes=d_read_modes,
        ),
        MemoryState(
            memory=d_memory + d_memory_write,
            usage=d_usage,
            precedence=d_precedence + d_precedence_link,
            link=d_link,
            write_weights=d_last_write_weights,
            read_weights=d_last_read_weights + d_read_weights_free,
        ),
    )


def write_weighting_backward(
    d_write_weights: Tensor,
    interface: Interface,
    usage: Tensor,
    allocation: Tensor,
    content: Tensor,
    usage_order: str,
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
        d_usage = d_usage + allocation_weighting_backward(
            d_allocations[head], usages[head], usage_order
        )
    return (
        d_allocation_gates + d_shares * interface.write_gates,
        d_write_gates + d_shares * interface.allocation_gates,
        d_usage,
        (1 - allocation_gates) * d_mixed,
    )


def read_weighting_backward(
    d_read_weights: Tensor, read_modes: Tensor, backward: Tensor, content: Tensor, forward: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `read_weighting`: of read modes, backward, content, forward."""
    heads = forward.shape[-2]
    modes = torch.cat([backward, content.unsqueeze(-2), forward], dim=-2)
    d_read_modes = (modes @ d_read_weights.unsqueeze(-1)).squeeze(-1)
    d_modes = read_modes.unsqueeze(-1) * d_read_weights.unsqueeze(-2)
    d_backward, d_content, d_forward = d_modes.split([heads, 1, heads], dim=-2)
    return d_read_modes, d_backward, d_content.squeeze(-2), d_forward
