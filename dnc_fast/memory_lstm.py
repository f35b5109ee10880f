"""`MemoryLSTM`, a DNC for code that was written for nn.LSTM and knows nothing of a memory."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .checks import check_integer
from .config import OPTION_NAMES, DNCConfig, describe
from .controllers import ProjectedLSTMController
from .dnc import DNC
from .options import read_options, takes_options
from .state import DNCState, map_tensors
from .state_pair import PairForm

NOT_OPTIONS = ("output_size", "controller", "bidirectional_controller")
"""Options of a DNC that an LSTM cannot have."""

MEMORY_NAMES = {"weight": "weight", "bias": "offset"}
"""What the parameters of interface and output layer are called here. Not "bias", so that loops over
all biases of an nn.LSTM, which are biases of gates, pass them by."""


class MemoryLSTM(nn.LSTM):
    """A Differentiable Neural Computer that takes the place of an nn.LSTM, line by line.

    `output, (h, c) = rnn(x, (h0, c0))`. It is an nn.LSTM to `isinstance`, with the same arguments
    in the same positions, the same names of parameters, and a state of two tensors, which may be
    detached, indexed, stacked, moved, masked and saved like any others. docs/like_nn_lstm.md
    compares both, behaviour by behaviour. For traces and a state with names, use `DNC`; `.dnc` is
    one with the same parameters.

    The output is the DNC's, y_t = W [h_t; r_t], of nn.LSTM's size P: hidden_size or, if it is not
    0, proj_size. The state, for L layers and D directions:

    - h is (L D, B, P): the hidden activations of each layer after the last step; for the top layer,
      the last output. So h[-1] is output[-1], as in nn.LSTM.
    - c is (L D, B, `state_size()`): each layer's own c in the first H numbers; the others carry the
      memory, divided evenly over the layers, see `PairForm`. A c of width H is taken too: the
      layers' own c, with an empty memory. So zeros as for nn.LSTM are the zero state.

    The memory is not rounded: it is float32 also in half models, and so is c. With
    linkage="separable" c grows with each step.

    Parameters are those of nn.LSTM, `weight_ih_l0` and so on, with gates in the same order; each
    layer's `weight_ih` has columns for [x_t; r_{t-1}; h_t of the layer below]. Interface and output
    layer are `weight_interface`, `offset_interface`, `weight_output` and `offset_output`. In the
    other direction all end in `_reverse`.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout: as in nn.LSTM.
        bidirectional: two DNCs, each with its own memory and its own layers, which see their own
            direction only.
        proj_size: P; as in nn.LSTM, each layer's h is a projection of o tanh(c) to this size, and
            recurrent weights are smaller accordingly. This controller has no kernels: it is called
            at each step.
        device, dtype: of the parameters.
        options: those of `DNC`, by keyword, except `output_size`, `controller` and
            `bidirectional_controller`.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    _dnc: DNC

    @takes_options(DNCConfig, OPTION_NAMES, without=NOT_OPTIONS)
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        same = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        also = ("proj_size", "device", "dtype")
        config = read_options(DNCConfig, *same, given=options, also=also, without=NOT_OPTIONS)
        config.warn_of_idle_options()
        dnc = DNC.from_config(_of_dnc(config, proj_size, device, dtype), device, dtype)
        # Parameters without data, to be replaced; without dropout, of which it would warn again.
        super().__init__(*same[:5], 0.0, bidirectional, proj_size, device="meta")
        self.dropout = float(dropout)
        self.config = config
        self.__dict__["_dnc"] = dnc  # not a submodule: its parameters are registered here
        for name, module, own in _homes(dnc):
            setattr(self, name, module._parameters[own])

    @property
    def dnc(self) -> DNC:
        """The `DNC` that this is, with the same parameters."""
        for name, module, own in _homes(self._dnc):  # they may have been replaced or computed
            module._parameters[own] = getattr(self, name)
        return self._dnc

    def forward(
        self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Run a batch of whole sequences, or the next part of it.

        Args:
            input: (T, B, X), or (B, T, X) with batch_first, or unbatched (T, X), or a
                PackedSequence.
            hx: h0 and c0, from an earlier call or your own; None for zeros.

        Returns:
            output: in the form of the input, with P features (2 P when bidirectional).
            (h, c): after each sequence's own last step.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, dtype or device, or (on
                a CPU) the input is not finite.
        """
        dnc, state = self.dnc, None
        form, batch = _form(dnc), _batch_axes(input, self.batch_first)
        if hx is not None and batch is not None:  # otherwise the DNC says what is wrong with it
            state = _unpack(form, hx, batch)
        output, state = dnc(input, state)
        states = state if self.bidirectional else [state]
        return output, form.pack(states, _last_outputs(output, self.batch_first, len(states)))

    def state_size(self, writes: int = 0) -> int:
        """The width of c.

        Args:
            writes: how many c holds with linkage="separable", one for each step; with other
                linkages the width is always the same.
        """
        check_integer("writes", writes, minimum=0)
        return _form(self.dnc).size(writes)

    def pack_state(self, state: Any, output: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The pair (h, c) of a DNC's state; `unpack_state` undoes it.

        Args:
            state: a `DNCState` without None, or a pair when bidirectional; with or without a batch
                axis.
            output: of the state's step, (B, P), or (B, 2 P) when bidirectional: what the top row of
                h will show; None for the top layer's own h. Unpacked, both are the same state.

        Raises:
            TypeError, ValueError: the state or the output is not one of this model.
        """
        dnc = self.dnc
        states, form = _complete(dnc, state), _form(dnc)
        if output is None:
            return form.pack(states, None)
        reads: Any = states[0].read_vectors
        expected = (*reads.shape[:-2], form.h_size * len(states))
        if tuple(output.shape) != expected:
            raise ValueError(f"output must have shape {expected}, got {tuple(output.shape)}")
        return form.pack(states, output.chunk(len(states), dim=-1))

    def unpack_state(self, hx: tuple[Tensor, Tensor]) -> Any:
        """The state of `.dnc` that a pair (h, c) stands for.

        Args:
            hx: with a batch axis, or without one.

        Returns:
            a `DNCState`, or a pair when bidirectional. Its memory is None, which stands for zeros,
            if c has width H.

        Raises:
            TypeError, ValueError: hx is not a pair of this model.
        """
        return _unpack(_form(self.dnc), hx, None)

    def reset_parameters(self) -> None:
        """Draw new initial values for all parameters, as at construction."""
        if "_dnc" in self.__dict__:  # not yet when nn.LSTM's constructor calls this
            self.dnc.reset_parameters()

    def flatten_parameters(self) -> None:
        """Does nothing; it exists because code written for nn.LSTM calls it."""

    def train(self, mode: bool = True) -> MemoryLSTM:
        """Set training or evaluation mode."""
        self._dnc.train(mode)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        _ = self.dnc  # is to be copied with the parameters of now
        return super().__getstate__()

    def _replicate_for_data_parallel(self) -> MemoryLSTM:
        replica = super()._replicate_for_data_parallel()
        same = {id(parameter): parameter for parameter in self.dnc.parameters()}
        replica.__dict__["_dnc"] = copy.deepcopy(self._dnc, same)  # which will get the replica's
        return replica

    def extra_repr(self) -> str:
        projection = f", proj_size={self.proj_size}" if self.proj_size else ""
        return describe(self.config) + projection


