"""What goes wrong in training: values that are not finite, and spikes of the gradient's norm.

The first value that is not finite (in which tensor, at which time step, of which sequence) is
looked for only after a loss or a gradient was not finite, so it costs nothing otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..tasks import Batch
from .answering import traced


class TrainingError(RuntimeError):
    """Training cannot go on; what was reached before is in the last checkpoint.

    Where a step went wrong, the model has the parameters from before that step.
    """


def named_tensors(name: str, tree: Any) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a nest of tuples, lists and dicts with its name, such as state.memory.link."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from named_tensors(f"{name}.{key}", part)
    elif hasattr(tree, "_fields"):
        yield from named_tensors(name, tree._asdict())
    elif isinstance(tree, (tuple, list)):
        for index, part in enumerate(tree):
            yield from named_tensors(f"{name}[{index}]", part)


def first_bad_index(tensor: Tensor) -> tuple[int, ...] | None:
    """The index of the first value that is not finite, or None."""
    bad = ~torch.isfinite(tensor)
    return tuple(bad.nonzero()[0].tolist()) if bad.any() else None


def _first_bad(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first of these tensors that is not finite, and where."""
    for name, tensor in named:
        index = first_bad_index(tensor)
        if index is not None:
            return f"{name} is {tensor[index].item()} at index {index}"
    return None


@torch.no_grad()
def _first_bad_activation(model: nn.Module, batch: Batch, state: Any) -> str | None:
    """The first activation that is not finite: of the earliest step, in the order of `Trace`."""
    outputs, _, trace = traced(model, batch.inputs, state)
    parts = {**(trace._asdict() if trace else {}), "outputs": outputs}
    bad = [(index, name) for name, part in parts.items() if (index := first_bad_index(part))]
    if not bad:
        return None
    index, name = min(bad, key=lambda found: found[0][0])
    step, sequence, *rest = index
    where = f"at time step {step} of sequence {sequence}, index {tuple(rest)}"
    return f"activation {name} is {parts[name][index].item()} {where}"


def first_bad_tensor(model: nn.Module, batch: Batch, state: Any) -> str | None:
    """Name the first tensor of a training step that holds a value that is not finite, or None.

    In this order: parameters, the carried state, inputs, what the memory did at each time step (in
    the order of `Trace`) and the outputs, and last the gradients that the parameters hold.

    Args:
        model: as it was in the step, with its gradients.
        batch: what it was trained on.
        state: what was carried into the step, or None.
    """
    parameters = dict(model.named_parameters())
    gradients = {
        f"gradient of {name}": parameter.grad
        for name, parameter in parameters.items()
        if parameter.grad is not None
    }
    before = {"parameter": parameters, "state": state, "inputs": batch.inputs}
    found = (
        _first_bad(named for name, tree in before.items() for named in named_tensors(name, tree))
        or _first_bad_activation(model, batch, state)
        or _first_bad(gradients.items())
    )
    if found or not gradients:
        return found
    largest, size = largest_gradient(model)
    return f"gradient of {largest}, the largest, is finite but as large as {size:.3g}"


def largest_gradient(model: nn.Module) -> tuple[str, float]:
    """The parameter with the largest number in its gradient, and that number's size."""
    sizes = {
        name: parameter.grad.abs().max().item()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.numel()
    }
    largest = max(sizes, key=lambda name: sizes[name])
    return largest, sizes[largest]


class UsualNorm:
    """What the norm of the gradient usually is: a running mean of its logarithm.

    Args:
        factor: a norm this many times the usual one is a spike.

    Attributes:
        state: the mean and how many norms are in it; all that there is to save.
    """

    SETTLED = 50
    """From so many norms on, there are spikes: the first ones fall fast."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self.state = (0.0, 0)

    def spike(self, norm: float) -> float | None:
        """How many times the usual a norm is, if it is a spike; it is counted in the mean.

        A spike counts as the largest norm that is not one, so that a lasting change becomes usual.
        """
        mean, count = self.state
        level = math.log(max(norm, 1e-30))
        excess = level - mean
        limit = math.log(self._factor)
        is_spike = count >= self.SETTLED and excess > limit
        count += 1
        self.state = mean + min(excess, limit if is_spike else excess) / min(count, 100), count
        return math.exp(excess) if is_spike else None
