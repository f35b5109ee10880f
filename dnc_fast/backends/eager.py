"""The memory step in plain torch, forward and hand-derived backward, written into given tensors.

For every device and float dtype, without autograd: what the engine runs where there are no compiled
kernels. The link matrix, which is most of the work, is changed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface, parse_interface, parse_interface_backward
from ..kernels.arrays import Adjoint, Step
from ..state import MemorySizes

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


def array(tensor: Tensor) -> Tensor:
    """What the primitives take for a tensor: itself."""
    return tensor


def make_scratch(sizes: MemorySizes, dtype: torch.dtype, device: torch.device) -> None:
    """Plain torch leaves nothing between the parts of a step."""


def lstm_forward(
    product: Tensor,
    x_part: Tensor,
    cells0: Tensor,
    active: Tensor,
    cells1: Tensor,
    squashed: Tensor,
    hidden: Tensor,
) -> None:
    """The gates of an LSTM: h = o tanh(c), c = f c_{t-1} + i g.

    Args:
        product, x_part: (b, 4 H), of any dtype; the pre-activations are their sum.
        cells0: (b, H), c_{t-1}.
        active: (b, 4 H), filled with i, f, g, o.
        cells1: (b, H), filled with c.
        squashed: (b, H), filled with tanh(c).
        hidden: (b, H), of any dtype, filled with h.
    """
    H = cells0.shape[1]
    torch.add(product, x_part, out=active)
    active[:, : 2 * H].sigmoid_()
    active[:, 2 * H : 3 * H].tanh_()
    active[:, 3 * H :].sigmoid_()
    entry, forget, change, output = active.chunk(4, dim=1)
    torch.mul(forget, cells0, out=cells1).addcmul_(entry, change)
    torch.tanh(cells1, out=squashed)
    torch.mul(output, squashed, out=hidden)


def lstm_backward(
    active: Tensor,
    squashed: Tensor,
    cells0: Tensor,
    d_output: Tensor,
    d_last: Tensor,
    clip: float | None,
    d_cells: Tensor,
    d_active: Tensor,
) -> None:
    """Through the gates of an LSTM, see `lstm_forward`.

    Args:
        active, squashed, cells0: as they were filled or given.
        d_output, d_last: (b, H), the gradient of h is their sum; the latter may be changed.
        clip: bound of the gradients of h and c, each number by itself; None for no bound.
        d_cells: (b, H), gradient of c; goes to step t - 1 in place.
        d_active: (b, 4 H), of any dtype, filled with the gradient of the pre-activations.
    """
    entry, forget, change, output = active.chunk(4, dim=1)
    d_entry, d_forget, d_change, d_gate = d_active.chunk(4, dim=1)
    d_hidden = d_last.add_(d_output)
    if clip is not None:
        d_hidden.clamp_(-clip, clip)
        d_cells.clamp_(-clip, clip)
    d_cells.add_(tanh_backward(d_hidden * output, squashed))
    sigmoid_backward(d_cells * change, entry, grad_input=d_entry)
    sigmoid_backward(d_cells * cells0, forget, grad_input=d_forget)
    tanh_backward(d_cells * entry, change, grad_input=d_change)
    sigmoid_backward(d_hidden * squashed, output, grad_input=d_gate)
    d_cells.mul_(forget)


def forward(step: Step, scratch: None, usage_order: str) -> None:
    """Fill step.*1 and step.reads."""
    interface = _interface(step)
    psi = reference.retention(interface.free_gates, step.read0)
    step.usage1.copy_(reference.update_usage(step.usage0, step.write0, psi))
    content = reference.content_weighting(
        interface.write_keys, interface.write_strengths, step.memory0
    )
    weights, _ = reference.write_weighting(interface, step.usage1, content, usage_order)
    step.write1.copy_(weights)
    _write_memory(step, interface)
    _update_link(step, step.link1)
    step.precedence1.copy_(reference.update_precedence(step.precedence0, weights))
    ahead, behind = reference.directional_weightings(step.link1, step.read0)
    content = reference.content_weighting(
        interface.read_keys, interface.read_strengths, step.memory1
    )
    step.read1.copy_(reference.read_weighting(interface.read_modes, behind, content, ahead))
    torch.matmul(step.read1, step.memory1, out=step.reads)


def rebuild(step: Step, scratch: None, with_link: bool) -> None:
    """Fill memory1, and link1 if asked, from memory0, link0 and the vectors."""
    _write_memory(step, _interface(step))
    if with_link:
        _update_link(step, step.link1)


def _write_memory(step: Step, interface: Interface) -> None:
    """Fill memory1."""
    memory = reference.write_memory(
        step.memory0, step.write1, interface.erase_vectors, interface.write_vectors
    )
    step.memory1.copy_(memory)


def _update_link(step: Step, out: Tensor) -> None:
    """out = L_t."""
    torch.mul(step.link0, _keep(step.write1), out=out)
    _flat(out).baddbmm_(_flat(step.write1).unsqueeze(-1), _flat(step.precedence0).unsqueeze(-2))
    out.diagonal(dim1=-2, dim2=-1).zero_()


def _keep(write_weights: Tensor) -> Tensor:
    """(B, Hw, N, N): 1 - ww_i - ww_j."""
    return (1 - write_weights).unsqueeze(-1) - write_weights.unsqueeze(-2)


def _flat(tensor: Tensor) -> Tensor:
    """Batch and write heads as one axis."""
    return tensor.flatten(0, 1)


def _interface(step: Step) -> Interface:
    return parse_interface(
        step.vector, step.memory0.shape[-1], step.read0.shape[1], step.write0.shape[1]
    )


def backward(step: Step, adjoint: Adjoint, scratch: None, usage_order: str) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place.
    """
    interface = _interface(step)
    d_memory, d_read = reference.read_memory_backward(step.reads, step.memory1, step.read1)
    d_read = d_read + adjoint.read
    keys, strengths = interface.read_keys, interface.read_strengths
    found = reference.look_up(keys, strengths, step.memory1)
    Hw = step.write1.shape[1]
    modes_behind, mode_content, modes_ahead = interface.read_modes.split([Hw, 1, Hw], dim=-1)
    d_read_keys, d_read_strengths, d_memory_content = reference.content_weighting_backward(
        mode_content * d_read, found, keys, strengths, step.memory1
    )
    d_memory = adjoint.memory + d_memory + d_memory_content

    # The link matrix: x = L_t d and y = L_t^T d serve both the modes and the read weightings.
    x, y, d_write_link, d_precedence = _link_backward(
        step, adjoint.link, d_read, modes_ahead, modes_behind
    )
    last = step.read0.unsqueeze(1)
    d_modes = torch.cat(
        [
            (last * x).sum(-1).mT,
            (d_read * found.weights).sum(-1, keepdim=True),
            (last * y).sum(-1).mT,
        ],
        dim=-1,
    )
    d_last_read = (modes_behind.mT.unsqueeze(-1) * x + modes_ahead.mT.unsqueeze(-1) * y).sum(1)

    d_precedence_before, d_write = reference.update_precedence_backward(
        adjoint.precedence, step.precedence0, step.write1
    )
    d_memory, d_write_memory, d_erase, d_vectors = reference.write_memory_backward(
        d_memory, step.memory0, step.write1, interface.erase_vectors, interface.write_vectors
    )
    keys, strengths = interface.write_keys, interface.write_strengths
    found = reference.look_up(keys, strengths, step.memory0)
    _, allocation = reference.write_weighting(interface, step.usage1, found.weights, usage_order)
    d_allocation_gates, d_write_gates, d_usage, d_content = reference.write_weighting_backward(
        adjoint.write + d_write + d_write_link + d_write_memory,
        interface,
        step.usage1,
        allocation,
        found.weights,
        usage_order,
    )
    d_write_keys, d_write_strengths, d_memory_content = reference.content_weighting_backward(
        d_content, found, keys, strengths, step.memory0
    )
    psi = reference.retention(interface.free_gates, step.read0)
    d_usage, d_last_write, d_psi = reference.update_usage_backward(
        d_usage + adjoint.usage, step.usage0, step.write0, psi
    )
    d_free_gates, d_read_free = reference.retention_backward(
        d_psi, interface.free_gates, step.read0
    )

    adjoint.memory.copy_(d_memory + d_memory_content)
    adjoint.usage.copy_(d_usage)
    adjoint.precedence.copy_(d_precedence_before + d_precedence)
    adjoint.write.copy_(d_last_write)
    adjoint.read.copy_(d_last_read + d_read_free)
    d_interface = Interface(
        read_keys=d_read_keys,
        read_strengths=d_read_strengths,
        write_keys=d_write_keys,
        write_strengths=d_write_strengths,
        erase_vectors=d_erase,
        write_vectors=d_vectors,
        free_gates=d_free_gates,
        allocation_gates=d_allocation_gates,
        write_gates=d_write_gates,
        read_modes=d_modes,
    )
    adjoint.vector.copy_(parse_interface_backward(d_interface, interface))


