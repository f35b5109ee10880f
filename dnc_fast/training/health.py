"""The first value that is not finite: in which tensor, at which time step, of which sequence.

Looked for only when a loss or a gradient was found not to be finite, so it costs nothing before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..dnc import DNC
from ..tasks import Batch


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
    """Where the first value that is not finite lies, or None."""
    bad = ~torch.isfinite(tensor)
    return tuple(bad.nonzero()[0].tolist()) if bad.any() else None


def first_bad_tensor(model: DNC, batch: Batch, state: Any) -> str | None:
    """Name the first tensor of a training step that holds a value that is not finite, or None.

    In this order: parameters, the carried state, inputs, then what the memory does at each time
    step (in the order of `Trace`), the outputs, and last the gradients that the parameters hold.

    Args:
        model: as it was in the step, with the gradients of it.
        batch: that it was trained on.
        state: that was carried into the step, or None.
    """
    before = [
        *named_tensors("parameter", dict(model.named_parameters())),
        *named_tensors("state", state),
        ("inputs", batch.inputs),
    ]
    for name, tensor in before:
        index = first_bad_index(tensor)
        if index is not None:
            return f"{name} is {tensor[index].item()} at index {index}"

    with torch.no_grad():
        outputs, _, trace = model(batch.inputs, state, return_trace=True)
    over_time = {f"activation {name}": part for name, part in trace._asdict().items()}
    over_time["activation outputs"] = outputs
    bad = {name: index for name, part in over_time.items() if (index := first_bad_index(part))}
    if bad:
        name = min(bad, key=lambda name: bad[name][0])  # the first of those at the earliest step
        step, sequence, *rest = bad[name]
        value = over_time[name][bad[name]].item()
        return f"{name} is {value} at time step {step} of sequence {sequence}, index {tuple(rest)}"

    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    for name, gradient in gradients.items():
        index = first_bad_index(gradient)
        if index is not None:
            return f"gradient of {name} is {gradient[index].item()} at index {index}"
    if not gradients:
        return None
    largest = {name: gradient.abs().max().item() for name, gradient in gradients.items()}
    name = max(largest, key=lambda name: largest[name])
    return f"gradient of {name}, the largest, is finite but as large as {largest[name]:.3g}"
