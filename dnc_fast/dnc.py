"""`DNC`, a module that replaces nn.LSTM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .cell import DNCCell
from .checks import check_flag, check_integer
from .config import OPTION_NAMES, DNCConfig, describe
from .engine import MemoryReport
from .given_state import check_state_type
from .opaque import refuse_jit_script, refuse_jit_trace
from .options import arguments_of, read_options
from .pretrained import fill, read_pretrained, write_pretrained
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
"""Attributes that code written for nn.LSTM may read."""


@dataclass(frozen=True, kw_only=True)
class DNCArguments(DNCConfig):
    """The arguments of `DNC`: its options, and the device and dtype of its parameters."""

    device: torch.device | str | None = None
    dtype: torch.dtype | None = None


class DNC(nn.Module):
    """A Differentiable Neural Computer (Graves et al., Nature 2016), used like nn.LSTM.

    `output, state = dnc(x, state)`. The leading arguments and the accepted forms of `x` are
    nn.LSTM's. Parameters are initialised as in torch's own layers (nn.LSTMCell, nn.Linear), except
    for `input_gain`; the state starts at zero.

    Args:
        input_size: X, features of each step's input.
        hidden_size: H, size of each controller layer.
        num_layers: controller layers, around one memory.
        bias: whether the controller, interface and output layers have biases.
        batch_first: tensors are (B, T, X) instead of (T, B, X). States do not change.
        dropout: probability of dropout between controller layers.
        bidirectional: two DNCs, one from each end, each with its own memory and state; their
            outputs are concatenated and their states returned as a pair.
        num_cells: N, memory cells.
        cell_size: W, size of a memory cell.
        num_read_heads: R.
        num_write_heads: Hw.
        output_size: Y, features of each step's output; None for hidden_size.
        controller: "lstm", "gru", "rnn", "feedforward", or "layer_norm_lstm", whose gates and cell
            states are normalised (Franke et al. 2018); or a module that follows the protocol of
            `dnc_fast.controllers.Controller`; or a function from its input size, X + R W, to one.
            With these two, hidden_size only sets the default of output_size.
        activation_clip: clip gradients of the controller's activations to this (the paper: 10);
            with a loss scale, the scaled gradients are clipped.
        value_clip: clip the DNC's outputs, and a built-in controller's activations and state, to
            this (the official code: 20); None for no bound.
        input_gain: factor for the initial weights of x in a built-in controller. One-hot inputs
            need more than 1: drawn from +-1 / sqrt(H), a word's weights hardly move the gates, see
            docs/stories_and_graphs.md.
        bidirectional_controller: also run a second controller of the same kind over each sequence's
            inputs, from the end; the interface and output layers see both (the same). It starts
            from zeros in each call.
        interface_norm: normalise interface vectors, as nn.LayerNorm does (the same).
        bypass_dropout: probability of dropout on what the output layer sees besides the read
            vectors (the same).
        usage_order: "exact" orders cells for allocation by usage, "robust" by usage rounded to
            1/256; ties by index.
        linkage: how writes are linked in time, see docs/large_memories.md: "dense" is the paper's
            link matrix, N x N; "sparse" keeps K entries in each of its rows; "separable" keeps the
            writes themselves, N numbers per step; "none" keeps nothing.
        link_fan_out: K of the sparse linkage.
        link_threshold: drop entries of a sparse link matrix below this; None for 1 / K. With 0,
            only the smallest of more than K in a row are dropped.
        link_unit_sums: update a sparse link matrix with weightings scaled to sum to one, as in the
            paper, even when the write gate is closed.
        link_history: maximum number of writes that a separable link holds.
        similarity: how keys are compared with cells: "cosine" as in the paper; minus the distance,
            "euclidean" or "manhattan"; or "dot", see docs/variants.md.
        allocation: how free cells share new content: "sorted" as in the paper, "proportional" to
            their free space, or by a "softmax" of it; the last two are smooth in usage, see
            docs/variants.md.
        allocation_power: p of the proportional allocation, at least 1; shares are f^p with the
            free space f of each cell.
        allocation_temperature: of the softmax allocation; shares are e^(f / temperature).
        masked_lookup: compare each key with the cells through a mask of its own, which the
            interface vector holds (Csordas & Schmidhuber 2019).
        mask_floor: the least value of a mask, at least 0 and below 1.
        deallocate: erase freed cells as far as their usage is (the same).
        link_sharpness: sharpen forward and backward weightings by exponents, which the interface
            vector holds (the same); they sum to one then.
        read_topk, write_topk: keep only this many largest entries of each weighting, scaled to the
            sum of all (after Rae et al. 2016; not in the paper); None for all.
        strengths: activation of the keys' strengths: "oneplus" is the paper's, 1 + log(1 + e^x);
            "softplus" is the official code's, without the 1.
        usage_gradient: whether gradients reach the last write weightings through the usage; the
            official code stops them there.
        state_dtype: dtype of the memory; None for float32, or float64 in a double model.
        checkpoint_interval: K; memory and link matrix are kept for the backward pass at every K-th
            step only, and rebuilt in between. None, on a GPU: the smallest K whose matrices fit in
            a quarter of its free memory; elsewhere 1 if link matrices fit in 32 MiB. Where none
            fits: the square root of T.
        checkpoint_dtype: dtype of the link matrices in checkpoints; None for the state's.
            torch.float16 halves their size and rounds the gradients, but not the outputs, see
            docs/precision.md.
        backend: "reference" is autograd through the equations, step by step; "triton" is the GPU
            kernels, "cpu" the compiled kernels (needs Numba), "eager" the same algorithm in plain
            torch: all exact, and none stores every link matrix. "auto" is the fastest that can run.
            Only the reference can be differentiated twice, or by torch.func. If the cell has hooks
            or parametrised weights, or a custom controller in half precision or under autocast,
            it runs step by step. Hooks on the DNC, on `cell.controller`, `cell.interface` and
            `cell.output` are called; hooks on `cell` itself are not, since a DNC runs its parts.
        cuda_graphs: on a CUDA device, record the steps as CUDA graphs and replay them where this
            is safe, see docs/cuda_graphs.md.
        device, dtype: of the parameters, as in torch.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value.
    """

    @arguments_of(DNCArguments, OPTION_NAMES)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        chosen = read_options(DNCArguments, *arguments, given=options)
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
        """Build a model from a checked configuration."""
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

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **changes: Any,
    ) -> DNC:
        """Load a model that `save_pretrained` has saved, in evaluation mode. No code is run.

        Args:
            folder: on this machine; or the name of a model that comes with dnc_fast, see
                `dnc_fast.pretrained.bundled()`.
            device, dtype: of the parameters; a dtype of None is that of the saved model.
            changes: options to change, out of those that no parameter depends on, such as
                num_cells, linkage and backend; a controller of your own must be given again.

        Raises:
            FileNotFoundError: the folder or a file in it is missing.
            CheckpointError: it holds no model that this version can read, or the weights do not
                fit the changed options. (A ValueError, of `dnc_fast.files`.)
            TypeError, ValueError: a change is invalid, or the controller is missing.
            ModuleNotFoundError: the package safetensors is not installed.
        """
        config, saved_dtype, weights = read_pretrained(folder, changes)
        model = cls.from_config(config, device, saved_dtype if dtype is None else dtype)
        fill(model, weights, folder)
        return model.eval()

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        dtype: torch.dtype | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save the model as a folder to share: `model.safetensors` and `config.json`.

        A model that is already there is replaced when the new one is written.

        Args:
            folder: is made if there is none.
            dtype: of the weights in the file, such as torch.float16 for half the size; None for
                the model's own, in which they will be loaded in any case.
            metadata: what others should know, such as task, score and licence; what JSON can hold.
                `dnc_fast.pretrained.read_metadata(folder)` returns it.

        Raises:
            TypeError, ValueError: an argument is invalid, a weight is too large for the dtype, or
                the model is quantized.
            OSError: the files could not be written.
            ModuleNotFoundError: the package safetensors is not installed.
        """
        own = self.cell.like.dtype
        write_pretrained(folder, self.config, self.state_dict(), own, dtype, metadata)

    @property
    def cells(self) -> list[DNCCell]:
        """The cell of each direction."""
        return [self.cell] if self.reverse_cell is None else [self.cell, self.reverse_cell]

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> Any:
        """The state before the first step: a `DNCState`, or a pair when bidirectional.

        Args:
            batch_size: B.
            num_cells: N; may differ from the model's, since the parameters do not depend on it.
        """
        states = tuple(cell.zero_state(batch_size, num_cells) for cell in self.cells)
        return states if self.config.bidirectional else states[0]

    def memory_report(self, batch_size: int, steps: int) -> MemoryReport:
        """Estimate the memory that a training step will take, by part.

        What a custom controller keeps is not counted.

        Args:
            batch_size: B.
            steps: T, the length of the longest sequence.

        Returns:
            a `MemoryReport`; `print` shows a table, `.total` is in bytes.

        Raises:
            TypeError, ValueError: an argument is not an integer of at least 1, or the backend is
                "reference".
        """
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("steps", steps, minimum=1)
        first, *others = (cell.memory_report(batch_size, steps) for cell in self.cells)
        return sum(others, start=first)

    def reset_parameters(self) -> None:
        """Draw new initial values for all parameters, as at construction."""
        for cell in self.cells:
            cell.reset_parameters()

    def flatten_parameters(self) -> None:
        """Does nothing; it exists because code written for nn.LSTM calls it."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: Any = None,
        *,
        memory: bool = True,
        return_trace: bool = False,
    ) -> Any:
        """Run a batch of whole sequences, or the next part of it.

        Args:
            input: (T, B, X), or (B, T, X) with batch_first, or unbatched (T, X), or a
                PackedSequence.
            state: from an earlier call or `zero_state`; None for zeros. A `DNCState` (B first in
                every tensor; no B when unbatched), or a pair when bidirectional. Its number of
                cells may differ from the model's.
            memory: False reads zeros and writes nothing, to see what the memory is good for: the
                controller runs alone, step by step, and the memory stays as it is in the state.
            return_trace: also return every step's trace; runs the reference, step by step.

        Returns:
            output: y, in the form of the input, with Y features (2 Y when bidirectional).
            state: after each sequence's own last step.
            trace: only with return_trace: a `Trace`, or a pair when bidirectional.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, dtype or device, or (on
                a CPU) the input is not finite; or a trace is asked for where there is no memory,
                or no sequence.
        """
        refuse_jit_trace()
        check_flag("memory", memory)
        check_flag("return_trace", return_trace)
        sequences = Sequences.of(
            input, self.config.input_size, self.config.batch_first, self.cell.like
        )
        if return_trace and not (memory and sequences.batch_size):
            raise ValueError(
                "return_trace=True needs memory=True and at least one sequence, got "
                f"memory={memory} and B={sequences.batch_size}"
            )
        reversal = None
        if self.config.bidirectional or self.config.bidirectional_controller:
            reversal = sequences.reversal()
        outputs, states, traces = [], [], []
        for cell, initial in zip(self.cells, self.states_by_direction(state), strict=True):
            order = reversal if cell is self.reverse_cell else None
            steps: list[Trace] | None = [] if return_trace else None
            features, final = cell.run(
                sequences.rows if order is None else sequences.rows[order],
                sequences,
                None if initial is None else _complete(cell, sequences, initial),
                steps,
                memory,
                reversal,
            )
            output = cell.outputs(features)
            outputs.append(output if order is None else output[order])
            states.append(sequences.restore_state(final))
            if steps is not None:
                joined = join_steps(steps)
                joined = joined if order is None else Trace(*(part[order] for part in joined))
                traces.append(Trace(*map(sequences.pad, joined)))
        rows = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        result: list[Any] = [sequences.restore(rows)]
        for parts in (states, traces) if return_trace else (states,):
            result.append(tuple(parts) if self.config.bidirectional else parts[0])
        return tuple(result)

    def states_by_direction(self, state: Any) -> list[DNCState | None]:
        """The user's state, one for each direction."""
        if not self.config.bidirectional:
            states = [state]
        elif state is None:
            states = [None, None]
        elif isinstance(state, DNCState) or not isinstance(state, tuple) or len(state) != 2:
            raise TypeError(
                "state must be a pair of DNCStates (a tuple, one per direction) for a "
                f"bidirectional DNC, got {type(state).__name__}"
            )
        else:
            states = list(state)
        for one in states:
            check_state_type(one)
        return states

    __prepare_scriptable__ = refuse_jit_script

    def extra_repr(self) -> str:
        return describe(self.config)


def _complete(cell: DNCCell, sequences: Sequences, state: DNCState) -> DNCState:
    """A user's state, checked, with its batch in the order of the rows."""
    state = cell.complete_state(sequences.with_batch(state), sequences.batch_size)
    return sequences.sort_state(state)
