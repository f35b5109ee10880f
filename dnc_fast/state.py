"""What a DNC carries from one time step to the next.

Letters: B batch, N memory cells, W cell size, R read heads, Hw write heads, H hidden size.
Every tensor of a state has the batch as its first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import check_integer


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply `function` to each tensor of a nest of tuples, lists and dicts; None stays None."""
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


def tensors(tree: Any) -> Iterator[Tensor]:
    """Yield each tensor of a nest, in the order in which `map_tensors` visits them."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from tensors(part)
    elif isinstance(tree, (tuple, list)):
        for part in tree:
            yield from tensors(part)


def join_batches(states: list[Any]) -> Any:
    """Join states of one structure along the batch axis: the inverse of `slice_batch`."""
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
    | precedence    | (B, Hw, N)   | [0, 1] | how much each cell was written last, p_t         |
    | link          | (B, Hw, N, N)| [0, 1] | L_t[i, j]: i was written right after j           |
    | write_weights | (B, Hw, N)   | [0, 1] | write weightings of the step, sums at most 1     |
    | read_weights  | (B, R, N)    | [0, 1] | read weightings of the step, sums at most 1      |
    """

    memory: Tensor
    usage: Tensor
    precedence: Tensor
    link: Tensor
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
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """The state before the first step: an empty, unused memory.

        Raises:
            TypeError, ValueError: a size is not an integer of at least 1.
        """
        sizes = MemorySizes(batch_size, num_cells, cell_size, num_read_heads, num_write_heads)
        for name, size in zip(sizes._fields, sizes, strict=True):
            check_integer(name, size, minimum=1)
        return cls(
            **{
                field: torch.zeros(shape, dtype=dtype, device=device)
                for field, shape in memory_state_shapes(sizes).items()
            }
        )

    @property
    def sizes(self) -> MemorySizes:
        """B, N, W, R, Hw, read off the memory and the two kinds of weightings."""
        batch_size, num_cells, cell_size = self.memory.shape
        return MemorySizes(
            batch_size,
            num_cells,
            cell_size,
            self.read_weights.shape[1],
            self.write_weights.shape[1],
        )

    def detach(self) -> MemoryState:
        """The same values, cut off from the graph (truncated backpropagation)."""
        return map_tensors(Tensor.detach, self)

    def to(self, *args: Any, **kwargs: Any) -> MemoryState:
        """Every tensor moved or cast as by `Tensor.to`."""
        return map_tensors(lambda tensor: tensor.to(*args, **kwargs), self)

    def slice_batch(self, rows: slice | Tensor) -> MemoryState:
        """The rows of the batch that a slice or an index tensor names."""
        return map_tensors(lambda tensor: tensor[rows], self)


def memory_state_shapes(sizes: MemorySizes) -> dict[str, tuple[int, ...]]:
    """The shape of each field of a `MemoryState` of these sizes."""
    B, N, W, R, Hw = sizes
    return {
        "memory": (B, N, W),
        "usage": (B, N),
        "precedence": (B, Hw, N),
        "link": (B, Hw, N, N),
        "write_weights": (B, Hw, N),
        "read_weights": (B, R, N),
    }


def check_memory_state(state: MemoryState) -> MemorySizes:
    """Check that the fields of a state fit together, and return their sizes.

    Raises:
        TypeError: `state` is not a `MemoryState`, or a field is no floating-point tensor.
        ValueError: a field's shape, dtype or device does not fit the memory's.
    """
    if not isinstance(state, MemoryState):
        raise TypeError(
            f"state must be a MemoryState, got {type(state).__name__}; "
            "MemoryState.zeros(batch_size, num_cells, cell_size, ...) makes an empty one"
        )
    for field, tensor in zip(state._fields, state, strict=True):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"state.{field} must be a floating-point tensor, got {got}")
    for field, axes in (
        ("memory", "(B, N, W)"),
        ("write_weights", "(B, Hw, N)"),
        ("read_weights", "(B, R, N)"),
    ):
        shape = tuple(getattr(state, field).shape)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"state.{field} must have shape {axes}, none of it 0, got {shape}")
    sizes = state.sizes
    for field, shape in memory_state_shapes(sizes).items():
        tensor = getattr(state, field)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"state.{field} must have shape {shape} to fit memory "
                f"{tuple(state.memory.shape)}, got {tuple(tensor.shape)}"
            )
        if tensor.dtype != state.memory.dtype or tensor.device != state.memory.device:
            raise ValueError(
                f"state.{field} must be {state.memory.dtype} on {state.memory.device} like "
                f"state.memory, got {tensor.dtype} on {tensor.device}; state.to(...) casts all"
            )
    return sizes


class DNCState(NamedTuple):
    """All that a DNC carries from step to step; None in a field stands for zeros.

    | field        | shape                    | meaning                                            |
    |--------------|--------------------------|----------------------------------------------------|
    | controller   | nest of (B, ...)         | the controller's own; LSTM: ((h, c) per layer),    |
    |              |                          | each (B, H)                                        |
    | memory       | `MemoryState`            | the external memory                                |
    | read_vectors | (B, R, W)                | what the read heads read in the last step, r_t     |
    """

    controller: Any = None
    memory: MemoryState | None = None
    read_vectors: Tensor | None = None

    def reset(self, *fields: str) -> DNCState:
        """The state with the named fields back at zero; with no names, with all of them.

        `state.reset("controller")` keeps what the memory holds and lets the controller start anew.

        Raises:
            ValueError: a name is not a field of the state.
        """
        for field in fields:
            if field not in self._fields:
                raise ValueError(f"a field of the state is one of {self._fields}, got {field!r}")
        return self._replace(**dict.fromkeys(fields or self._fields))

    def detach(self) -> DNCState:
        """The same values, cut off from the graph (truncated backpropagation)."""
        return map_tensors(Tensor.detach, self)

    def to(self, *args: Any, **kwargs: Any) -> DNCState:
        """Every tensor moved or cast as by `Tensor.to`."""
        return map_tensors(lambda tensor: tensor.to(*args, **kwargs), self)

    def slice_batch(self, rows: slice | Tensor) -> DNCState:
        """The rows of the batch that a slice or an index tensor names."""
        return map_tensors(lambda tensor: tensor[rows], self)
