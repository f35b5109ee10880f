"""States in the form of pytorch-dnc, (controller_hidden, memory, read_vectors), and back.

B batch, H hidden size, N cells, W cell size, R read heads, K entries in a row of a sparse link
matrix. A memory is a dict of tensors:

| key                         | shape                                                       |
|-----------------------------|-------------------------------------------------------------|
| memory                      | (B, N, W)                                                   |
| usage_vector; not DNC: usage| (B, N)                                                      |
| precedence                  | (B, 1, N)                                                   |
| link_matrix                 | DNC: (B, 1, N, N); SDNC: (B, 1, N, K), the entries kept     |
| link_positions              | SDNC: (B, 1, N, K) int32, their columns; -1 in empty places |
| write_weights               | (B, 1, N)                                                   |
| read_weights                | (B, R, N)                                                   |
| read_vectors                | (B, R, W), what was read from it last                       |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..linkages import SparseLink
from ..state import DNCState, MemoryState
from .arguments import DNCArguments


def write_states(states: list[DNCState], memory_list: bool) -> tuple[Any, Any, Tensor]:
    """The states of all stages in the form of pytorch-dnc.

    Args:
        states: of each `Stage`.
        memory_list: whether a single memory, too, is a list of one dict.
    """
    controllers = [_write_controller(one) for state in states for one in state.controller]
    memories = [memory_dict(state.memory, state.read_vectors) for state in states]
    read_vectors: Any = states[-1].read_vectors
    return controllers, memories if memory_list else memories[0], read_vectors.flatten(1)


def read_states(hx: Any, arguments: DNCArguments, batch_size: int) -> list[DNCState | None]:
    """The state of each stage, from what `write_states` returned; None for zeros.

    Args:
        hx: None, or None in a place of it, for zeros.
        arguments: of the model.
        batch_size: B.

    Raises:
        TypeError, ValueError: it does not have the form, or a part not the shape, of the model's.
    """
    layers = arguments.num_layers
    stages = 1 if arguments.one_memory else layers
    if hx is None:
        hx = (None, None, None)
    if not isinstance(hx, (tuple, list)) or len(hx) != 3:
        raise TypeError(
            "hx must be (controller_hidden, memory, read_vectors) as an earlier call returned, "
            f"or None, got {_kind(hx)}"
        )
    if all(part is None for part in hx):
        return [None] * stages
    hidden, memory, last_read = hx
    hidden = _list_of("controller_hidden", hidden, layers)
    shape = (arguments.num_hidden_layers, batch_size, arguments.hidden_size)
    lstm = arguments.rnn_type.lower() == "lstm"
    controllers = [_read_controller(one, lstm, shape) for one in hidden]
    dicts = _list_of("memory", [memory] if isinstance(memory, dict) else memory, stages)
    memories = [None if one is None else _read_memory(one) for one in dicts]
    read_vectors: list[Any] = [None] * stages
    if last_read is not None:
        R, W = arguments.read_heads, arguments.cell_size
        if _shape(last_read) != (batch_size, R * W):
            raise ValueError(
                f"read_vectors must have shape {(batch_size, R * W)}, (B, read_heads * cell_size), "
                f"got {_shape(last_read) or _kind(last_read)}"
            )
        below = [None if one is None else one.get("read_vectors") for one in dicts[:-1]]
        read_vectors = [*below, last_read.unflatten(1, (R, W))]
    if stages == 1:
        return [DNCState(tuple(controllers), memories[0], read_vectors[0])]
    parts = zip(controllers, memories, read_vectors, strict=True)
    return [DNCState((one,), *others) for one, *others in parts]


def _list_of(name: str, parts: Any, count: int) -> list[Any]:
    """A part of hx as a list with one for each layer or memory; None for zeros in all."""
    if parts is None:
        return [None] * count
    if not isinstance(parts, (list, tuple)) or len(parts) != count:
        kind = _kind(parts)
        got = f"a {kind} of {len(parts)}" if isinstance(parts, (list, tuple)) else f"a {kind}"
        raise TypeError(f"{name} must be a list of {count}, as an earlier call returned, got {got}")
    return list(parts)


def memory_dict(memory: Any, read_vectors: Any) -> dict[str, Tensor]:
    """A memory, and what was read from it last, as a dict."""
    parts = memory._asdict()
    link = parts.pop("link")
    if isinstance(link, Tensor):
        parts |= {"usage_vector": parts.pop("usage"), "link_matrix": link}
    elif link is not None:
        parts |= {"link_matrix": link.values, "link_positions": link.columns}
    return parts | {"read_vectors": read_vectors}


def _read_memory(parts: Any) -> MemoryState:
    """The memory that a dict holds; its shapes are checked by the model."""
    if not isinstance(parts, dict):
        raise TypeError(f"memory must hold dicts, as an earlier call returned, got {_kind(parts)}")
    names = {name: name for name in MemoryState._fields if name != "link"}
    if "usage_vector" in parts:
        names["usage"] = "usage_vector"
    missing = [key for key in names.values() if key not in parts]
    if missing:
        raise ValueError(
            f"memory must have the keys that an earlier call returned, but lacks {missing}; "
            "None starts with an empty memory"
        )
    link: Any = parts.get("link_matrix")
    if "link_positions" in parts:
        link = SparseLink(link, parts["link_positions"])
    return MemoryState(link=link, **{name: parts[key] for name, key in names.items()})


def _write_controller(state: Any) -> Any:
    """A controller's state: h (num_hidden_layers, B, H), for an LSTM a pair (h, c) of them."""
    if isinstance(state[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*state, strict=True))
    return torch.stack(state)


def _read_controller(hidden: Any, lstm: bool, shape: tuple[int, int, int]) -> Any:
    """The controller's state that `_write_controller` returned, each part of `shape`."""
    if hidden is None:
        return None
    parts = list(hidden) if lstm and isinstance(hidden, (list, tuple)) else [hidden]
    if len(parts) != 1 + lstm or any(_shape(part) != shape for part in parts):
        expected = f"(h, c), each of shape {shape}" if lstm else f"h of shape {shape}"
        got = ", ".join(str(_shape(part) or _kind(part)) for part in parts)
        raise ValueError(
            f"controller_hidden must hold {expected}, (num_hidden_layers, B, hidden_size), for "
            f"each layer, got {got}"
        )
    layers = [part.unbind() for part in parts]
    return tuple(zip(*layers, strict=True)) if lstm else layers[0]


def _shape(part: Any) -> tuple[int, ...] | None:
    return tuple(part.shape) if isinstance(part, Tensor) else None


def _kind(value: Any) -> str:
    return type(value).__name__
