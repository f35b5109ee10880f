"""Whole sequences as one operation, for graphs that cannot look into the engine; see `opaque`."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends.autograd import memory_state
from ..backends.operation import shapes_after
from ..config import DNCConfig
from ..controllers import CONTROLLERS, LayeredController
from ..linkages import LINKAGES
from ..opaque import as_one_operation
from ..precision import Precision
from ..state import DNCState, MemoryState, map_tensors, tensors
from .from_inputs import layer_parameters
from .interface_layer import InterfaceForm, InterfaceTensors
from .plan import Plan, Start
from .run import run_sequences

NEEDED = (
    *("input_size", "hidden_size", "num_layers", "bias", "controller", "linkage"),
    *("checkpoint_interval", "checkpoint_dtype", "cuda_graphs"),
)
"""The options of a model that a run depends on, besides those of its steps."""


def sequences_operation(
    controller: LayeredController,
    interface: InterfaceTensors,
    x: Tensor,
    state: DNCState,
    config: DNCConfig,
    backend: str,
    half: torch.dtype | None,
) -> tuple[Tensor, DNCState]:
    """`run_sequences` with sequences of one length.

    Args:
        controller: the cell's; it has a tape and drops nothing out.
        interface: of the cell's interface layer, without `ahead`.
        x: (T B, X), one step after another.
        state: complete, before the first step.
        config: of the model.
        backend: by its name.
        half: see `Precision`.

    Returns:
        features (T B, L H + R W), and the state after the last step.
    """
    own, memory = [*tensors(state.controller)], [*tensors(state.memory)]
    text = config.text(
        **{name: getattr(config, name) for name in NEEDED},
        activation_clip=controller.activation_clip,
        value_clip=controller.value_clip,
        backend=backend,
        half=half,
        counts=(len(own), len(memory)),
        form=[*interface.form()],
    )
    layers = [*layer_parameters(controller), *interface.given()]
    given: list[Any] = [x, *own, *memory, state.read_vectors, *layers]
    features, *final = _sequences(given, text)
    found = iter(final)
    return features, map_tensors(lambda _: next(found), state)


class _Text(NamedTuple):
    """What the text of the operation says.

    | field   | what                                                               |
    |---------|--------------------------------------------------------------------|
    | config  | the options in `NEEDED`, and those of the steps                    |
    | backend | its name                                                           |
    | half    | see `Precision`                                                    |
    | counts  | of tensors in the controller's state, and in the memory            |
    | form    | of the interface layer                                             |
    """

    config: DNCConfig
    backend: str
    half: torch.dtype | None
    counts: tuple[int, int]
    form: InterfaceForm


@cache
def _read(text: str) -> _Text:
    read = json.loads(text)
    for name in ("checkpoint_dtype", "half"):
        if read[name] is not None:
            read[name] = getattr(torch, read[name].removeprefix("torch."))
    form = InterfaceForm(*read["form"])
    return _Text(DNCConfig.of(read), read["backend"], read["half"], read["counts"], form)


class _Given(NamedTuple):
    """The tensors that the operation is given, sorted."""

    x: Tensor
    controller_state: list[Tensor]
    memory: MemoryState
    read_vectors: Tensor
    layers: list[Tensor]


def _sorted(given: list[Tensor], text: _Text) -> _Given:
    first, second = text.counts
    memory, rest = given[1 + first :], given[1 + first + second :]
    state = memory_state(LINKAGES[text.config.linkage].link_type, memory[:second])
    return _Given(given[0], given[1 : 1 + first], state, rest[0], rest[1:])


def _controller(config: DNCConfig, read_size: int, parameters: Any) -> Any:
    """A controller with the given parameters, the first of an iterator."""
    kind: Any = CONTROLLERS[str(config.controller)]
    sizes = config.input_size + read_size, config.hidden_size, config.num_layers
    clips = {"activation_clip": config.activation_clip, "value_clip": config.value_clip}
    controller = kind(*sizes, config.bias, **clips, device="meta")
    for layer in controller.layers:
        own = layer._parameters
        own.update({name: next(parameters) for name, part in own.items() if part is not None})
    return controller


def _run(given: list[Tensor], text: str) -> list[Tensor]:
    read = _read(text)
    x, own, memory, read_vectors, layers = _sorted(given, read)
    B = read_vectors.shape[0]
    if not B:
        raise ValueError("a DNC in a graph needs at least one sequence, got B=0")
    parameters, parts = iter(layers), iter(own)
    controller = _controller(read.config, read_vectors[0].numel(), parameters)
    interface = InterfaceTensors.parse(read.form, [*parameters])
    own_state = map_tensors(lambda _: next(parts), controller.zero_state(1))
    state = DNCState(own_state, memory, read_vectors)
    start = Start(state, memory.sizes, LINKAGES[read.config.linkage].is_matrix, lambda: state)
    plan = Plan.of(read.config, read.backend, Precision(read_vectors.dtype, read.half))
    autocast = read.half is not None and interface.weight.dtype != read.half
    with torch.autocast(x.device.type, read.half, enabled=autocast):
        batch_sizes = [B] * (x.shape[0] // B)
        features, final = run_sequences(controller, interface, x, batch_sizes, start, plan)
    return [features, *tensors(final)]


def _fake(given: list[Tensor], text: str) -> list[Tensor]:
    read = _read(text)
    x, own, memory, read_vectors, _ = _sorted(given, read)
    B, R, W = read_vectors.shape
    size = read.config.num_layers * read.config.hidden_size + R * W
    features = x.new_empty(x.shape[0], size, dtype=read.half or read_vectors.dtype)
    *after, reads = map(torch.empty_like, (*own, read_vectors))
    return [features, *after, *shapes_after(memory, x.shape[0] // B), reads]


_sequences = as_one_operation("sequences", _run, _fake)