def _of_dnc(config: DNCConfig, proj_size: int, device: Any, dtype: Any) -> DNCConfig:
    """The configuration of the DNC, with a controller that projects if that is asked for."""
    check_integer("proj_size", proj_size, minimum=0)
    if not proj_size:
        return dataclasses.replace(config, output_size=config.hidden_size)
    if proj_size >= config.hidden_size:
        raise ValueError(
            f"proj_size must be smaller than hidden_size={config.hidden_size}, got {proj_size}"
        )
    if config.input_gain != 1:
        raise ValueError(f"input_gain must be 1 with proj_size, got {config.input_gain}")
    controller = partial(
        ProjectedLSTMController,
        cell_size=config.hidden_size,
        proj_size=proj_size,
        num_layers=config.num_layers,
        bias=config.bias,
        dropout=config.dropout,
        activation_clip=config.activation_clip,
        value_clip=config.value_clip,
        device=device,
        dtype=dtype,
    )
    return dataclasses.replace(config, output_size=proj_size, controller=controller)


def _homes(dnc: DNC) -> Iterator[tuple[str, nn.Module, str]]:
    """What each parameter is called here, its module in the DNC, and its name there."""
    suffixes = ("", "_reverse")[: len(dnc.cells)]
    for index in range(dnc.config.num_layers):
        for cell, suffix in zip(dnc.cells, suffixes, strict=True):
            layer = cell.controller.layers[index]
            for own, parameter in layer._parameters.items():
                if parameter is not None:
                    yield f"{own}_l{index}{suffix}", layer, own
    for cell, suffix in zip(dnc.cells, suffixes, strict=True):
        for part in ("interface", "interface_norm", "output"):
            layer = getattr(cell, part)
            for own, parameter in () if layer is None else layer._parameters.items():
                if parameter is not None:
                    yield f"{MEMORY_NAMES[own]}_{part}{suffix}", layer, own


