"""Writing to and reading from the cells (Graves et al. 2016, Methods, "Memory addressing")."""

from __future__ import annotations

from torch import Tensor

from .heads import product_over_heads, products_of_others


def deallocate(memory: Tensor, retention: Tensor) -> Tensor:
    """M psi 1^T: what is freed is erased as far as its usage is (Csordas & Schmidhuber 2019).

    Args:
        memory: (B, N, W), of the previous step.
        retention: (B, N), in [0, 1].

    Returns:
        (B, N, W), which `write_memory` then writes to.
    """
    return memory * retention.unsqueeze(-1)


def deallocate_backward(
    d_memory: Tensor, memory: Tensor, retention: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `deallocate`: of memory (B, N, W) and retention (B, N)."""
    return d_memory * retention.unsqueeze(-1), (d_memory * memory).sum(-1)


def write_memory(
    memory: Tensor, write_weights: Tensor, erase_vectors: Tensor, write_vectors: Tensor
) -> Tensor:
    """M_t = M_{t-1} prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T.

    Equation (8) of docs/primer.md.

    Args:
        memory: (B, N, W), of the previous step.
        write_weights: (B, Hw, N).
        erase_vectors: (B, Hw, W), in [0, 1].
        write_vectors: (B, Hw, W).

    Returns:
        (B, N, W).
    """
    factors = 1 - write_weights.unsqueeze(-1) * erase_vectors.unsqueeze(-2)
    memory = memory * product_over_heads(factors)
    return memory + write_weights.mT @ write_vectors


def read_memory(memory: Tensor, read_weights: Tensor) -> Tensor:
    """r_r = wr_r M_t.

    Equation (13) of docs/primer.md.

    Args:
        memory: (B, N, W), of this step.
        read_weights: (B, R, N).

    Returns:
        read vectors (B, R, W).
    """
    return read_weights @ memory


def write_memory_backward(
    d_memory: Tensor,
    memory: Tensor,
    write_weights: Tensor,
    erase_vectors: Tensor,
    write_vectors: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hand-derived gradients of `write_memory`.

    With F_h = 1 - ww_h e_h^T and Q_h = dM_t M_{t-1} prod over the other heads of F:

        dM_{t-1} = dM_t prod_h F_h;  dv_h = dM_t^T ww_h;  de_h = -Q_h^T ww_h
        dww_h = dM_t v_h - Q_h e_h

    Args:
        d_memory: (B, N, W), gradient of the new memory.
        memory, write_weights, erase_vectors, write_vectors: the arguments of `write_memory`.

    Returns:
        gradients of memory, write_weights, erase_vectors and write_vectors.
    """
    factors = 1 - write_weights.unsqueeze(-1) * erase_vectors.unsqueeze(-2)
    changed = (d_memory * memory).unsqueeze(1) * products_of_others(factors)
    weights = write_weights.unsqueeze(-2)
    d_write_weights = write_vectors @ d_memory.mT - (changed @ erase_vectors.unsqueeze(-1)).squeeze(
        -1
    )
    d_erase_vectors = -(weights @ changed).squeeze(-2)
    d_memory_before = d_memory * product_over_heads(factors)
    return d_memory_before, d_write_weights, d_erase_vectors, write_weights @ d_memory


def read_memory_backward(
    d_read_vectors: Tensor, memory: Tensor, read_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of `read_memory`: of memory (B, N, W) and read_weights (B, R, N)."""
    return read_weights.mT @ d_read_vectors, d_read_vectors @ memory.mT
