"""The state of a DNC with an LSTM controller as nn.LSTM's pair (h, c) of tensors, and back.

Letters: L layers, D directions, B batch, H hidden size, P size of h (proj_size, otherwise H),
N memory cells, W cell size, R read heads, Hw write heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import autocasts
from .config import DNCConfig
from .linkages import LINKAGES
from .state import DNCState, MemoryState, map_tensors, tensors


class PairForm(NamedTuple):
    """How the states of all directions lie in a pair (h, c).

    Rows are in nn.LSTM's order: row l D + d belongs to layer l of direction d.

    | tensor         | row of layer l                                                             |
    |----------------|----------------------------------------------------------------------------|
    | h (L D, B, P)  | the layer's h; the top layer's row holds the last output instead           |
    | c (L D, B, S)  | the layer's c, H numbers; then its share of the rest, S - H numbers        |

    The rest is, one after another: the top layer's h (P), the last output (P), the read vectors
    (R W), and the fields of `MemoryState` in their order, each flattened; zeros fill it up to L
    equal shares. Integers are cells or -1 for none, and are stored with 1 added, so that zeros
    stand for the zero state.

    The last output is in both, so that the top row of h counts. Unpacked, the top layer's h is

        h in c + (the top row of h - the last output in c),

    which is h in c, to the bit, where the pair is as it was packed, and h0 where c0 is zero. The
    gradients of the two last outputs cancel.

    | field       | what                                           |
    |-------------|------------------------------------------------|
    | config      | of the DNC                                     |
    | like        | has the dtype and the device of its parameters |
    | state_dtype | of its memory                                  |
    """

    config: DNCConfig
    like: Tensor
    state_dtype: torch.dtype

    @property
    def rows(self) -> int:
        """L D."""
        return self.config.num_layers * self.directions

    @property
    def directions(self) -> int:
        """D."""
        return 2 if self.config.bidirectional else 1

    @property
    def h_size(self) -> int:
        """P."""
        return self.config.output_size or self.config.hidden_size

    @property
    def c_dtype(self) -> torch.dtype:
        """Of a packed c: it holds the controller's and the memory's numbers without rounding."""
        return torch.promote_types(self.like.dtype, self.state_dtype)

    def size(self, writes: int = 0) -> int:
        """S, the width of c.

        Args:
            writes: that a separable link holds; other links do not grow.
        """
        return self.config.hidden_size - (-self._numbers(writes) // self.config.num_layers)

    def _numbers(self, writes: int) -> int:
        """How many numbers the rest has, without what fills it up."""
        return sum(tensor.numel() for tensor in tensors(self._rest(writes)))

    def _rest(self, writes: int) -> tuple[Tensor, Tensor, Tensor, MemoryState]:
        """The form of the rest: the tensors of one sequence, without data."""
        return _rest(self.config, self.like.dtype, self.state_dtype, writes)

    def _writes(self, size: int) -> int:
        """How many writes a c of this width holds."""
        first = self._numbers(0)
        each = self._numbers(1) - first
        room = (size - self.config.hidden_size) * self.config.num_layers - first
        return max(room // each, 0) if each else 0

    def pack(
        self, states: Sequence[DNCState], outputs: Sequence[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The pair.

        Args:
            states: of each direction, complete; with or without a batch axis.
            outputs: each direction's last output, (B, P) or (P,); None for the top layer's h.
        """
        reads: Any = states[0].read_vectors
        unbatched = reads.dim() == 2
        if unbatched:
            states, outputs = map_tensors(lambda tensor: tensor.unsqueeze(0), (states, outputs))
        given = [None] * len(states) if outputs is None else outputs
        pairs = [self._pack(*each) for each in zip(states, given, strict=True)]
        h, c = (
            parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)
            for parts in zip(*pairs, strict=True)
        )
        return (h.squeeze(1), c.squeeze(1)) if unbatched else (h, c)

    def _pack(self, state: DNCState, output: Tensor | None) -> tuple[Tensor, Tensor]:
        L = self.config.num_layers
        self._check_integers(self.c_dtype)
        hidden, cells = zip(*state.controller, strict=True)
        last = hidden[-1] if output is None else output.to(self.like.dtype)
        rest = (hidden[-1], last, state.read_vectors, state.memory)
        flat = torch.cat(
            [
                (part if part.is_floating_point() else part + 1).to(self.c_dtype).flatten(1)
                for part in tensors(rest)
            ],
            dim=1,
        )
        shares = F.pad(flat, (0, -flat.shape[1] % L)).unflatten(1, (L, -1)).transpose(0, 1)
        return torch.stack([*hidden[:-1], last]), torch.cat([torch.stack(cells), shares], dim=-1)

    def unpack(self, h: Tensor, c: Tensor) -> tuple[DNCState, ...]:
        """The state of each direction, from a checked pair; with a batch axis if the pair has one.

        A c of width H is each layer's own c, with an empty memory.
        """
        unbatched = h.dim() == 2
        if unbatched:
            h, c = h.unsqueeze(1), c.unsqueeze(1)
        step = self.directions
        states = tuple(self._unpack(h[d::step], c[d::step]) for d in range(step))
        return map_tensors(lambda tensor: tensor.squeeze(0), states) if unbatched else states

    def _unpack(self, h: Tensor, c: Tensor) -> DNCState:
        H, size = self.config.hidden_size, c.shape[-1]
        hidden, cells = h.to(self.like.dtype).unbind(), c[..., :H].to(self.like.dtype).unbind()
        if size == H:
            return DNCState(tuple(zip(hidden, cells, strict=True)))
        form = self._rest(self._writes(size))
        counts = [tensor.numel() for tensor in tensors(form)]
        flat = c[..., H:].transpose(0, 1).flatten(1)
        parts = iter(flat[:, : sum(counts)].split(counts, dim=1))

        def part(empty: Tensor) -> Tensor:
            found = next(parts).reshape(len(flat), *empty.shape[1:])
            if not empty.is_floating_point():
                found = found.detach() - 1
            return found.to(empty.dtype)

        top, last, read_vectors, memory = map_tensors(part, form)
        hidden = (*hidden[:-1], top + (hidden[-1] - last))
        return DNCState(tuple(zip(hidden, cells, strict=True)), memory, read_vectors)

    def check(self, hx: Any, batch: tuple[int, ...] | None) -> None:
        """Raise unless a user's `hx` is a pair that fits.

        Args:
            hx: what the user gave.
            batch: (B,), or () for an input without a batch axis; None for what h has.
        """
        pair = isinstance(hx, (tuple, list)) and len(hx) == 2
        if not pair or not all(isinstance(part, Tensor) for part in hx):
            raise TypeError(
                f"hx must be a pair (h, c) of tensors, as for nn.LSTM, got {_described(hx)}; "
                "pack_state turns a DNCState into one"
            )
        h, c = hx
        batch = tuple(h.shape[1:-1])[:1] if batch is None else batch
        whole = self.size(self._writes(c.shape[-1] if c.dim() else 0))
        expected, wide, narrow = (
            (self.rows, *batch, size) for size in (self.h_size, whole, self.config.hidden_size)
        )
        if tuple(h.shape) != expected:
            raise ValueError(f"hx[0], h, must have shape {expected}, got {tuple(h.shape)}")
        if tuple(c.shape) not in (wide, narrow):
            raise ValueError(
                f"hx[1], c, must have shape {wide}, what state_size() tells; or {narrow}, each "
                f"layer's own c, with an empty memory; got {tuple(c.shape)}"
            )
        device = self.like.device
        for name, part, dtypes in (
            ("hx[0], h,", h, {self.like.dtype}),
            ("hx[1], c,", c, {self.like.dtype, self.c_dtype}),
        ):
            if part.device != device:
                raise ValueError(
                    f"{name} must be on {device} like the model, got {part.device}; move it with "
                    f".to({str(device)!r})"
                )
            if not part.is_floating_point() or (part.dtype not in dtypes and not autocasts(device)):
                kinds = " or ".join(sorted(map(str, dtypes)))
                raise ValueError(f"{name} must be {kinds} in this model, got {part.dtype}")
        if tuple(c.shape) == wide:
            self._check_integers(c.dtype)

    def _check_integers(self, dtype: torch.dtype) -> None:
        """Raise unless c in this dtype holds the integers of a link exactly."""
        config, most = self.config, int(2 / torch.finfo(dtype).eps)
        if LINKAGES[config.linkage].integers and config.num_cells > most:
            raise ValueError(
                f"linkage={config.linkage!r} keeps numbers of cells in c, which {dtype} holds "
                f"exactly up to {most}, got num_cells={config.num_cells}; leave c in the dtype in "
                "which it is returned, and do not set state_dtype below torch.float32"
            )


@lru_cache(maxsize=64)
def _rest(
    config: DNCConfig, dtype: torch.dtype, state_dtype: torch.dtype, writes: int
) -> tuple[Tensor, Tensor, Tensor, MemoryState]:
    memory = MemoryState.zeros(
        *config.memory_sizes(1),
        linkage=config.linkage,
        link_fan_out=config.link_fan_out,
        dtype=state_dtype,
        device="meta",
    )
    link = LINKAGES[config.linkage].lengthened(memory.link, writes)
    hidden = memory.memory.new_empty(1, config.output_size or config.hidden_size, dtype=dtype)
    reads = memory.memory.new_empty(1, config.num_read_heads, config.cell_size)
    return hidden, hidden, reads, memory._replace(link=link)


def _described(hx: Any) -> str:
    """What somebody gave instead of a pair of tensors."""
    kind = type(hx).__name__
    if not isinstance(hx, (tuple, list)) or hasattr(hx, "_fields"):
        return f"a {kind}"
    return f"a {kind} of {', '.join(type(part).__name__ for part in hx) or 'nothing'}"