def _link_backward(
    step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take d_link, in place, from L_t to L_{t-1}.

    With G = d_link + sum_r pi_f,r d_r wr_r^T + pi_b,r wr_r d_r^T, without its diagonal.

    Args:
        step, d_link: see `backward`.
        d_read: (B, R, N), gradient of the read weightings of step t.
        modes_ahead, modes_behind: (B, R, Hw).

    Returns:
        L_t d_r and L_t^T d_r, each (B, Hw, R, N); what the link matrix adds to the gradients of the
        write weightings and of the precedence, each (B, Hw, N).
    """
    changes = d_read.unsqueeze(1)
    link = torch.empty_like(step.link0)
    _update_link(step, link)
    x, y = changes @ link.mT, changes @ link
    last = step.read0.unsqueeze(1).expand_as(x)
    ahead = modes_ahead.mT.unsqueeze(-1) * changes
    behind = modes_behind.mT.unsqueeze(-1) * changes
    gradient = _flat(d_link)
    gradient.baddbmm_(
        _flat(torch.cat([ahead, last], dim=2)).mT, _flat(torch.cat([last, behind], dim=2))
    )
    d_link.diagonal(dim1=-2, dim2=-1).zero_()
    product = torch.mul(d_link, step.link0, out=link)
    d_write = (d_link @ step.precedence0.unsqueeze(-1)).squeeze(-1)
    d_write -= product.sum(-1)
    d_write -= product.sum(-2)
    d_precedence = (step.write1.unsqueeze(-2) @ d_link).squeeze(-2)
    d_link.mul_(_keep(step.write1))
    return x, y, d_write, d_precedence
