"""The parts of a memory step as separate functions, for every backend.

`memory_step` combines them all; these are for models that need only some of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference
from .backends import backend_names, backend_now, load_backend, memory_step
from .checks import check_choice, check_shapes, check_tensor, values_are_known
from .linkages import LINKAGES
from .step_options import PAPER, SIMILARITIES, StepOptions

__all__ = [
    "allocation_weighting",
    "content_weighting",
    "linkage",
    "memory_step",
    "read_memory",
    "write_memory",
]

BACKENDS = backend_names()
"""The names that `backend=` accepts."""


def _parts(backend: str, tensor: Tensor) -> Any:
    """The object that has the parts: a backend, or the module of the reference."""
    name = backend_now(backend, tensor.device, tensor.dtype)
    return reference if name == "reference" else load_backend(name)


def _check(shapes: dict[str, str], **tensors: Any) -> dict[str, int]:
    """Raise unless all are float tensors of one dtype and device with matching shapes."""
    first = next(iter(tensors.values()))
    device = first.device if isinstance(first, Tensor) else torch.device("cpu")
    for name, tensor in tensors.items():
        check_tensor(name, tensor, device, first.dtype if name != next(iter(tensors)) else None)
    return check_shapes(shapes, **tensors)


def content_weighting(
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    masks: Tensor | None = None,
    *,
    similarity: str = "cosine",
    backend: str = "auto",
) -> Tensor:
    """Softmax over the cells of strength times similarity (Graves et al. 2016, Methods).

        C(M, k, beta) = softmax_n(beta D(k, M[n]));  D(k, m) = k.m / (|k| |m| + e) for "cosine",
        |x| = sqrt(x.x + e), e = 1e-6; -sqrt(|k - m|^2 + e) for "euclidean", -sum_w |k_w - m_w| for
        "manhattan", k.m for "dot"

    Args:
        keys: (B, H, W), any number of heads H.
        strengths: (B, H), at least 0; those of a DNC are at least 1.
        memory: (B, N, W).
        masks: (B, H, W), in [0, 1]: what each key, and the cells that it is compared with, are
            multiplied by; None for ones (Csordas & Schmidhuber 2019).
        similarity: one of `SIMILARITIES`.
        backend: one of `BACKENDS`.

    Returns:
        (B, H, N), each row sums to 1; in the dtype of the arguments.

    Raises:
        TypeError: an argument is not a floating-point tensor, or of another dtype than the first.
        ValueError: a shape, device or name is wrong, or a number is not finite or, of a strength,
            below 0 (CPU only).
        RuntimeError, ModuleNotFoundError: the requested backend cannot run.
    """
    shapes = {"keys": "B H W", "strengths": "B H", "memory": "B N W"}
    given = {"keys": keys, "strengths": strengths, "memory": memory}
    if masks is not None:
        shapes["masks"], given["masks"] = "B H W", masks
    _check(shapes, **given)
    check_choice("similarity", similarity, SIMILARITIES)
    if values_are_known(strengths) and (strengths < 0).any():
        raise ValueError(
            f"strengths must be at least 0, got {strengths.min().item():g}; softplus makes them so"
        )
    return _parts(backend, keys).content_weighting(keys, strengths, memory, masks, similarity)


def allocation_weighting(
    usage: Tensor, *, usage_order: str = "exact", backend: str = "auto", **smooth: Any
) -> Tensor:
    """Where new content goes, the least used cell first (Graves et al. 2016, Methods).

        u' = e + (1 - e) u;  a[i] = (1 - u'_i) prod over j before i of u'_j,  e = 1e-6

    Args:
        usage: (B, N), in [0, 1].
        usage_order: one of `USAGE_ORDERS`; ties by index in both.
        backend: one of `BACKENDS`.
        smooth: allocation, allocation_power and allocation_temperature, see `DNC`.

    Returns:
        (B, N), in [0, 1], sums to at most 1; in the dtype of usage.

    Raises:
        See `content_weighting`.
    """
    _check({"usage": "B N"}, usage=usage)
    options = StepOptions(usage_order=usage_order, **smooth)
    parts = _parts(backend, usage)
    if parts is reference:
        return reference.allocate(usage, options)
    return parts.allocation_weighting(usage, options)


def linkage(
    link: Tensor,
    precedence: Tensor,
    write_weights: Tensor,
    read_weights: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Link matrix, precedence and both weightings after a write (Graves et al. 2016, Methods).

        L_t[i, j] = (1 - ww_i - ww_j) L_{t-1}[i, j] + ww_i p_{t-1}[j], L_t[i, i] = 0
        p_t = (1 - sum_i ww_i) p_{t-1} + ww_t;  fwd_r = L_t wr_{t-1,r};  bwd_r = L_t^T wr_{t-1,r}

    Args:
        link: (B, Hw, N, N), of step t - 1.
        precedence: (B, Hw, N), of step t - 1.
        write_weights: (B, Hw, N), of step t.
        read_weights: (B, R, N), of step t - 1.
        backend: one of `BACKENDS`.

    Returns:
        link (B, Hw, N, N), precedence (B, Hw, N), forward and backward weightings (B, R, Hw, N).

    Raises:
        See `content_weighting`.
    """
    _check(
        {
            "link": "B Hw N N",
            "precedence": "B Hw N",
            "write_weights": "B Hw N",
            "read_weights": "B R N",
        },
        link=link,
        precedence=precedence,
        write_weights=write_weights,
        read_weights=read_weights,
    )
    parts = _parts(backend, link)
    if parts is not reference:
        return parts.linkage(link, precedence, write_weights, read_weights)
    step = LINKAGES["dense"].step(link, precedence, write_weights, read_weights, PAPER)
    return step[0], reference.update_precedence(precedence, write_weights), *step[1:]


def write_memory(
    memory: Tensor,
    write_weights: Tensor,
    erase_vectors: Tensor,
    write_vectors: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """M_t = M_{t-1} prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T (Graves et al. 2016, Methods).

    Args:
        memory: (B, N, W).
        write_weights: (B, Hw, N), in [0, 1].
        erase_vectors: (B, Hw, W), in [0, 1].
        write_vectors: (B, Hw, W).
        backend: one of `BACKENDS`.

    Returns:
        (B, N, W), in the dtype of the arguments.

    Raises:
        See `content_weighting`.
    """
    _check(
        {
            "memory": "B N W",
            "write_weights": "B Hw N",
            "erase_vectors": "B Hw W",
            "write_vectors": "B Hw W",
        },
        memory=memory,
        write_weights=write_weights,
        erase_vectors=erase_vectors,
        write_vectors=write_vectors,
    )
    parts = _parts(backend, memory)
    return parts.write_memory(memory, write_weights, erase_vectors, write_vectors)


def read_memory(memory: Tensor, read_weights: Tensor, *, backend: str = "auto") -> Tensor:
    """r_r = wr_r M_t (Graves et al. 2016, Methods).

    Args:
        memory: (B, N, W).
        read_weights: (B, R, N).
        backend: one of `BACKENDS`.

    Returns:
        read vectors (B, R, W), in the dtype of the arguments.

    Raises:
        See `content_weighting`.
    """
    _check({"memory": "B N W", "read_weights": "B R N"}, memory=memory, read_weights=read_weights)
    return _parts(backend, memory).read_memory(memory, read_weights)
