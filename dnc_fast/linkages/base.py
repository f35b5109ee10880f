"""What a linkage is: how the state stores the order of writes, and how a step uses it.

Letters: B batch, N memory cells, R read heads, Hw write heads, K fan-out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..kernels.arrays import Step
from ..step_options import StepOptions


class LinkSizes(NamedTuple):
    """B, Hw, N, and K for a sparse link matrix; 0 if any K will do."""

    batch_size: int
    num_write_heads: int
    num_cells: int
    fan_out: int = 0


class LinkBudget(NamedTuple):
    """What determines the memory that a link takes in training, besides its sizes.

    | field               | what                                                                |
    |---------------------|---------------------------------------------------------------------|
    | steps               | T                                                                   |
    | num_read_heads      | R                                                                   |
    | itemsize            | bytes per number of the state                                       |
    | checkpoint_itemsize | bytes per number of a link matrix that is kept as a checkpoint      |
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
        """About the bytes of the weightings that a link is multiplied by."""
        B, Hw, N, _ = sizes
        return 8 * self.num_read_heads * Hw * B * N * self.itemsize


class LinkGradients(NamedTuple):
    """What the link adds to a step's gradients; d is the gradient of the read weightings.

    | field         | shape         | what                                |
    |---------------|---------------|-------------------------------------|
    | ahead         | (B, Hw, R, N) | L_t d                               |
    | behind        | (B, Hw, R, N) | L_t^T d                             |
    | write_weights | (B, Hw, N)    | adds to the write weightings' own   |
    | precedence    | (B, Hw, N)    | adds to that of the precedence      |
    """

    ahead: Tensor
    behind: Tensor
    write_weights: Tensor
    precedence: Tensor


class LinkRun(ABC):
    """Runs a link through all steps, and its gradient back through them.

    Steps run one after another, and backward in reverse order. The defaults below
    `backward` fit a link without tensors. A link matrix, which the engine holds in the arrays of
    the steps, overrides them, and so does a link that holds its own tensors.

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
        """Update the link to step t.

        Returns:
            forward and backward weightings, each (B, Hw, R, N); None if nothing is linked.
        """

    @abstractmethod
    def backward(
        self, step: Step, d_link: Tensor, d_read: Tensor, modes_ahead: Tensor, modes_behind: Tensor
    ) -> LinkGradients | None:
        """Take the link and its gradient back to step t - 1.

        Args:
            step: step t.
            d_link: gradient of step.link1; becomes that of step.link0, in place.
            d_read: (B, R, N), gradient of the read weightings of step t.
            modes_ahead, modes_behind: (B, R, Hw), the read modes of both directions.

        Returns:
            None if nothing is linked.
        """

    def backward_of_each(
        self, step: Step, d_link: Tensor, d_ahead: Tensor, d_behind: Tensor
    ) -> tuple[Tensor, LinkGradients]:
        """`backward` from gradients of the directional weightings themselves.

        `backward` is for one gradient of the read weightings, which mix the directional ones. So
        each of these counts as a read head of its own, which reads nothing else.

        Args:
            step: step t.
            d_link: as in `backward`.
            d_ahead, d_behind: (B, Hw, R, N), gradients of the forward and backward weightings.

        Returns:
            what the links add to the gradient of the last read weightings (B, R, N), and the rest.
        """
        B, Hw, R, N = d_ahead.shape
        changes = torch.stack([d_ahead, d_behind], dim=2)  # (B, Hw, 2, R, N)
        own = torch.eye(Hw, dtype=d_ahead.dtype, device=d_ahead.device)
        modes = own.view(1, Hw, 1, 1, Hw).expand(B, Hw, 2, R, Hw).contiguous()
        none = torch.zeros_like(modes[:, :, 0])
        ahead = torch.stack([modes[:, :, 0], none], dim=2).view(B, -1, Hw)
        behind = torch.stack([none, modes[:, :, 1]], dim=2).view(B, -1, Hw)
        heads = step._replace(read0=step.read0.repeat(1, 2 * Hw, 1))
        found = self.backward(heads, d_link, changes.view(B, -1, N), ahead, behind)
        assert found is not None  # otherwise there are no directional weightings
        # forward = L wr has the gradient L^T d, backward = L^T wr has L d.
        toward, away = (
            torch.stack([part.view(B, Hw, Hw, 2, R, N)[:, h, h] for h in range(Hw)], dim=1)
            for part in (found.ahead, found.behind)
        )
        return (away[:, :, 0] + toward[:, :, 1]).sum(1), found

    def rebuild(self, step: Step) -> None:  # noqa: B027
        """Fill step.link1 from step.link0 and the vectors."""

    def matrix(self, link: Any, like: Tensor) -> Tensor:
        """What the engine holds of a link, (B, Hw, N, N) or an empty tensor.

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
            d_final: gradients of the tensors of `final`; None means zeros.

        Returns:
            the gradient of the matrix that the engine holds.
        """
        return None

    def gradient(self, d_matrix: Tensor) -> list[Tensor | None]:
        """Gradients of the initial link's tensors; `d_matrix` is that of the matrix."""
        return []


class Linkage(ABC):
    """A way to link writes in time: the type of the state's link, its equations, its run.

    To add one, write a subclass and add it to `LINKAGES`.

    Attributes:
        name: its name in `DNC(linkage=...)`.
        link_type: type of the state's field `link`.
        is_matrix: whether the link is the paper's matrix, which the engine keeps in checkpoints
            and fused steps support.
        run_type: its run in plain torch; a backend may have its own.
        integers: names of its int32 tensors.
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
        """The shapes that the tensors of a link must have, by name."""

    @abstractmethod
    def step(
        self,
        link: Any,
        precedence: Tensor,
        write_weights: Tensor,
        read_weights: Tensor,
        options: StepOptions,
    ) -> tuple[Any, Tensor, Tensor]:
        """The reference equations: link what is written now to what was written before.

        Args:
            link, precedence, read_weights: of the previous step; precedence is (B, Hw, N),
                read_weights (B, R, N).
            write_weights: (B, Hw, N), of this step.
            options: of the step.

        Returns:
            the link of this step, and its forward and backward weightings from what was read last,
            each (B, R, Hw, N).
        """

    @abstractmethod
    def bytes(self, sizes: LinkSizes, budget: LinkBudget) -> int:
        """Bytes that the link takes in a training step, including checkpoints and gradients."""

    def check(self, link: Any, num_cells: int) -> None:  # noqa: B027
        """Raise if the values of a link are invalid; shapes and dtypes are already checked."""

    def join(self, links: list[Any]) -> list[Any]:
        """Pad links that will be joined along the batch to the same other sizes."""
        return links

    def lengthened(self, link: Any, steps: int) -> Any:
        """A link with the shapes that this one has after so many more steps."""
        return link

    def tensors(self, link: Any) -> dict[str, Any]:
        """The tensors of a link, by their names in error messages."""
        names = [] if link is None else [f"link.{name}" for name in type(link)._fields]
        return dict(zip(names, link or (), strict=True))

    def run(
        self,
        link: Any,
        options: StepOptions,
        steps: int,
        keep: bool,
        run_types: Mapping[str, type[LinkRun]],
    ) -> LinkRun:
        """A run of this link, of the type in `run_types` or else in plain torch, see `LinkRun`."""
        return run_types.get(self.name, self.run_type)(link, options, steps, keep)
