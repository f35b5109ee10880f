"""`DNC`, in the place of nn.LSTM."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .cell import DNCCell, check_state_type, describe
from .checks import check_integer
from .config import DNCConfig
from .engine import MemoryReport
from .options import arguments_of, read_options
from .sequences import Sequences
from .state import DNCState
from .trace import Trace, join_steps

LSTM_ATTRIBUTES = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
)
"""What code written for nn.LSTM may read off the module."""


@dataclass(frozen=True, kw_only=True)
class DNCArguments(DNCConfig):
    """The arguments of `DNC`: its options, and where and in which dtype its parameters are."""

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None


class DNC(nn.Module):
    """A Differentiable Neural Computer (Graves et al., Nature 2016) in the place of an nn.LSTM.

    `output, state = dnc(x, state)`. The leading arguments and the forms of `x` are nn.LSTM's. The
    parameters start as in torch's own layers (nn.LSTMCell, nn.Linear), but for `input_gain`, the
    state from zero.

    Args:
        input_size: X, features of each step's input.
        hidden_size: H, size of each controller layer.
        num_layers: controller layers, around one memory.
        bias: whether the controller, interface and output layers have biases.
        batch_first: tensors are (B, T, X) instead of (T, B, X). States are not touched by it.
        dropout: probability of dropout between controller layers.
        bidirectional: two DNCs, each with its own memory and state, one from each end; their
            outputs are concatenated and their states come as a pair.
        num_cells: N, memory cells.
        cell_size: W, size of a memory cell.
        num_read_heads: R.
        num_write_heads: Hw.
        output_size: Y, features of each step's output; None for hidden_size.
        controller: "lstm", "gru", "rnn" or "feedforward"; or a module that keeps the protocol of
            `dnc_fast.controllers.Controller`; or a function from its input size, X + R W, to one.
            For the latter two hidden_size only sets the default of output_size.
        activation_clip: clip gradients of the controller's activations to this (the paper: 10);
            under a loss scale, scaled gradients are what is clipped.
        input_gain: the controller's initial weights of x are those of torch's layer times this.
            One-hot inputs need more than 1: drawn from +-1 / sqrt(H), a word's weights hardly move
            the gates, see docs/stories_and_graphs.md. Of a named controller only.
        usage_order: "exact" orders cells for allocation by usage, "robust" by usage rounded to
            1/256; ties by index.
        linkage: how writes are linked in time, see docs/large_memories.md: "dense" by the link
            matrix of the paper, N x N; "sparse" by K entries in each of its rows; "separable" by
            the writes themselves, N for each step; "none" not at all.
        link_fan_out: K, of a sparse linkage.
        link_threshold: entries of a sparse link matrix below it are dropped; None for 1 / K; 0
            drops none but the smallest of more than K.
        link_unit_sums: update a sparse link matrix by weightings scaled to sum one, as in the
            paper, even when the write gate is shut.
        link_history: writes that a separable linkage holds at most.
        read_topk, write_topk: entries that each read or write weighting keeps, the largest, scaled
            to the sum of all (after Rae et al. 2016), which is not the paper's step; None for all.
        state_dtype: dtype of the memory state; None for float32, or float64 in a double model.
        checkpoint_interval: K; memory and link matrix are kept for backpropagation every K-th step
            only, and rebuilt in between. None for 1 where all steps' link matrices take at most
            32 MiB, else the root of T.
        checkpoint_dtype: dtype in which link matrices are kept for backpropagation, such as
            torch.float16, which halves them and rounds the gradients, not the outputs, see
            docs/precision.md; None for the state's.
        backend: "reference" is autograd through the equations, step by step; "triton" the GPU
            kernels, "cpu" the compiled kernels (needs Numba), "eager" the same algorithm in plain
            torch, all exact and without the history of the link matrix; "auto" the fastest that can
            run. Only the reference can be differentiated twice, or by torch.func. Where the cell
            has hooks or parametrised weights, or a controller of your own in half precision or
            under autocast, steps are taken one by one.
        cuda_graphs: on a CUDA device, record the steps as CUDA graphs and replay them where that
            is safe, see docs/cuda_graphs.md.
        device, dtype: of the parameters, as in torch.

    Raises:
        TypeError, ValueError: an argument's type or value does not fit.
    """

    @arguments_of(DNCArguments)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        chosen = read_options(DNCArguments, *arguments, **options)
        config = DNCConfig(**{one.name: getattr(chosen, one.name) for one in fields(DNCConfig)})
        config.warn_of_idle_options()
        self._build(config, chosen.device, chosen.dtype)

    @classmethod
    def from_config(
        cls,
        config: DNCConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DNC:
        """The model of a checked configuration."""
        model = cls.__new__(cls)
        model._build(config, device, dtype)
        return model

    def _build(
        self, config: DNCConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.config = config
        for name in LSTM_ATTRIBUTES:
            setattr(self, name, getattr(config, name))
        one = dataclasses.replace(config, bidirectional=False, batch_first=False)
        self.cell = DNCCell.from_config(one, device, dtype)
        self.reverse_cell = (
            DNCCell.from_config(one, device, dtype) if config.bidirectional else None
        )

    @property
    def cells(self) -> list[DNCCell]:
        """The cell of each direction."""
        return [self.cell] if self.reverse_cell is None else [self.cell, self.reverse_cell]

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> Any:
        """The state before the first step: a `DNCState`, or a pair when bidirectional.

        Args:
            batch_size: B.
            num_cells: N; the parameters do not depend on it, so it need not be the model's own.
        """
        states = tuple(cell.zero_state(batch_size, num_cells) for cell in self.cells)
        return states if self.config.bidirectional else states[0]

    def memory_report(self, batch_size: int, steps: int) -> MemoryReport:
        """What one training step will take, by part, before it is run.

        Of a controller of your own, what it keeps itself is not counted.

        Args:
            batch_size: B.
            steps: T, of the longest sequence.

        Returns:
            a `MemoryReport`; `print` shows it as a table, `.total` is in bytes.

        Raises:
            TypeError, ValueError: an argument is not an integer of at least 1, or the backend is
                "reference".
        """
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("steps", steps, minimum=1)
        first, *others = (cell.memory_report(batch_size, steps) for cell in self.cells)
        return sum(others, start=first)

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as when the module was made."""
        for cell in self.cells:
            cell.reset_parameters()

    def flatten_parameters(self) -> None:
        """Nothing to do; here because code written for nn.LSTM calls it."""

    def forward(
        self, input: Tensor | PackedSequence, state: Any = None, *, return_trace: bool = False
    ) -> Any:
        """A batch of whole sequences, or the next part of it.

        Args:
            input: (T, B, X), or (B, T, X) with batch_first, or unbatched (T, X), or a
                PackedSequence.
            state: what an earlier call returned or `zero_state` made, None for zeros: a `DNCState`
                (B first in every tensor; no B when unbatched), or a pair when bidirectional. A
                state may have another number of cells than the model.
            return_trace: also return what every step did; runs the reference, step by step.

        Returns:
            output: y, of the input's form, with Y features (2 Y when bidirectional).
            state: each sequence's after its own last step.
            trace: only with return_trace: a `Trace`, or a pair when bidirectional.

        Raises:
            TypeError, ValueError: an argument's type, shape, dtype or device does not fit, or (on
                a CPU) the input is not finite.
        """
        sequences = Sequences.of(
            input, self.config.input_size, self.config.batch_first, self.cell.interface.weight
        )
        outputs, states, traces = [], [], []
        for cell, initial in zip(self.cells, self._states_by_direction(state), strict=True):
            order = sequences.reversal() if cell is self.reverse_cell else None
            steps: list[Trace] | None = [] if return_trace else None
            features, final = cell.run(
                sequences.rows if order is None else sequences.rows[order],
                sequences.batch_sizes,
                sequences.sort_state(
                    cell.complete_state(sequences.with_batch(initial), sequences.batch_size)
                ),
                steps,
            )
            output = cell.output(features)
            outputs.append(output if order is None else output[order])
            states.append(sequences.restore_state(final))
            if steps is not None:
                rows = join_steps(steps)
                rows = rows if order is None else Trace(*(part[order] for part in rows))
                traces.append(Trace(*map(sequences.pad, rows)))
        result: list[Any] = [sequences.restore(torch.cat(outputs, dim=-1))]
        for parts in (states, traces) if return_trace else (states,):
            result.append(tuple(parts) if self.config.bidirectional else parts[0])
        return tuple(result)

    def _states_by_direction(self, state: Any) -> list[DNCState | None]:
        """The state given by the user, one for each direction."""
        if not self.config.bidirectional:
            states = [state]
        elif state is None:
            states = [None, None]
        elif isinstance(state, DNCState) or not isinstance(state, tuple) or len(state) != 2:
            raise TypeError(
                "state must be a pair of DNCStates (one per direction) for a bidirectional DNC, "
                f"got {type(state).__name__}"
            )
        else:
            states = list(state)
        for one in states:
            check_state_type(one)
        return states

    def extra_repr(self) -> str:
        return describe(self.config)
