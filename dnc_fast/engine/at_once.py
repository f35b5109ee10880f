"""All steps in one call of the backend, where it offers that: what it is handed.

The buffers are those that the steps fill when they are taken one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..kernels.arrays import Adjoint, AdjointSteps, Steps
from .controller_tapes import LayeredTape
from .memory_tape import MemoryPlayback, MemoryTape


def all_steps(
    controller: LayeredTape,
    memory: MemoryTape,
    weight: Tensor,
    bias: Tensor,
    features: Tensor,
    reads0: Tensor,
) -> Steps:
    """The arrays of the forward pass.

    Args:
        controller, memory: started.
        weight, bias: of the interface layer.
        features: (outputs, L H + R W), to be filled.
        reads0: (B, R, W), before the first step.
    """
    rows, array, states = memory.rows, memory.primitives.array, memory.vector_states
    layers, kind = controller.layers, controller.kind
    H = controller.hidden_size
    hidden0 = [layer.initial[0] for layer in layers] if kind.recurrent else None
    steps = range(rows.steps)
    matrices = [memory.matrices(t) for t in range(rows.steps + 1)]
    return Steps(
        kind=kind.kind,
        own=H if kind.recurrent else 0,
        interval=memory.interval,
        batch_sizes=array(integers(rows.batch_sizes)),
        before=array(integers(rows.before(t).start for t in steps)),
        after=array(integers(rows.after(t).start for t in steps)),
        place=array(integers(rows.step(t).start for t in steps)),
        output=array(integers(rows.output(t).start for t in steps)),
        x_part=array(stack([layer.x_part for layer in layers])),
        weights=array(stack(padded_weights(controller)).mT.contiguous()),
        hidden0=array(
            features.new_empty(len(layers), rows.batch_size, H)
            if hidden0 is None
            else stack(hidden0)
        ),
        inputs=array(controller.buffers.inputs),
        active=array(controller.buffers.active),
        cells=array(controller.buffers.cells),
        squashed=array(controller.buffers.squashed),
        features=array(features),
        interface=array(weight.t().contiguous()),
        bias=array(bias.contiguous()),
        vectors=array(memory.vectors),
        reads=array(memory.reads),
        reads0=array(reads0.contiguous()),
        usage=array(states["usage"]),
        precedence=array(states["precedence"]),
        write=array(states["write_weights"]),
        read=array(states["read_weights"]),
        **addresses(matrices[:-1], matrices[1:], array),
        anew=array(integers([0] * rows.steps)),
    )


def with_segments(steps: Steps, playback: MemoryPlayback) -> Steps:
    """The arrays of the backward pass: the matrices lie where the segments are made anew."""
    before, after, anew = [], [], []
    count, interval = playback.tape.rows.steps, playback.tape.interval
    for first in range(0, count, interval):
        last = min(first + interval, count) - 1
        matrices = playback.segment(last)
        before += matrices[:-1]
        after += matrices[1:]
        anew += [0 if playback.kept(t) else 1 + (t < last) for t in range(first, last + 1)]
    array = playback.tape.primitives.array
    return steps._replace(**addresses(before, after, array), anew=array(integers(anew)))


def all_adjoints(
    controller: LayeredTape,
    playback: MemoryPlayback,
    weight: Tensor,
    d_hidden: Tensor,
    d_first_reads: Tensor,
) -> AdjointSteps:
    """The arrays of gradients of the backward pass.

    Args:
        controller, playback: begun.
        weight: of the interface layer.
        d_hidden: (outputs, L H), added to.
        d_first_reads: (B, R, W), of zeros; added to.
    """
    array, clip = playback.tape.primitives.array, controller.activation_clip
    memory, usage, precedence, link, write, read = map(array, playback.gradient)
    d_vectors = array(playback.d_vectors)
    return AdjointSteps(
        clip=math.inf if clip is None else float(clip),
        weights=array(stack(padded_weights(controller))),
        interface=array(weight.contiguous()),
        hidden=array(d_hidden),
        active=array(controller.d_active),
        last=array(controller.d_last),
        cells=array(controller.d_cells),
        seen=array(d_hidden.new_empty(len(d_first_reads), controller.buffers.inputs.shape[-1])),
        vectors=d_vectors,
        reads=array(playback.d_reads),
        reads0=array(d_first_reads),
        state=Adjoint(d_vectors, memory, usage, precedence, link, write, read),
    )


def addresses(
    before: list[tuple[Tensor, Tensor]],
    after: list[tuple[Tensor, Tensor]],
    array: Callable[[Tensor], Any],
) -> dict[str, Any]:
    """The fields of `Steps` that tell where the matrices (memory, link) around each step are."""
    return {
        "memory0": array(integers(memory.data_ptr() for memory, _ in before)),
        "memory1": array(integers(memory.data_ptr() for memory, _ in after)),
        "link0": array(integers(link.data_ptr() for _, link in before)),
        "link1": array(integers(link.data_ptr() for _, link in after)),
    }


def integers(values: Iterable[int]) -> Tensor:
    """A tensor of them, whatever torch's default device is."""
    return torch.tensor(list(values), device="cpu")


def stack(parts: list[Tensor]) -> Tensor:
    """One tensor with a leading L, contiguous; of a single part without copying, where it is."""
    return parts[0].contiguous().unsqueeze(0) if len(parts) == 1 else torch.stack(parts)


def padded_weights(controller: LayeredTape) -> list[Tensor]:
    """Each layer's weights (G H, S); of the lowest of many, zeros for what it does not see."""
    seen = controller.buffers.inputs.shape[-1]
    return [
        torch.nn.functional.pad(layer.weight, (0, seen - layer.weight.shape[1]))
        if layer.weight.shape[1] < seen
        else layer.weight
        for layer in controller.layers
    ]
