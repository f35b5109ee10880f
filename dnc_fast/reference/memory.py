"""Writing to and reading from the cells (Graves et al. 2016, Methods, "Memory addressing")."""

from __future__ import annotations

from torch import Tensor


def write_memory(
    memory: Tensor, write_weights: Tensor, erase_vectors: Tensor, write_vectors: Tensor
) -> Tensor:
    """M_t = M_{t-1} prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T.

    Args:
        memory: (B, N, W), of the step before.
        write_weights: (B, Hw, N).
        erase_vectors: (B, Hw, W), in [0, 1].
        write_vectors: (B, Hw, W).

    Returns:
        (B, N, W).
    """
    for weights, erase in zip(write_weights.unbind(1), erase_vectors.unbind(1), strict=True):
        memory = memory * (1 - weights.unsqueeze(-1) * erase.unsqueeze(-2))
    return memory + write_weights.mT @ write_vectors


def read_memory(memory: Tensor, read_weights: Tensor) -> Tensor:
    """r_r = wr_r M_t.

    Args:
        memory: (B, N, W), of this step.
        read_weights: (B, R, N).

    Returns:
        read vectors (B, R, W).
    """
    return read_weights @ memory
