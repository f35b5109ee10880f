"""The sizes that are measured, and the peers."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Size(NamedTuple):
    """B batch, T steps, N cells, W cell size, R read heads, H hidden size, X input size."""

    B: int
    T: int
    N: int
    W: int
    R: int
    H: int
    X: int


SIZES = {
    "c1": Size(16, 32, 16, 16, 1, 64, 8),
    "c2": Size(16, 64, 64, 32, 4, 128, 16),
    "c3": Size(8, 64, 256, 64, 4, 256, 64),
    "c4": Size(4, 32, 1024, 64, 4, 256, 64),
    "c5": Size(1, 16, 2048, 64, 4, 256, 64),
}


def peer_model(size: Size, gpu: int = -1) -> torch.nn.Module:
    """The PyPI package `dnc`, on the CPU or on a GPU of that index.

    It feeds every step the read vectors of the initial state instead of r_{t-1}, so it does less
    work than it should, and its outputs cannot be compared with ours, only its time and memory.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import dnc
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the package dnc is not installed; `pip install dnc==1.1.0` brings it"
        ) from None
    return dnc.DNC(
        size.X,
        size.H,
        rnn_type="lstm",
        nr_cells=size.N,
        cell_size=size.W,
        read_heads=size.R,
        batch_first=False,
        gpu_id=gpu,
    )
