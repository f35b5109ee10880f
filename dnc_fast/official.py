"""Weights of the official code (google-deepmind/dnc, TensorFlow 1, Sonnet 1), in both directions.

Its variables are NumPy arrays by name, as a TensorFlow checkpoint holds them. What differs:

- Weights are (inputs, outputs); each part of the interface has a layer of its own.
- The LSTM's gates are in the order input, cell, forget, output, and a constant is added to the
  forget gate. Here the constant is in `bias_hh`, so that nothing is rounded.
- Read modes are backward[Hw], forward[Hw], content.
- What no weights can express are options of `DNC`: `strengths`, `usage_gradient`, `value_clip`.

docs/official_weights.md lists every variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .config import DNCConfig
from .dnc import DNC
from .interface import interface_shapes

__all__ = ["from_official", "to_official"]

LAYERS = {
    "read_keys": "memory_access/read_keys",
    "read_strengths": "memory_access/read_strengths",
    "write_keys": "memory_access/write_keys",
    "write_strengths": "memory_access/write_strengths",
    "erase_vectors": "memory_access/erase_vectors",
    "write_vectors": "memory_access/write_vectors",
    "free_gates": "memory_access/free_gate",
    "allocation_gates": "memory_access/allocation_gate",
    "write_gates": "memory_access/write_gate",
    "read_modes": "memory_access/read_mode",
}
"""The official layer of each part of our interface, in our order."""

ROOMS = ("lstm/", "memory_access/", "output_linear/")
"""Where its variables are."""

GATES = [0, 2, 1, 3]
"""Input, forget, cell, output among input, cell, forget, output; and the other way round."""

SAME: dict[str, Any] = {
    "controller": "lstm",
    "num_layers": 1,
    "bias": True,
    "bidirectional": False,
    "bidirectional_controller": False,
    "interface_norm": False,
    "bypass_dropout": 0.0,
    "linkage": "dense",
    "usage_order": "exact",
    "read_topk": None,
    "write_topk": None,
    "similarity": "cosine",
    "allocation": "sorted",
    "masked_lookup": False,
    "deallocate": False,
    "link_sharpness": False,
    "strengths": "softplus",
}
"""Options with which a DNC computes what the official code computes."""


def from_official(
    variables: Mapping[str, Any],
    *,
    num_cells: int,
    forget_bias: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> DNC:
    """A DNC with the weights of the official code, which computes the same.

    Args:
        variables: arrays by name, such as "dnc/lstm/w_gates". Any scope may come before "lstm" and
            "memory_access"; what is outside it, such as "global_step", and what belongs to an
            optimizer is ignored.
        num_cells: N, its `memory_size`, which no variable depends on.
        forget_bias: its LSTM's.
        device, dtype: of the parameters; a dtype of None is that of the variables.
        options: others of `DNC`, such as value_clip, its `clip_value` (20 in its train.py).
            Gradients stop at the last write weightings inside the usage, as in the official code,
            unless usage_gradient is True.

    Raises:
        ValueError: a variable is missing, unknown, or of the wrong shape.
        TypeError, ValueError: an option is invalid, or given by the variables.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"variables must be a mapping from names to arrays, got {type(variables).__name__}; "
            "numpy.load opens an .npz file as one"
        )
    scope, found = _in_scope(variables)
    sizes = _sizes(scope, found)
    fixed = options.keys() & (sizes.keys() | {"controller", "num_layers", "bias", "bidirectional"})
    if fixed:
        raise TypeError(f"{sorted(fixed)} must not be given: the variables determine them")
    options = SAME | {"usage_gradient": False, "num_cells": num_cells} | sizes | options
    if dtype is None:
        dtype = torch.from_numpy(found["lstm/w_gates"]).dtype
    model = DNC(**options, device=device, dtype=dtype)
    _check(scope, found, model.config)
    state = _to_ours(found, model.config, forget_bias)
    model.load_state_dict({name: torch.from_numpy(part) for name, part in state.items()})
    return model


