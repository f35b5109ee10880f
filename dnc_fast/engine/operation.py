"""Whole sequences as one operation, for graphs that cannot look into the engine; see `opaque`."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..backends.autograd import memory_state
from ..backends.operation import shapes_after
from ..config import DNCConfig
from ..controllers import CONTROLLERS, LayeredController
from ..linkages import LINKAGES
from ..opaque import as_one_operation
from ..precision import Precision
from ..state import DNCState, map_tensors, tensors
from .from_inputs import layer_parameters
from .plan import Plan, Start
from .run import run_sequences

NEEDED = (
    *("hidden_size", "num_layers", "bias", "controller", "linkage"),
    *("checkpoint_interval", "checkpoint_dtype", "cuda_graphs"),
)
"""The options of a model that a run depends on, besides those of its steps."""


def sequences_operation(
    controller: LayeredController,
    interface: nn.Linear,
    x: Tensor,
    state: DNCState,
    config: DNCConfig,
    backend: str,
    half: torch.dtype | None,
) -> tuple[Tensor, DNCState]:
    """`run_sequences` with sequences of one length.

    Args:
        controller, interface: the cell's parts; the controller has a tape and does not drop out.
        x: (T B, X), one step after another.
        state: before the first step, complete.
        config: of the model.
        backend: by name.
        half: see `Precision`.

    Returns:
        features (T B, L H + R W), and the state after the last step.
    """
    parts = [*tensors(state.controller)], [*tensors(state.memory)]
    text = config.text(
        **{name: getattr(config, name) for name in NEEDED},
        activation_clip=controller.activation_clip,
        backend=backend,
        half=half,
        state=[len(part) for part in parts],
    )
    layers = [*layer_parameters(controller), interface.weight]
    layers += [] if interface.bias is None else [interface.bias]
    features, *final = _sequences([x, *parts[0], *parts[1], state.read_vectors, *layers], text)
    found = iter(final)
    return features, map_tensors(lambda _: next(found), state)


class _Given(NamedTuple):
    """What the operation is given.

    | field      | what                                                   |
    |------------|--------------------------------------------------------|
    | x          | (T B, X), one step after another                       |
    | controller | tensors of the controller's state                      |
    | memory     | a `MemoryState`                                        |
    | reads      | (B, R, W), read vectors                                |
    | layers     | parameters of the controller and of the interface      |
    """

    x: Tensor
    controller: list[Tensor]
    memory: Any
    reads: Tensor
    layers: list[Tensor]


def _read(given: list[Tensor], text: str) -> tuple[_Given, DNCConfig, torch.dtype | None, str]:
    """What is given; the configuration, the half precision and the backend that a text names."""
    read = json.loads(text)
    end = 1 + read["state"][0]
    last = end + read["state"][1]
    memory = memory_state(LINKAGES[read["linkage"]].link_type, given[end:last])
    parts = _Given(given[0], given[1:end], memory, given[last], given[last + 1 :])
    for name in ("checkpoint_dtype", "half"):
        if read[name] is not None:
            read[name] = getattr(torch, read[name].removeprefix("torch."))
    return (
        parts,
        DNCConfig.of({**read, "input_size": given[0].shape[-1]}),
        read["half"],
        read["backend"],
    )


def _run(given: list[Tensor], text: str) -> list[Tensor]:
    parts, config, half, backend = _read(given, text)
    x, layers = parts.x, iter(parts.layers)
    B, R, W = parts.reads.shape
    controller = CONTROLLERS[config.controller](
        x.shape[1] + R * W,
        config.hidden_size,
        config.num_layers,
        config.bias,
        activation_clip=config.activation_clip,
        device="meta",
    )
    for layer in controller.layers:
        for name, parameter in layer._parameters.items():
            layer._parameters[name] = None if parameter is None else next(layers)
    weight, *bias = layers
    interface: Any = SimpleNamespace(weight=weight, bias=bias[0] if bias else None)
    own = iter(parts.controller)
    own_state = map_tensors(lambda _: next(own), controller.zero_state(1))
    state = DNCState(own_state, parts.memory, parts.reads)
    linkage = LINKAGES[config.linkage]
    start = Start(state, parts.memory.sizes, linkage.is_matrix, lambda: state)
    precision = Precision(parts.memory.memory.dtype, half)
    autocast = half is not None and weight.dtype != half
    with torch.autocast(x.device.type, half, enabled=autocast):
        features, final = run_sequences(
            controller,
            interface,
            x,
            [B] * (x.shape[0] // B),
            start,
            Plan.of(config, backend, precision),
        )
    return [features, *tensors(final)]


def _fake(given: list[Tensor], text: str) -> list[Tensor]:
    parts, config, half, _ = _read(given, text)
    rows, (B, R, W) = parts.x.shape[0], parts.reads.shape
    size = config.num_layers * config.hidden_size + R * W
    features = parts.x.new_empty(rows, size, dtype=half or parts.reads.dtype)
    own = [torch.empty_like(one) for one in (*parts.controller, parts.reads)]
    return [features, *own[:-1], *shapes_after(parts.memory, rows // B), own[-1]]


_sequences = as_one_operation("sequences", _run, _fake)
