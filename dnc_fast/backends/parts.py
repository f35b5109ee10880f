"""The parts that a memory step is composed of, in plain torch; backends override some of them.

Each has a forward and a hand-derived backward, without autograd, for every device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import reference
from ..interface import Interface
from ..kernels.arrays import Adjoint, AdjointSteps, Step, Steps
from ..linkages import LinkRun, selection
from ..reference import LookUp
from ..state import MemorySizes, MemoryState
from ..step_options import PAPER, StepOptions

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


class StepRun(ABC):
    """The memory steps of one run, forward and backward: what the engine calls at each step.

    The methods on links assume a link matrix that lies in the arrays of the steps.

    Attributes:
        options: of the steps.
        takes_all_steps: whether `forward_steps` and `backward_steps` are implemented.
    """

    options: StepOptions = PAPER
    takes_all_steps: ClassVar[bool] = False

    def array(self, tensor: Tensor) -> Any:
        """A tensor as the arrays of a step hold it; shares its memory."""
        return tensor.detach()

    @abstractmethod
    def forward(self, step: Step) -> None:
        """Run the next step: fill step.*1 and step.reads."""

    @abstractmethod
    def rebuild(self, step: Step, with_link: bool) -> None:
        """Fill memory1, and link1 if requested, from memory0, link0 and the vectors."""

    @abstractmethod
    def backward(self, step: Step, adjoint: Adjoint) -> None:
        """Propagate the adjoint from step t to step t - 1 and fill adjoint.vector.

        step.reads holds the gradient of the read vectors; adjoint.* change in place.
        """

    def forward_steps(self, steps: Steps) -> None:
        """Run all steps of a batch of sequences, with a layered controller."""
        raise NotImplementedError

    def backward_steps(self, steps: Steps, adjoint: AdjointSteps) -> None:
        """Propagate the adjoint back through all steps, rebuilding segments."""
        raise NotImplementedError

    def link_matrix(self, state: MemoryState) -> Tensor:
        """What the arrays of the steps hold of a state's link, (B, Hw, N, N) or empty."""
        return state.link

    def final_link(self, matrix: Tensor) -> Any:
        """The link after the last step; `matrix` is what the arrays hold of it."""
        return matrix

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        """The gradient of the final matrix, from those of the final link's tensors."""
        return d_final[0]

    def finish_backward(self, memory: Tensor, d_memory: Tensor) -> None:
        """Complete the gradient of the initial memory, after the last call of `backward`."""
        return None  # it is complete

    def link_gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        """Gradients of the initial link's tensors; `d_matrix` is that of the initial matrix."""
        return [d_matrix]