def _form(dnc: DNC) -> PairForm:
    return PairForm(dnc.config, dnc.cell.like, dnc.cell.state_dtype)


def _unpack(form: PairForm, hx: Any, batch: tuple[int, ...] | None) -> Any:
    """A user's pair, checked and as the DNC wants it; `batch`: see `PairForm.check`."""
    form.check(hx, batch)
    states = form.unpack(*hx)
    return states if len(states) > 1 else states[0]


def _complete(dnc: DNC, state: Any) -> list[DNCState]:
    """A user's state of each direction, checked."""
    states = []
    for cell, one in zip(dnc.cells, dnc.states_by_direction(state), strict=True):
        if one is None or any(part is None for part in one):
            raise ValueError(
                "a state to be packed must not contain None; dnc.zero_state makes zeros"
            )
        memory: Any = one.memory
        unbatched = memory.memory.dim() == 2
        batch: Any = map_tensors(lambda tensor: tensor.unsqueeze(0), one) if unbatched else one
        cell.complete_state(batch, len(batch.memory.memory))
        found = batch.memory.sizes.num_cells
        if found != cell.config.num_cells:
            raise ValueError(
                f"state must have num_cells={cell.config.num_cells} like the model to be packed, "
                f"got {found}"
            )
        states.append(one)
    return states


def _batch_axes(input: Any, batch_first: bool) -> tuple[int, ...] | None:
    """(B,), or () if the input has no batch axis; None if it is no valid input."""
    if isinstance(input, PackedSequence):
        return (int(input.batch_sizes[0]),)
    if not isinstance(input, Tensor) or input.dim() not in (2, 3):
        return None
    return () if input.dim() == 2 else (input.shape[0 if batch_first else 1],)


def _last_outputs(output: Any, batch_first: bool, directions: int) -> list[Tensor]:
    """Each direction's output at the last step that it took, (B, P) or (P,)."""
    if isinstance(output, PackedSequence):
        rows, sizes, _, order = output
        places = torch.arange(int(sizes[0]), device=sizes.device)
        lengths = (sizes.unsqueeze(1) > places).sum(0)
        ends = (sizes.cumsum(0) - sizes)[lengths - 1] + places
        last, first = rows[ends.to(rows.device)], rows[: len(places)]
        if order is not None:
            last, first = last[order], first[order]
    else:
        steps = output.transpose(0, 1) if batch_first and output.dim() == 3 else output
        last, first = steps[-1], steps[0]
    if directions == 1:
        return [last]
    return [last.chunk(2, dim=-1)[0], first.chunk(2, dim=-1)[1]]
