"""The parts of a memory step with compiled kernels, for memories of any size.

Threads share passes over the memory and over long vectors in fixed strips of cells, so that results
do not depend on the number of threads. Small operations stay in plain torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from ...interface import Interface
from ...kernels.arrays import SIMILARITIES, Adjoint, Step
from ...kernels.cpu import strips
from ...linkages import LinkRun
from ...reference import LookUp
from ...reference.similarity import EPSILON
from ...state import MemorySizes
from ...step_options import StepOptions
from ..base import Backend
from ..parts import StepRun
from . import allocation, selection
from .arrays import array, arrays, run_strips
from .compiling import ensure
from .fused import CpuFusedRun
from .links import CpuDenseRun, CpuSeparableRun, CpuSparseRun
from .selection import FEW


class CpuBackend(Backend):
    """The backend "cpu"."""

    name = "cpu"
    in_torch = False
    link_runs: ClassVar[Mapping[str, type[LinkRun]]] = {
        "dense": CpuDenseRun,
        "sparse": CpuSparseRun,
        "separable": CpuSeparableRun,
    }

    def problem(self, device: torch.device, dtype: torch.dtype) -> Exception | None:
        if device.type != "cpu":
            return ValueError(f'backend "cpu" needs tensors on the cpu, got {device}; use "auto"')
        return super().problem(device, dtype)

    def fuses(self, options: StepOptions, matrix: bool) -> bool:
        """See `Parts`; the kernels know all variants."""
        return matrix and not options.cut_weightings

    def fused_step(
        self,
        sizes: MemorySizes,
        dtype: torch.dtype,
        device: torch.device,
        options: StepOptions,
        keep: bool,
    ) -> StepRun:
        return CpuFusedRun(sizes, dtype, options, keep)

    def kept_numbers(self, sizes: MemorySizes, options: StepOptions) -> int:
        """See `Parts`: forward and backward weightings before they are sharpened."""
        _, N, _, R, Hw = sizes
        return 2 * Hw * R * N if options.link_sharpness else 0

    def prepare(
        self,
        dtype: torch.dtype,
        num_cells: int,
        linkage: str = "none",
        keep: bool = True,
        varied: bool = False,
    ) -> None:
        names = ["parts", *(["varied parts"] if varied else [])]
        if linkage in self.link_runs:
            names.append("step" if linkage == "dense" else linkage)
        if keep:
            names += [f"{name} backward" for name in names]
        if num_cells > FEW:
            names += ["allocation", "largest"]
        ensure(dtype, *names)

    def look_up(
        self,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> LookUp:
        B, heads, _ = keys.shape
        N = memory.shape[1]
        count = strips.num_strips(N)
        parts = memory.new_empty(B, count, heads, 2)
        alike, weights = (memory.new_empty(B, heads, N) for _ in range(2))
        kept: tuple[Tensor, ...] = (alike,)
        if masks is None and similarity == "cosine":
            key_norms = (keys.square().sum(-1) + EPSILON).sqrt()
            kept += key_norms, memory.new_empty(B, N)
            given = arrays(keys, strengths, memory, *kept[1:], alike, weights, parts)
            run_strips(B * count, strips.look_up, *given)
        else:
            given = arrays(keys, strengths, _or_ones(masks, keys), memory, alike, weights, parts)
            kind = SIMILARITIES.index(similarity)
            run_strips(B * count, strips.varied_look_up, kind, *given)
        highest, totals = parts.unbind(-1)
        factors = (strengths.unsqueeze(1) * (highest - highest.amax(1, keepdim=True))).exp()
        factors = factors / (totals * factors).sum(1, keepdim=True)
        run_strips(B * count, strips.scale, *arrays(factors, weights))
        return LookUp(weights, kept)

    def look_up_backward(
        self,
        d_weights: Tensor,
        found: LookUp,
        d_memory: Tensor,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        weights, (alike, *norms) = found
        B, heads, W = keys.shape
        count = strips.num_strips(memory.shape[1])
        d_weights = d_weights.contiguous()
        parts = memory.new_empty(B, count, heads)
        run_strips(B * count, strips.means, *arrays(weights, d_weights, parts))
        d_keys, sums = memory.new_empty(B, count, heads, W), memory.new_empty(B, count, heads, 2)
        if not norms:
            d_masks, d_strengths = torch.empty_like(d_keys), torch.empty_like(parts)
            run_strips(
                B * count,
                strips.varied_look_up_backward,
                SIMILARITIES.index(similarity),
                *arrays(parts.sum(1), d_weights, weights, alike, keys, strengths),
                *arrays(_or_ones(masks, keys), memory, d_keys, d_strengths, d_masks, d_memory),
            )
            of_masks = None if masks is None else d_masks.sum(1)
            return d_keys.sum(1), d_strengths.sum(1), of_masks
        run_strips(
            B * count,
            strips.look_up_backward,
            *arrays(parts.sum(1), d_weights, weights, alike, keys, strengths),
            *arrays(memory, *norms, d_keys, sums, d_memory),
        )
        d_strengths, d_norms = sums.sum(1).unbind(-1)
        return d_keys.sum(1) + (d_norms / norms[0]).unsqueeze(-1) * keys, d_strengths, None

    def update_usage(self, step: Step, free_gates: Tensor) -> None:
        B, N = step.usage0.shape
        run_strips(
            B * strips.num_strips(N),
            strips.usage,
            *arrays(free_gates, step.usage0, step.write0, step.read0, step.usage1),
        )

    def update_usage_backward(self, step: Step, free_gates: Tensor, adjoint: Adjoint) -> Tensor:
        B, N = step.usage0.shape
        count = strips.num_strips(N)
        d_gates = step.usage0.new_empty(B, count, free_gates.shape[1])
        run_strips(
            B * count,
            strips.usage_backward,
            *arrays(free_gates, step.usage0, step.write0, step.read0),
            *arrays(adjoint.usage, adjoint.write, adjoint.read, d_gates),
        )
        return d_gates.sum(1)

    def write_weighting(
        self, interface: Interface, usage: Tensor, content: Tensor, options: StepOptions
    ) -> Tensor:
        if _few(usage, options):
            return super().write_weighting(interface, usage, content, options)
        return allocation.write_weighting(interface, usage, content, options.usage_order)

    def write_weighting_backward(
        self,
        d_write_weights: Tensor,
        interface: Interface,
        usage: Tensor,
        content: Tensor,
        options: StepOptions,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = d_write_weights, interface, usage, content
        if _few(usage, options):
            return super().write_weighting_backward(*given, options)
        return allocation.write_weighting_backward(*given, options.usage_order)

    def allocate(self, usage: Tensor, options: StepOptions) -> Tensor:
        if _few(usage, options):
            return super().allocate(usage, options)
        return allocation.allocate(usage, options.usage_order)

    def allocate_backward(self, d_weights: Tensor, usage: Tensor, options: StepOptions) -> Tensor:
        if _few(usage, options):
            return super().allocate_backward(d_weights, usage, options)
        return allocation.allocate_backward(d_weights, usage, options.usage_order)

    keep_largest = staticmethod(selection.keep_largest)

    def write(
        self,
        memory: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
        out: Tensor,
    ) -> None:
        B, N, _ = memory.shape
        run_strips(
            B * strips.num_strips(N),
            strips.write_memory,
            *arrays(memory, write_weights, erase_vectors, write_vectors),
            array(out),
        )

    def write_backward(
        self,
        d_memory: Tensor,
        memory: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        B, N, W = memory.shape
        count, Hw = strips.num_strips(N), write_weights.shape[1]
        d_write = d_memory.new_zeros(write_weights.shape)
        d_erase, d_vectors = (d_memory.new_empty(B, count, Hw, W) for _ in range(2))
        run_strips(
            B * count,
            strips.write_memory_backward,
            *arrays(memory, write_weights, erase_vectors, write_vectors),
            *arrays(d_memory, d_write, d_erase, d_vectors, d_memory.new_empty(B, count, W)),
        )
        return d_write, d_erase.sum(1), d_vectors.sum(1)


def _or_ones(masks: Tensor | None, keys: Tensor) -> Tensor:
    """The masks of keys; ones if there are none."""
    return torch.ones_like(keys) if masks is None else masks


def _few(usage: Tensor, options: StepOptions) -> bool:
    """Whether plain torch allocates as fast as kernels that sort only what allocation reaches."""
    return usage.shape[-1] <= FEW or options.allocation != "sorted"
