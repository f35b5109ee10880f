"""Training steps: from batches to new parameters, and when the host reads how a step went.

On a GPU it reads a step's loss and gradient once the next step has been launched, so that the GPU
need not wait for the host between two steps. From a step that is not finite on, the GPU itself
leaves the parameters as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..state import map_tensors
from ..tasks import Batch, Task
from .config import TrainingConfig
from .distributed import Ranks
from .health import TrainingError, UsualNorm, first_bad_tensor
from .optimization import Optimization


class Spike(NamedTuple):
    """How many times its usual size a gradient norm is, and which parameter adds most to it."""

    factor: float
    tensor: str


class Report(NamedTuple):
    """How a training step went.

    | field | meaning                                                                      |
    |-------|------------------------------------------------------------------------------|
    | step  | its number, from 1                                                           |
    | loss  | nats per answer                                                              |
    | norm  | of the gradient before clipping; None where float16 overflowed               |
    | rate  | the learning rate                                                            |
    | spike | None if the norm is no spike                                                 |
    """

    step: int
    loss: float
    norm: float | None
    rate: float
    spike: Spike | None


class _Launched(NamedTuple):
    """A step that the device may still be working on, with the values that it will leave.

    values: the losses of the batches, the norm of the gradient, that of each parameter's gradient.
    """

    step: int
    rate: float
    batches: Sequence[Batch]
    states: Sequence[Any]
    values: Tensor
    arrived: torch.cuda.Event | None


class Steps:
    """Takes the training steps of a model.

    Args:
        model: what is trained.
        task: for its loss.
        config: how to train.
        optimization: of the model's parameters.
        ranks: the processes that train together.
        folder: of the run, for messages.

    Attributes:
        carried: the state that each batch of the next step continues from, or None.
        usual_norm: what the norm of the gradient usually is.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        config: TrainingConfig,
        optimization: Optimization,
        ranks: Ranks,
        folder: Path,
    ) -> None:
        self.carried: list[Any] = [None] * config.accumulate
        self.usual_norm = UsualNorm(config.spike_factor)
        self._model, self._task, self._config = model, task, config
        self._optimization, self._ranks, self._folder = optimization, ranks, folder
        # Otherwise the host decides whether parameters are updated, or what other ranks are told.
        self._late = optimization.skips_itself and config.spikes == "note" and ranks.count == 1
        self._launched: _Launched | None = None
        self._failed: Tensor | None = None
        """Bool, on the device: whether a step was not finite, since the host last knew of none."""

    def take(self, number: int, batches: Sequence[Batch]) -> list[Report]:
        """Take a step; returns how it went, or, on a GPU, how the one before it went.

        Raises:
            TrainingError: loss or gradient is not finite; the step did not change the parameters.
        """
        states, optimization = self.carried, self._optimization
        self._ranks.begin_step(number - 1, self._config.seed)
        losses, self.carried = self._gradients(batches, states)
        self._ranks.add_up([*optimization.gradients().values()])
        norms = optimization.gradient_norms()
        found = torch.cat([torch.stack(losses), norms])
        values, arrived = _to_host(found, self._late)
        launched = _Launched(number, optimization.rate, batches, states, values, arrived)
        if self._late:
            failed = ~found.isfinite().all()
            self._failed = failed if self._failed is None else failed | self._failed
            optimization.step(norms[0], self._failed)
            reports = self.settle()
            self._launched = launched
            return reports
        report = self._read(launched)
        skip = report.spike is not None and self._config.spikes == "skip"
        optimization.step(norms[0], skip or report.norm is None)
        return [report]

    def settle(self) -> list[Report]:
        """Wait for the last step if it has not been read yet; returns how it went.

        Raises:
            TrainingError: its loss or gradient is not finite.
        """
        launched, self._launched = self._launched, None
        return [] if launched is None else [self._read(launched)]

    def _gradients(
        self, batches: Sequence[Batch], states: Sequence[Any]
    ) -> tuple[list[Tensor], list[Any]]:
        """Give the parameters their gradient; returns the losses, and the states to carry over."""
        self._optimization.optimizer.zero_grad()
        losses, carried = [], []
        for batch, state in zip(batches, states, strict=True):
            loss, state = self._forward(batch, state)
            self._optimization.backward(loss / len(batches))
            losses.append(loss.detach())
            carried.append(state)
        return losses, carried

    def _forward(self, batch: Batch, state: Any) -> tuple[Tensor, Any]:
        """This rank's part of the loss of a batch, and the state to carry over from chunk to chunk.

        The state is None where a batch is one chunk.
        """
        batch, weight = self._ranks.share(batch)
        with self._optimization.autocast():
            outputs, state = self._model(batch.inputs, state)
        carried = None
        if self._task.num_chunks > 1:
            carried = map_tensors(_to_carry, state)
        return weight * self._task.loss(outputs.float(), batch), carried

    def _read(self, launched: _Launched) -> Report:
        """Wait for a step, and look at what it left."""
        if launched.arrived is not None:
            launched.arrived.synchronize()
        values, count = launched.values.tolist(), len(launched.batches)
        losses, norm, norms = values[:count], values[count], values[count + 1 :]
        loss = self._ranks.total(sum(losses) / count)
        overflow = self._optimization.overflowed(norm)
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflow):
            self._raise_not_finite(launched, loss, norm)
        factor = None if overflow else self.usual_norm.spike(norm)
        spike = None if factor is None else Spike(factor, self._optimization.largest(norms))
        return Report(launched.step, loss, None if overflow else norm, launched.rate, spike)

    def _raise_not_finite(self, launched: _Launched, loss: float, norm: float) -> None:
        """Raise with the first tensor that is not finite."""
        self._failed, self.carried = None, list(launched.states)
        if self._late:  # the gradients may be those of the step after it
            self._gradients(launched.batches, launched.states)
        pairs = zip(launched.batches, map(self._ranks.whole, launched.states), strict=True)
        found = (first_bad_tensor(self._model, batch, state) for batch, state in pairs)
        first = next(filter(None, found), "every tensor is finite when the step is run again")
        raise TrainingError(
            f"loss and gradient norm must be finite, got {loss:g} and {norm:g} at step "
            f"{launched.step}: {first}; the parameters are those from before that step, and the "
            f"last checkpoint is in {self._folder}; a smaller learning rate or clip_norm may help"
        )


def _to_host(values: Tensor, late: bool) -> tuple[Tensor, torch.cuda.Event | None]:
    """The values in host memory, and the event of their arrival; None if they are there already."""
    if not (late and values.is_cuda):
        return values, None
    values, arrived = values.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record()
    return values, arrived


def _to_carry(tensor: Tensor) -> Tensor:
    """A tensor of a state without its graph; those of half-precision layers in float32."""
    return tensor.detach().float() if tensor.is_floating_point() else tensor