def to_official(
    model: DNC, *, scope: str = "dnc", forget_bias: float = 1.0
) -> dict[str, np.ndarray]:
    """The weights of a DNC as variables of the official code, which then computes the same.

    Its `memory_size` is `num_cells`, and its `clip_value` is `value_clip`.

    Args:
        model: one that the official code can express, see Raises.
        scope: the name of its DNC module.
        forget_bias: its LSTM's.

    Raises:
        ValueError: an option has a value that the official code does not have.
    """
    for name, value in SAME.items():
        own = getattr(model.config, name)
        if own != value:
            raise ValueError(
                f"{name} must be {value!r} for the official code, which has no other, got {own!r}; "
                f"train a model with {name}={value!r}"
            )
    ours = {name: _array(part) for name, part in model.cell.state_dict().items()}
    found = _to_theirs(ours, model.config, forget_bias)
    return {f"{scope}/{name}": np.array(part, order="C") for name, part in found.items()}


def _array(tensor: Tensor) -> np.ndarray:
    wide = torch.promote_types(tensor.dtype, torch.float32)  # NumPy has no bfloat16
    return tensor.detach().to("cpu", wide).numpy()


def _in_scope(variables: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """The scope of the DNC, and the variables in it by the rest of their names."""
    named = {name.removesuffix(":0"): value for name, value in variables.items()}
    scopes = [name.removesuffix("lstm/w_gates") for name in named if name.endswith("lstm/w_gates")]
    if len(scopes) != 1:
        raise ValueError(
            "variables must hold those of one official DNC, whose LSTM has SCOPE/lstm/w_gates; got "
            f"{len(scopes)} such names among {sorted(named)}"
        )
    scope = scopes[0]
    found = {
        name.removeprefix(scope): np.array(value)  # a copy, which torch may share
        for name, value in named.items()
        if name.startswith(scope)
    }
    return scope, found


def _sizes(scope: str, found: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The sizes of a DNC that follow from its variables."""

    def columns(name: str) -> int:
        if name not in found or found[name].ndim != 2:
            raise ValueError(f"variables must hold a matrix {scope}{name}")
        return found[name].shape[1]

    gates, H = found["lstm/w_gates"], columns("lstm/w_gates") // 4
    R, Hw = columns("memory_access/free_gate/w"), columns("memory_access/write_gate/w")
    W = columns("memory_access/write_vectors/w") // Hw
    return {
        "input_size": gates.shape[0] - H - R * W,
        "hidden_size": H,
        "output_size": columns("output_linear/w"),
        "cell_size": W,
        "num_read_heads": R,
        "num_write_heads": Hw,
    }


def official_shapes(config: DNCConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each official variable of a DNC, by its name without the scope."""
    H, heads = config.hidden_size, (config.num_read_heads, config.num_write_heads)
    inputs = config.input_size + config.read_size + H
    layers = {
        LAYERS[name]: (H, int(np.prod(shape)))
        for name, shape in interface_shapes(config.cell_size, *heads).items()
    }
    layers["output_linear"] = (H + config.read_size, config.output_size or H)
    shapes: dict[str, tuple[int, ...]] = {
        "lstm/w_gates": (inputs, 4 * H),
        "lstm/b_gates": (4 * H,),
    }
    for name, (rows, columns) in layers.items():
        shapes |= {f"{name}/w": (rows, columns), f"{name}/b": (columns,)}
    return shapes


def _check(scope: str, found: dict[str, np.ndarray], config: DNCConfig) -> None:
    """Raise unless these are the variables of such a DNC; optimizers may add to each."""
    shapes = official_shapes(config)
    wrong = [f"{scope}{name} is missing" for name in shapes.keys() - found.keys()]
    for name, value in found.items():
        if name in shapes:
            if value.shape != shapes[name] or value.dtype.kind != "f":
                expected = f"must have shape {shapes[name]} and a float dtype"
                wrong.append(f"{scope}{name} {expected}, got {value.shape} and {value.dtype}")
        elif name.startswith(ROOMS) and not name.startswith(tuple(f"{one}/" for one in shapes)):
            wrong.append(f"{scope}{name} is unknown: is it of another kind of LSTM?")
    if wrong:
        raise ValueError(f"variables must be those of an official DNC: {'; '.join(sorted(wrong))}")


def _forget(config: DNCConfig, value: float, like: np.ndarray) -> np.ndarray:
    """(4 H): a value for the forget gate, zeros for the others, in our order."""
    return np.repeat(np.array([0, value, 0, 0], like.dtype), config.hidden_size)


def _modes(config: DNCConfig) -> np.ndarray:
    """(R (1 + 2 Hw)): where each of our read modes is among the official ones."""
    R, Hw = config.num_read_heads, config.num_write_heads
    modes = np.r_[:Hw, 2 * Hw, Hw : 2 * Hw]
    return (np.arange(R)[:, None] * (1 + 2 * Hw) + modes).ravel()


def _to_ours(
    found: Mapping[str, np.ndarray], config: DNCConfig, forget_bias: float
) -> dict[str, np.ndarray]:
    """Our state dict from official variables."""
    H = config.hidden_size
    lstm = np.concatenate([found["lstm/w_gates"], found["lstm/b_gates"][None]])
    lstm = lstm.reshape(-1, 4, H)[:, GATES].reshape(-1, 4 * H)
    layers = {
        name: np.concatenate([found[f"{layer}/w"], found[f"{layer}/b"][None]])
        for name, layer in LAYERS.items()
    }
    layers["read_modes"] = layers["read_modes"][:, _modes(config)]
    told = np.concatenate(list(layers.values()), axis=1)
    layer = "cell.controller.layers.0"
    return {
        f"{layer}.weight_ih": lstm[: -1 - H].T,
        f"{layer}.weight_hh": lstm[-1 - H : -1].T,
        f"{layer}.bias_ih": lstm[-1],
        f"{layer}.bias_hh": _forget(config, forget_bias, lstm),
        "cell.interface.weight": told[:-1].T,
        "cell.interface.bias": told[-1],
        "cell.output.weight": found["output_linear/w"].T,
        "cell.output.bias": found["output_linear/b"],
    }


def _to_theirs(
    ours: Mapping[str, np.ndarray], config: DNCConfig, forget_bias: float
) -> dict[str, np.ndarray]:
    """Official variables from the state dict of our cell."""
    H, layer = config.hidden_size, "controller.layers.0"
    added = ours[f"{layer}.bias_hh"] - _forget(config, forget_bias, ours[f"{layer}.bias_hh"])
    bias = ours[f"{layer}.bias_ih"] + added
    weights = [ours[f"{layer}.weight_ih"].T, ours[f"{layer}.weight_hh"].T]
    lstm = np.concatenate([*weights, bias[None]])
    lstm = lstm.reshape(-1, 4, H)[:, GATES].reshape(-1, 4 * H)
    told = np.concatenate([ours["interface.weight"].T, ours["interface.bias"][None]])
    heads = config.num_read_heads, config.num_write_heads
    lengths = [int(np.prod(shape)) for shape in interface_shapes(config.cell_size, *heads).values()]
    parts = dict(zip(LAYERS, np.split(told, np.cumsum(lengths)[:-1], axis=1), strict=True))
    parts["read_modes"] = parts["read_modes"][:, np.argsort(_modes(config))]
    found = {"lstm/w_gates": lstm[:-1], "lstm/b_gates": lstm[-1]}
    for name, layer in LAYERS.items():
        found |= {f"{layer}/w": parts[name][:-1], f"{layer}/b": parts[name][-1]}
    found |= {"output_linear/w": ours["output.weight"].T, "output_linear/b": ours["output.bias"]}
    return found
