"""The parts of a memory step with Triton kernels, and whole steps with fused ones.

Operations of a few passes over vectors of cells stay in torch, which is just as fast there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import reference
from ...interface import STRENGTHS, Interface
from ...kernels.arrays import ALLOCATIONS, SIMILARITIES, Adjoint, Step
from ...kernels.gpu import allocation as allocation_op
from ...kernels.gpu import content, controller, linkage, lstm, memory
from ...kernels.gpu import step as kernels
from ...kernels.gpu.variant import Variant
from ...linkages import LinkRun, linkage_of
from ...reference import LookUp
from ...state import MemorySizes, MemoryState
from ...step_options import StepOptions
from ...untraced import untraced
from ..base import Backend, full_dtype
from ..parts import StepRun
from . import allocation, interpreted, links
from .compiling import compile_rehearsed
from .links import TritonDenseRun, TritonSeparableRun, TritonSparseRun

OLDEST_CAPABILITY = (8, 0)
"""The lowest CUDA compute capability for which the kernels are compiled and checked."""


def variant_of(options: StepOptions) -> Variant:
    """What the whole-step kernels take for the options of a step that `TritonBackend.fuses`."""
    steepness = 1.0
    if options.allocation == "proportional":
        steepness = options.allocation_power
    elif options.allocation == "softmax":
        steepness = 1 / options.allocation_temperature
    return Variant(
        deallocate=options.deallocate,
        similarity=_kind(options.similarity),
        masked=options.masked_lookup,
        floor=options.mask_floor if options.masked_lookup else 0.0,
        sharp=options.link_sharpness,
        smooth=ALLOCATIONS.index(options.allocation),
        steepness=steepness,
        least_strength=STRENGTHS[options.strengths],
        usage_gradient=options.usage_gradient,
    )


class TritonFusedRun(StepRun):
    """Steps with the whole-step kernels, see `kernels.gpu.step`."""

    def __init__(
        self,
        sizes: MemorySizes,
        dtype: torch.dtype,
        device: torch.device,
        options: StepOptions,
        keep: bool,
    ) -> None:
        self.options = options
        self._variant = variant_of(options)
        self._scratch = kernels.make_scratch(*sizes, dtype, device, self._variant)
        self._robust = options.usage_order == "robust"
        self._keep = keep
        self._kept: list[Tensor] = []
        self._undone = 0  # steps of the present backward pass; there may be several, see `Capture`

    def forward(self, step: Step) -> None:
        kept = kernels.make_kept(step, self._variant) if self._keep else None
        kernels.forward(step, self._scratch, self._robust, kept)
        if kept is not None:
            self._kept.append(kept)

    def rebuild(self, step: Step, with_link: bool) -> None:
        kernels.rebuild(step, with_link, self._variant)

    def backward(self, step: Step, adjoint: Adjoint) -> None:
        self._undone += 1
        kept = self._kept[-self._undone]
        kernels.backward(step, adjoint, self._scratch, self._robust, kept)

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        self._undone = 0  # the last backward pass may have been ended by an error
        kernels.begin_backward(self._scratch)
        return super().begin_backward(d_final)

    def finish_backward(self, memory: Tensor, d_memory: Tensor) -> None:
        kernels.finish_backward(memory, d_memory, self._scratch)


class TritonBackend(Backend):
    """The backend "triton"."""

    name = "triton"
    in_torch = False
    link_runs: ClassVar[Mapping[str, type[LinkRun]]] = {
        "dense": TritonDenseRun,
        "sparse": TritonSparseRun,
        "separable": TritonSeparableRun,
    }

    def problem(self, device: torch.device, dtype: torch.dtype) -> Exception | None:
        if device.type == "cuda":
            hip = torch.version.hip is not None
            if hip or torch.cuda.get_device_capability(device) >= OLDEST_CAPABILITY:
                return None
            oldest = ".".join(map(str, OLDEST_CAPABILITY))
            return RuntimeError(
                f'backend "triton" needs a GPU of compute capability {oldest} or newer, '
                f'got {torch.cuda.get_device_name(device)}; use "eager"'
            )
        if device.type == "cpu" and interpreted():
            return None
        return ValueError(
            f'backend "triton" needs tensors on a CUDA or ROCm device, got {device}; use "auto", '
            "or start with TRITON_INTERPRET=1 to test the kernels on a CPU, very slowly"
        )

    def fuses(self, options: StepOptions, matrix: bool) -> bool:
        """See `Parts`; the kernels know what this does not exclude."""
        return matrix and not options.cut_weightings

    def fused_step(
        self,
        sizes: MemorySizes,
        dtype: torch.dtype,
        device: torch.device,
        options: StepOptions,
        keep: bool,
    ) -> StepRun:
        return TritonFusedRun(sizes, dtype, device, options, keep)

    def kept_numbers(self, sizes: MemorySizes, options: StepOptions) -> int:
        return kernels.kept_size(*sizes[1:], variant_of(options))

    def compile_ahead(self, device: torch.device, rehearse: Callable[[], None]) -> None:
        if device.type == "cuda" and not interpreted():
            compile_rehearsed(rehearse, device)

    def step_is_operation(self, state: MemoryState, options: StepOptions) -> bool:
        return options.as_in_paper and self.fuses(options, linkage_of(state.link).is_matrix)

    def memory_step(
        self, vector: Tensor, state: MemoryState, options: StepOptions
    ) -> tuple[Tensor, MemoryState]:
        """See `Backend.memory_step`; the paper's step is an op that torch.compile supports."""
        if not self.step_is_operation(state, options):
            return super().memory_step(vector, state, options)
        dtype = state.memory.dtype
        arithmetic = full_dtype(dtype)
        fields = state if dtype == arithmetic else state.to(arithmetic)
        robust = options.usage_order == "robust"
        read_vectors, *new_state, _ = kernels.memory_step(vector, *fields, robust)
        result = MemoryState(*new_state)
        if dtype != arithmetic:
            return read_vectors.to(dtype), result.to(dtype)
        return read_vectors, result

    def content_weighting(
        self,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> Tensor:
        """See `functional.content_weighting`; the paper's is an op that torch.compile supports."""
        if masks is None and similarity == "cosine":
            return content.content_weighting(keys, strengths, memory)
        return untraced(super().content_weighting)(keys, strengths, memory, masks, similarity)

    def allocation_weighting(self, usage: Tensor, options: StepOptions) -> Tensor:
        """See `functional.allocation_weighting`; the paper's is an op."""
        if options.allocation == "sorted":
            return allocation_op.allocation_weighting(usage, options.usage_order == "robust")
        return reference.allocate(usage, options)

    def linkage(self, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return linkage.linkage(*given)

    def write_memory(self, *given: Tensor) -> Tensor:
        return memory.write_memory(*given)

    def read_memory(self, cells: Tensor, read_weights: Tensor) -> Tensor:
        return memory.read_memory(cells, read_weights)

    def look_up(
        self,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> LookUp:
        weights, kind = memory.new_empty(*keys.shape[:2], memory.shape[1]), _kind(similarity)
        keys, strengths, masks = keys.contiguous(), strengths.contiguous(), _contiguous(masks)
        content.launch_look_up(keys, strengths, memory, weights, masks, kind)
        return LookUp(weights)

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
        keys, strengths, d_weights = (part.contiguous() for part in (keys, strengths, d_weights))
        masks, given = _contiguous(masks), (d_weights, found.weights, keys, strengths, memory)
        d_keys, d_strengths, *d_masks = content.launch_look_up_backward(
            *given, d_memory, add=True, masks=masks, similarity=_kind(similarity)
        )
        return d_keys, d_strengths, d_masks[0] if d_masks else None

    def write_weighting(
        self, interface: Interface, usage: Tensor, content: Tensor, options: StepOptions
    ) -> Tensor:
        if options.allocation != "sorted":
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
        if options.allocation != "sorted":
            return super().write_weighting_backward(*given, options)
        return allocation.write_weighting_backward(*given, options.usage_order)

    keep_largest = staticmethod(links.keep_largest)

    def write(
        self,
        cells: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
        out: Tensor,
    ) -> None:
        vectors = erase_vectors.contiguous(), write_vectors.contiguous()
        memory.launch_write(cells, write_weights, *vectors, out)

    def write_backward(
        self,
        d_memory: Tensor,
        cells: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        vectors = erase_vectors.contiguous(), write_vectors.contiguous()
        return memory.launch_write_backward(d_memory, cells, write_weights, *vectors, d_memory)

    def controller_kernels(self, multiplications: int) -> Any | None:
        return controller if controller.takes(multiplications) else None

    def lstm_forward(self, *arguments: Tensor) -> None:
        lstm.forward(*arguments)

    def lstm_backward(self, *arguments: Any) -> None:
        lstm.backward(*arguments)


def _kind(similarity: str) -> int:
    """A similarity's number in kernels."""
    return SIMILARITIES.index(similarity)


def _contiguous(masks: Tensor | None) -> Tensor | None:
    return None if masks is None else masks.contiguous()
