"""What a linkage is: how the state holds the order of writes, and what a step does with it.

Letters: B batch, N memory cells, R read heads, Hw write heads, K fan-out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..kernels.arrays import Step
from ..options import StepOptions


class LinkSizes(NamedTuple):
    """B, Hw, N, and K of a sparse link matrix."""

    batch_size: int
    num_write_heads: int
    num_cells: int
    fan_out: int = 1


class LinkBudget(NamedTuple):
    """What the memory that a link takes in training depends on, besides its sizes.

    | field               | what                                                                |
    |---------------------|---------------------------------------------------------------------|
    | steps               | T                                                                   |
    | num_read_heads      | R                                                                   |
    | itemsize            | bytes of a number of the state                                      |
    | checkpoint_itemsize | bytes of a number of a link matrix that is kept as a checkpoint     |
    | matrices            | link matrices that the engine holds at its peak, checkpoints aside  |
    | checkpoints         | checkpoints between the first step and the last                     |
    """

    steps: int
    num_read_heads: int
    itemsize: int
    checkpoint_itemsize: int
    matrices: int
    checkpoints: int

    def in_passing(self, sizes: LinkSizes) -> int:
        """Bytes of the weightings that a link is multiplied with, about."""
        B, Hw, N, _ = sizes
        return 8 * self.num_read_heads * Hw * B * N * self.itemsize


class LinkGradients(NamedTuple):
    """What the link adds to a step's gradients; d is the gradient of the read weightings.

    | field         | shape         | what                                |
    |---------------|---------------|-------------------------------------|
    | ahead         | (B, Hw, R, N) | L_t d                               |
    | behind        | (B, Hw, R, N) | L_t^T d                             |
    | write_weights | (B, Hw, N)    | added to the write weightings' own  |
    | precedence    | (B, Hw, N)    | added to that of the precedence     |
    """

    ahead: Tensor
    behind: Tensor
    write_weights: Tensor
    precedence: Tensor


class LinkRun(ABC):
    """A link taken through the steps of a run, and its gradient back through them.

    Steps are taken forward one after another, and backward in the opposite order. These are the
    methods of a link that is one matrix: the engine holds it in the arrays of the steps. Other
    links override those below `backward` and hold what they need themselves.

    Args:
        link: before the first step.
        options: of the steps.
        steps: T.
        keep: whether there will be a backward pass.
    """

    def __init__(self, link: Any, options: StepOptions, steps: int, keep: bool) -> None:
        self.options = options
        self.keep = keep

    @abstractmethod
    def forward(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """Take the link to step t.

        Returns:
            forward and backward weightings, each (B, Hw, R, N); None where nothing is linked.
        """

    @abstractmethod
    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients | None:
        """Take the link and its gradient to step t - 1.

        Args:
            step: t.
            d_link: gradient of step.link1, changed in place to that of step.link0.
            d_read: (B, R, N), gradient of the read weightings of step t.
            modes_ahead, modes_behind: (B, R, Hw), the read modes of both directions.

        Returns:
            None where nothing is linked.
        """

    def rebuild(self, step: Step) -> None:  # noqa: B027
        """Fill step.link1 from step.link0 and the vectors."""

    def matrix(self, link: Any, like: Tensor) -> Tensor:
        """What the engine is to hold of a link, (B, Hw, N, N) or without numbers.

        Args:
            link: before the first step.
            like: (B, Hw, N), of the state's dtype and device.
        """
        return like.new_empty(*like.shape[:2], 0, 0)

    def final(self, matrix: Tensor) -> Any:
        """The link after the last step; `matrix` is what the engine held."""
        return matrix

    def begin_backward(self, d_final: list[Tensor | None]) -> Tensor | None:
        """Begin the backward pass.

        Args:
            d_final: gradients of the tensors of `final`; None stands for zeros.

        Returns:
            the gradient of the matrix that the engine holds.
        """
        return None

    def gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        """Gradients of the tensors of the first link; `d_matrix` is that of the matrix."""
        return []


class Linkage(ABC):
    """A way to link writes in time: the type of the state's link, its equations, its run.

    A new one is a class like this and an entry in `LINKAGES`.

    Attributes:
        name: as in `DNC(linkage=...)`.
        link_type: of the state's field `link`.
        is_matrix: whether the link is the paper's matrix, which the engine keeps as checkpoints
            and which fused steps know.
        run_type: its run in plain torch; a backend may have one of its own.
        integers: names of those of its tensors that are int32.
    """

    name: ClassVar[str]
    link_type: ClassVar[type]
    is_matrix: ClassVar[bool] = False
    run_type: ClassVar[type[LinkRun]]
    integers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def empty(self, sizes: LinkSizes, dtype: torch.dtype, device: Any) -> Any:
        """The link before the first write."""

    @abstractmethod
    def shapes(self, link: Any, sizes: LinkSizes) -> dict[str, tuple[int, ...]]:
        """The shapes that the tensors of a link must have, by name; sizes.fan_out is not known."""

    @abstractmethod
    def step(
        self,
        link: Any,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[Any, Tensor, Tensor]:
        """The reference equations: link what is written to what was written before.

        Args:
            link, precedence, read_weights: of the step before; precedence is (B, Hw, N),
                read_weights (B, R, N).
            write_weights: (B, Hw, N), of this step.
            options: of the step.

        Returns:
            the link of this step, and where it leads from what was read last, forward and
            backward, each (B, R, Hw, N).
        """

    @abstractmethod
    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        """What the link takes in a training step, checkpoints and gradients included."""

    def check(self, link: Any, num_cells: int) -> None:  # noqa: B027
        """Raise where the numbers of a link cannot be; shapes and dtypes are checked already."""

    def join(self, links: list[Any]) -> list[Any]:
        """Links that are to be joined along the batch, made equal in all other sizes."""
        return links

    def tensors(self, link: Any) -> dict[str, Any]:
        """The tensors of a link by the names that messages give them."""
        return {} if link is None else {f"link.{k}": part for k, part in link._asdict().items()}

    def run(
        self,
        link: Any,
        options: StepOptions,
        steps: int,
        keep: bool,
        run_types: Mapping[str, type[LinkRun]],
    ) -> LinkRun:
        """A run of this link, by the kind that a backend has for it, see `LinkRun`."""
        return run_types.get(self.name, self.run_type)(link, options, steps, keep)
