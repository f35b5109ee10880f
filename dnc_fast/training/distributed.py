"""Training by several processes, called ranks, that work on the same batches together.

Every rank draws the same batch, takes its rows of it, and adds its gradient to those of the others.
So all have the same parameters after every step, and a run takes the same steps on any number of
ranks, up to the order in which sums are rounded. The exception is dropout: each rank draws masks
of its own.

The gradients are added up by hand and not by torch's DistributedDataParallel, which overlaps this
with the backward pass: the engine returns all gradients at the end of it, so there is nothing to
overlap. One sum for each training step is enough, however many batches it accumulates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..state import map_tensors, tensors
from ..tasks import Batch
from .health import TrainingError
from .random import stream_seed

T = TypeVar("T")


class Ranks:
    """The processes that train one model; this one alone, unless `joined` says otherwise.

    The methods that return or change what all ranks know are to be called by all of them.

    Args:
        rank: the number of this process, from 0.
        count: how many there are, P. If more than one, torch.distributed must be initialised.
        device: where this one trains.

    Raises (every method that is called by all):
        TrainingError: a rank has ended.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: str = "cpu") -> None:
        self.rank = rank
        self.count = count
        self.device = device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes checkpoint, metrics and pictures, and is seen."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """Raise a ValueError unless all ranks can take equally many sequences of a batch."""
        if batch_size % self.count:
            least = batch_size // self.count * self.count
            sizes = [str(size) for size in (least, least + self.count) if size]
            raise ValueError(
                f"batch_size must be a multiple of the {self.count} ranks that share a batch, got "
                f"{batch_size}; take {' or '.join(sizes)}, or another number of ranks"
            )

    def rows(self, size: int) -> slice:
        """The sequences that this rank takes, of `size`."""
        first, last = (size * rank // self.count for rank in (self.rank, self.rank + 1))
        return slice(first, last)

    def share(self, batch: Batch) -> tuple[Batch, Tensor | float]:
        """This rank's rows of a batch, and the share of the batch's answers that is among them.

        A loss is a mean over answers. So those of all ranks, times these shares, add up to that of
        the batch.
        """
        if self.count == 1:
            return batch, 1.0
        rows = self.rows(len(batch.lengths))
        inputs, targets, mask = (part[:, rows] for part in batch[:3])
        return (
            Batch(inputs, targets, mask, batch.lengths[rows]),
            mask.sum() / batch.mask.sum().clamp(min=1),
        )

    def begin_step(self, step: int, seed: int) -> None:
        """Give the dropout of this rank its random numbers for a training step.

        They depend on step and rank alone, so none need be saved. A single process just continues.
        """
        if self.count > 1:
            torch.manual_seed(stream_seed(seed, "dropout", step * self.count + self.rank))

    def wait(self) -> None:
        """Go on when all ranks have come here."""
        self.most(0)

    def total(self, number: float) -> float:
        """The sum of a number over all ranks."""
        return self._reduced([number], dist.ReduceOp.SUM)[0]

    def most(self, *numbers: float) -> list[float]:
        """The largest that any rank has of each number."""
        return self._reduced(numbers, dist.ReduceOp.MAX)

    def _reduced(self, numbers: Sequence[float], how: Any) -> list[float]:
        """Numbers reduced over all ranks. On CPUs: a rank that has died is noticed at once."""
        if self.count == 1:
            return list(numbers)
        reduced = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        with self._together():
            dist.all_reduce(reduced, how)
        return reduced.tolist()

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype, on the devices, by their sums over all ranks."""
        if self.count == 1:
            return
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        with self._together():
            dist.all_reduce(joined)
        parts = joined.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def gathered(self, tree: T) -> list[T]:
        """A nest of tensors of each rank, in their order; those of several ranks on the CPU."""
        if self.count == 1:
            return [tree]
        trees: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(trees, map_tensors(Tensor.cpu, tree))
        return trees

    def whole(self, state: Any) -> Any:
        """The state of a whole batch, from each rank's state of its rows."""
        if self.count == 1:
            return state
        parts = [tensors(share) for share in self.gathered(state)]
        return map_tensors(lambda own: torch.cat([next(part) for part in parts]).to(own), state)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Make a clear error of what torch raises when a rank does not answer."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).split(". ")[0]
            raise TrainingError(
                f"rank {self.rank} of {self.count} has lost another rank, which has ended or "
                f"cannot be reached ({reason}); see its output; --resume continues from the last "
                "checkpoint"
            ) from error


ALONE = Ranks()
"""One process."""


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, this process among them; otherwise this one alone.

    Within it, only the first of them is seen: what the others print goes nowhere.

    Args:
        device: "cpu", or "cuda" for one GPU to each rank of a machine.

    Raises:
        ValueError: there are fewer GPUs than ranks.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Ranks(device=device)
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "gloo"
    if device.startswith("cuda"):
        device = _own_gpu(device)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    # Defaults of functions in there hold the group that exists when they are defined, and with it
    # threads that would be running when the interpreter ends.
    import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend)
    with ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        if rank > 0:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield Ranks(rank, count, device)


def _own_gpu(device: str) -> str:
    """The GPU of this rank, if none is named."""
    number, have = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if device != "cuda":
        return device
    if number >= have:
        raise ValueError(
            f"each rank needs a GPU of its own, got more ranks than the {have} here; start as many "
            "with --nproc-per-node, or train with --device cpu"
        )
    return f"cuda:{number}"