class Parts:
    """The parts of a memory step in plain torch.

    Attributes:
        link_runs: the backend's own link runs, by linkage; the others use plain torch.
        in_torch: whether parts allocate temporaries as large as memory and link matrix.
    """

    link_runs: ClassVar[Mapping[str, type[LinkRun]]] = {}
    in_torch: ClassVar[bool] = True

    def fuses(self, options: StepOptions, matrix: bool) -> bool:
        """Whether to ask for a `fused_step`, for a link that is a matrix or one that is not.

        Not for a step with equations that are not the paper's, unless a backend knows them.
        """
        return matrix and not options.cut_weightings and options.as_in_paper

    def fused_step(
        self,
        sizes: MemorySizes,
        dtype: torch.dtype,
        device: torch.device,
        options: StepOptions,
        keep: bool,
    ) -> StepRun | None:
        """Kernels for the step as a whole; None to compose the step of parts.

        options: of a step that the backend `fuses`.
        keep: whether there will be a backward pass.
        """
        return None

    def kept_numbers(self, sizes: MemorySizes, options: StepOptions) -> int:
        """Numbers that a step of `fused_step` keeps per batch element for its backward pass."""
        return 0

    def prepare(
        self,
        dtype: torch.dtype,
        num_cells: int,
        linkage: str = "none",
        keep: bool = True,
        varied: bool = False,
    ) -> None:
        """Compile what the parts need.

        Args:
            dtype: of the state.
            num_cells: N.
            linkage: whose run is needed too.
            keep: whether there will be a backward pass.
            varied: whether look-ups are not the paper's, see `StepOptions.varied_look_up`.
        """

    def compile_ahead(self, device: torch.device, rehearse: Callable[[], None]) -> None:
        """Compile what a run will launch on a device, where that is faster than at each launch.

        rehearse: makes those launches, on tensors without data.
        """

    # Content

    def look_up(
        self,
        keys: Tensor,
        strengths: Tensor,
        memory: Tensor,
        masks: Tensor | None = None,
        similarity: str = "cosine",
    ) -> LookUp:
        """Content weightings, and what their gradient needs, see `reference.look_up`."""
        return reference.look_up(keys, strengths, memory, masks, similarity)

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
        """Gradients of keys, strengths and masks; that of the memory is added to d_memory.

        d_weights and `found` may be overwritten.
        """
        d_keys, d_strengths, d_c, d_masks = reference.content_weighting_backward(
            d_weights, found, keys, strengths, memory, masks, similarity
        )
        d_memory += d_c
        return d_keys, d_strengths, d_masks

    # Usage and allocation

    def update_usage(self, step: Step, free_gates: Tensor) -> None:
        """Fill step.usage1."""
        psi = reference.retention(free_gates, step.read0)
        step.usage1.copy_(reference.update_usage(step.usage0, step.write0, psi))

    def update_usage_backward(self, step: Step, free_gates: Tensor, adjoint: Adjoint) -> Tensor:
        """Gradient of the free gates; adjoint.usage becomes that of step t - 1.

        Fills adjoint.write with the gradient of step.write0, and adds that of step.read0 to
        adjoint.read.
        """
        psi = reference.retention(free_gates, step.read0)
        d_before, d_last_write, d_psi = reference.update_usage_backward(
            adjoint.usage, step.usage0, step.write0, psi
        )
        d_free_gates, d_last_read = reference.retention_backward(d_psi, free_gates, step.read0)
        adjoint.usage.copy_(d_before)
        adjoint.write.copy_(d_last_write)
        adjoint.read.add_(d_last_read)
        return d_free_gates

    def write_weighting(
        self, interface: Interface, usage: Tensor, content: Tensor, options: StepOptions
    ) -> Tensor:
        """The write weightings (B, Hw, N), see `reference`; may overwrite content."""
        return reference.write_weighting(interface, usage, content, options)[0]

    def write_weighting_backward(
        self,
        d_write_weights: Tensor,
        interface: Interface,
        usage: Tensor,
        content: Tensor,
        options: StepOptions,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of allocation gates, write gates, usage, content."""
        _, allocation = reference.write_weighting(interface, usage, content, options)
        return reference.write_weighting_backward(
            d_write_weights, interface, usage, allocation, content, options
        )

    def allocate(self, usage: Tensor, options: StepOptions) -> Tensor:
        """The allocation weighting (B, N) of a usage (B, N)."""
        return reference.allocate(usage, options)

    def allocate_backward(self, d_weights: Tensor, usage: Tensor, options: StepOptions) -> Tensor:
        """Gradient of the usage."""
        return reference.allocate_backward(d_weights, usage, options)

    # Weightings of few entries

    keep_largest = staticmethod(selection.keep_largest)

    # The memory

    def write(
        self,
        memory: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
        out: Tensor,
    ) -> None:
        """Fill `out` with the memory after the write, see `reference.write_memory`."""
        out.copy_(reference.write_memory(memory, write_weights, erase_vectors, write_vectors))

    def write_backward(
        self,
        d_memory: Tensor,
        memory: Tensor,
        write_weights: Tensor,
        erase_vectors: Tensor,
        write_vectors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of write weightings and both vectors; d_memory becomes that of M_{t-1}."""
        d_before, *others = reference.write_memory_backward(
            d_memory, memory, write_weights, erase_vectors, write_vectors
        )
        d_memory.copy_(d_before)
        d_write, d_erase, d_vectors = others
        return d_write, d_erase, d_vectors

    # Controllers

    def controller_kernels(self, multiplications: int) -> Any | None:
        """Kernels for whole layers and the interface layer; see `kernels.gpu.controller`.

        Args:
            multiplications: of the largest matrix product of a step.

        Returns:
            what has the functions of that module; None to multiply with torch.
        """
        return None

    def lstm_forward(
        self,
        product: Tensor,
        x_part: Tensor,
        c0: Tensor,
        active: Tensor,
        c1: Tensor,
        tanh_c: Tensor,
        hidden: Tensor,
    ) -> None:
        """The gates of an LSTM: h = o tanh(c), c = f c_{t-1} + i g.

        Args:
            product, x_part: (b, 4 H), of any dtype; the pre-activations are their sum.
            c0: (b, H), c_{t-1}.
            active: (b, 4 H), filled with i, f, g, o.
            c1: (b, H), filled with c.
            tanh_c: (b, H), filled with tanh(c).
            hidden: (b, H), of any dtype, filled with h.
        """
        H = c0.shape[1]
        torch.add(product, x_part, out=active)
        active[:, : 2 * H].sigmoid_()
        active[:, 2 * H : 3 * H].tanh_()
        active[:, 3 * H :].sigmoid_()
        entry, forget, change, output = active.chunk(4, dim=1)
        torch.mul(forget, c0, out=c1).addcmul_(entry, change)
        torch.tanh(c1, out=tanh_c)
        torch.mul(output, tanh_c, out=hidden)

    def lstm_backward(
        self,
        active: Tensor,
        tanh_c: Tensor,
        c0: Tensor,
        d_output: Tensor,
        d_last: Tensor,
        clip: float | None,
        d_c: Tensor,
        d_active: Tensor,
    ) -> None:
        """The backward of `lstm_forward`.

        Args:
            active, tanh_c, c0: as filled or given in the forward.
            d_output, d_last: (b, H), the gradient of h is their sum; d_last may be overwritten.
            clip: elementwise bound of the gradients of h and c; None for no bound.
            d_c: (b, H), gradient of c; becomes that of step t - 1.
            d_active: (b, 4 H), of any dtype, filled with the gradient of the pre-activations.
        """
        entry, forget, change, output = active.chunk(4, dim=1)
        d_entry, d_forget, d_change, d_gate = d_active.chunk(4, dim=1)
        d_hidden = d_last.add_(d_output)
        if clip is not None:
            d_hidden.clamp_(-clip, clip)
            d_c.clamp_(-clip, clip)
        d_c.add_(tanh_backward(d_hidden * output, tanh_c))
        sigmoid_backward(d_c * change, entry, grad_input=d_entry)
        sigmoid_backward(d_c * c0, forget, grad_input=d_forget)
        tanh_backward(d_c * entry, change, grad_input=d_change)
        sigmoid_backward(d_hidden * tanh_c, output, grad_input=d_gate)
        d_c.mul_(forget)
