"""What a DNC carries from one time step to the next.

Letters: B batch, N memory cells, W cell size, R read heads, Hw write heads, H hidden size.
Every tensor of a state has the batch as its first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.serialization import add_safe_globals
from torch.utils._pytree import _register_namedtuple

from .checks import check_choice, check_integer
from .linkages import LINKAGES, LinkSizes, SeparableLink, SparseLink, linkage_of


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply `function` to each tensor in nested tuples, lists and dicts; None stays None."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [map_tensors(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    raise TypeError(
        f"a state holds tensors in tuples, lists or dicts (or None), got {type(tree).__name__}"
    )


def _to(args: tuple[Any, ...], kwargs: dict[str, Any], tensor: Tensor) -> Tensor:
    moved = tensor.to(*args, **kwargs)
    if moved.is_floating_point() == tensor.is_floating_point():
        return moved
    return tensor.to(moved.device)


def reset_rows(mask: Any, empty_cell: int, tree: Any) -> Any:
    """A tree of tensors (B, ...) with empty rows where a mask is True.

    Raises:
        ValueError: `mask` is not a bool tensor (B,).
    """

    def reset(tensor: Tensor) -> Tensor:
        empty = 0 if tensor.is_floating_point() else empty_cell
        return tensor.masked_fill(mask.view(-1, *[1] * (tensor.dim() - 1)), empty)

    rows = next(tensors(tree)).shape[0]
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (rows,):
        kind = type(mask).__name__
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else kind
        raise ValueError(
            f"mask must be a bool tensor of shape ({rows},), True for each sequence to reset, "
            f"got {got}"
        )
    return map_tensors(reset, tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield each tensor of a nested structure, in the order of `map_tensors`."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from tensors(part)
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from tensors(part)


def join_batches(states: list[Any]) -> Any:
    """Join states of the same structure along the batch axis: the inverse of `slice_batch`.

    Links whose other sizes differ, such as the number of writes they hold, are padded first.
    """
    memories: list[Any] = [getattr(state, "memory", None) for state in states]
    if all(memories):
        links = [memory.link for memory in memories]
        joined = zip(states, memories, linkage_of(links[0]).join(links), strict=True)
        states = [
            state._replace(memory=memory._replace(link=link)) for state, memory, link in joined
        ]
    rest = [tensors(state) for state in states[1:]]
    return map_tensors(lambda first: torch.cat([first, *map(next, rest)]), states[0])


class MemorySizes(NamedTuple):
    """The sizes that a `MemoryState` implies: B, N, W, R, Hw."""

    batch_size: int
    num_cells: int
    cell_size: int
    num_read_heads: int
    num_write_heads: int


class MemoryState(NamedTuple):
    """The external memory after a step (Graves et al. 2016, Methods).

    | field         | shape        | range  | meaning                                          |
    |---------------|--------------|--------|--------------------------------------------------|
    | memory        | (B, N, W)    | real   | the cells, M_t                                   |
    | usage         | (B, N)       | [0, 1] | how much each cell is in use, u_t                |
    | precedence    | (B, Hw, N)   | [0, 1] | how far each cell was the last one written, p_t  |
    | link          | (B, Hw, N, N)| [0, 1] | L_t[i, j]: i was written right after j; with     |
    |               |              |        | other linkages another structure or None, see    |
    |               |              |        | `LINKAGES`                                       |
    | write_weights | (B, Hw, N)   | [0, 1] | the step's write weightings, each sum at most 1  |
    | read_weights  | (B, R, N)    | [0, 1] | the step's read weightings, each sum at most 1   |
    """

    memory: Tensor
    usage: Tensor
    precedence: Tensor
    link: Any
    write_weights: Tensor
    read_weights: Tensor

    @classmethod
    def zeros(
        cls,
        batch_size: int,
        num_cells: int,
        cell_size: int,
        num_read_heads: int = 1,
        num_write_heads: int = 1,
        *,
        linkage: str = "dense",
        link_fan_out: int = 8,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """The state before the first step: an empty, unused memory.

        Args:
            batch_size, num_cells, cell_size, num_read_heads, num_write_heads: B, N, W, R, Hw.
            linkage: one of `LINKAGES`.
            link_fan_out: K, entries in each row of a sparse link matrix.
            dtype, device: of all tensors.

        Raises:
            TypeError, ValueError: a size is not an integer of at least 1 (the batch: 0), or the
                linkage is unknown.
        """
        sizes = MemorySizes(batch_size, num_cells, cell_size, num_read_heads, num_write_heads)
        for name, size in zip(MemorySizes._fields, sizes, strict=True):
            check_integer(name, size, minimum=0 if name == "batch_size" else 1)
        check_choice("linkage", linkage, LINKAGES)
        check_integer("link_fan_out", link_fan_out, minimum=1)
        link_sizes = LinkSizes(batch_size, num_write_heads, num_cells, link_fan_out)
        link = LINKAGES[linkage].empty(link_sizes, dtype, device)
        fields: dict[str, Any] = {
            field: torch.zeros(shape, dtype=dtype, device=device)
            for field, shape in memory_state_shapes(sizes).items()
        }
        return cls(**fields, link=link)

    @property
    def sizes(self) -> MemorySizes:
        """B, N, W, R, Hw, as in the memory and the weightings."""
        return sizes_of(self)

    def detach(self) -> MemoryState:
        """The same values, detached from the graph (for truncated backpropagation)."""
        return map_tensors(Tensor.detach, self)

    def to(self, *args: Any, **kwargs: Any) -> MemoryState:
        """Every tensor moved or cast as by `Tensor.to`; integers stay integers."""
        return map_tensors(partial(_to, args, kwargs), self)

    def slice_batch(self, rows: slice | Tensor) -> MemoryState:
        """The batch elements that a slice or an index tensor selects."""
        return map_tensors(lambda tensor: tensor[rows], self)

    def reset_rows(self, mask: Tensor) -> MemoryState:
        """An empty memory where `mask` (B,), bool, is True; see `DNCState.reset_rows`."""
        return reset_rows(mask, -1, self)  # -1: no cell

    def __repr__(self) -> str:
        return _described("MemoryState", self, _memory_lines(self))


def sizes_of(state: MemoryState) -> MemorySizes:
    """`MemoryState.sizes`, for torch.compile, which may know no properties of tuples."""
    B, N, W = state.memory.shape
    return MemorySizes(B, N, W, state.read_weights.shape[1], state.write_weights.shape[1])


def memory_state_shapes(sizes: MemorySizes) -> dict[str, tuple[int, ...]]:
    """The shape of each field of a `MemoryState` of these sizes, except the link."""
    B, N, W, R, Hw = sizes
    return {
        "memory": (B, N, W),
        "usage": (B, N),
        "precedence": (B, Hw, N),
        "write_weights": (B, Hw, N),
        "read_weights": (B, R, N),
    }


def check_memory_state(state: MemoryState) -> MemorySizes:
    """Check that the fields of a state match each other, and return their sizes.

    Raises:
        TypeError: `state` is not a `MemoryState`, or a field is not a floating-point tensor.
        ValueError: a field's shape, dtype or device does not match the memory's.
    """
    if not isinstance(state, MemoryState):
        raise TypeError(
            f"state must be a MemoryState, got {type(state).__name__}; "
            "MemoryState.zeros(batch_size, num_cells, cell_size, ...) makes an empty one"
        )
    parts = dict(zip(MemoryState._fields, state, strict=True))
    linkage = linkage_of(parts.pop("link"))
    parts = {**parts, **linkage.tensors(state.link)}
    for name, tensor in parts.items():
        integer = name in linkage.integers
        if not isinstance(tensor, Tensor) or not (
            tensor.dtype == torch.int32 if integer else tensor.is_floating_point()
        ):
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            kind = "an int32" if integer else "a floating-point"
            raise TypeError(f"state.{name} must be {kind} tensor, got {got}")
    for name, axes in (
        ("memory", "(B, N, W)"),
        ("write_weights", "(B, Hw, N)"),
        ("read_weights", "(B, R, N)"),
    ):
        shape = tuple(parts[name].shape)
        if len(shape) != 3 or 0 in shape[1:]:
            raise ValueError(f"state.{name} must have shape {axes}, no size 0, got {shape}")
    sizes = sizes_of(state)
    link_sizes = LinkSizes(sizes.batch_size, sizes.num_write_heads, sizes.num_cells)
    shapes = {**memory_state_shapes(sizes), **linkage.shapes(state.link, link_sizes)}
    for name, tensor in parts.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"state.{name} must have shape {shapes[name]} to match memory "
                f"{tuple(state.memory.shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.device != state.memory.device or (
            tensor.is_floating_point() and tensor.dtype != state.memory.dtype
        ):
            raise ValueError(
                f"state.{name} must be {state.memory.dtype} on {state.memory.device} like "
                f"state.memory, got {tensor.dtype} on {tensor.device}; state.to(...) casts all"
            )
    linkage.check(state.link, sizes.num_cells)
    return sizes


class DNCState(NamedTuple):
    """Everything that a DNC carries from step to step; None in a field means zeros.

    | field        | shape                    | meaning                                            |
    |--------------|--------------------------|----------------------------------------------------|
    | controller   | nested tensors (B, ...)  | the controller's own; LSTM: ((h, c) per layer),    |
    |              |                          | each (B, H)                                        |
    | memory       | `MemoryState`            | the external memory                                |
    | read_vectors | (B, R, W)                | what the read heads read in the last step, r_t     |
    """

    controller: Any = None
    memory: MemoryState | None = None
    read_vectors: Tensor | None = None

    def reset(self, *fields: str) -> DNCState:
        """The state with the named fields reset to zero; without names, all fields.

        `state.reset("controller")` keeps what the memory holds and restarts the controller.

        Raises:
            ValueError: a name is not a field of the state.
        """
        for field in fields:
            if field not in self._fields:
                raise ValueError(f"fields must be among {self._fields}, got {field!r}")
        return self._replace(**dict.fromkeys(fields or self._fields))

    def reset_rows(self, mask: Tensor) -> DNCState:
        """The state with zeros for some sequences, those that start over.

        Args:
            mask: (B,), bool; True for each sequence to reset.

        Raises:
            ValueError: `mask` is not a bool tensor (B,).
        """
        memory = None if self.memory is None else self.memory.reset_rows(mask)
        controller, read_vectors = (
            part if next(tensors(part), None) is None else reset_rows(mask, 0, part)
            for part in (self.controller, self.read_vectors)
        )
        return DNCState(controller, memory, read_vectors)

    def detach(self) -> DNCState:
        """The same values, detached from the graph (for truncated backpropagation)."""
        return map_tensors(Tensor.detach, self)

    def to(self, *args: Any, **kwargs: Any) -> DNCState:
        """Every tensor moved or cast as by `Tensor.to`; integers stay integers."""
        return map_tensors(partial(_to, args, kwargs), self)

    def slice_batch(self, rows: slice | Tensor) -> DNCState:
        """The batch elements that a slice or an index tensor selects."""
        return map_tensors(lambda tensor: tensor[rows], self)

    def __repr__(self) -> str:
        lines = {"controller": _shapes(self.controller)}
        if isinstance(self.memory, MemoryState):
            lines |= _memory_lines(self.memory)
        lines["read_vectors"] = _shapes(self.read_vectors)
        return _described("DNCState", self, lines)


def _described(name: str, state: Any, lines: dict[str, str]) -> str:
    """A summary of a state for people, one line for each part."""
    first = next(tensors(state), None)
    if first is None:
        return f"{name}: zeros"
    memory = getattr(state, "memory", None)
    memory = getattr(memory, "memory", memory)  # of a `DNCState`, or of a `MemoryState`
    batched = not isinstance(memory, Tensor) or memory.dim() != 2
    whose = f"{first.shape[0]} sequences" if batched else "one sequence, without a batch axis"
    head = f"{name} of {whose}, {first.dtype} on {first.device}"
    return "\n".join([head, *(f"  {part:<13} {text}" for part, text in lines.items())])


def _shapes(tree: Any) -> str:
    """The shapes of all tensors in a part of a state."""
    found = [str(tuple(tensor.shape)) for tensor in tensors(tree)]
    return ", ".join(found) if found else "zeros" if tree is None else "nothing"


def _memory_lines(state: MemoryState) -> dict[str, str]:
    """What there is to say of a memory."""
    parts = [part for part in state if isinstance(part, Tensor)]
    flat = any(part.dim() < 2 for part in parts if part is not state.usage)
    if len(parts) < len(state) - 1 or flat:
        return {"memory": _shapes(state)}  # not a state, but it is to be shown
    memory, usage = state.memory, state.usage
    lines = {
        "memory": f"{memory.shape[-2]} cells of {memory.shape[-1]} numbers",
        "heads": f"{state.read_weights.shape[-2]} read, {state.write_weights.shape[-2]} write",
        "linkage": linkage_of(state.link).name,
    }
    if usage.device.type != "meta" and usage.numel():
        used = (usage > 0.5).sum(-1).flatten()
        least, most = int(used.min()), int(used.max())
        count = f"{least}" if least == most else f"{least} to {most}"
        lines["in use"] = f"{count} cells (usage above 0.5)"
    return lines


# So that torch.load loads saved states with its default, weights_only=True; and so that
# torch.export.save can save programs that they go into or come out of.
for _kind in (DNCState, MemoryState, SeparableLink, SparseLink):
    add_safe_globals([_kind])
    _register_namedtuple(_kind, serialized_type_name=f"dnc_fast.{_kind.__name__}")
