"""The modules that people import: `DNC` in the place of nn.LSTM, `DNCCell` of nn.LSTMCell."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .backends import (
    composed_parts,
    inspected_step,
    primitives,
    resolve_backend,
    unchecked_step,
)
from .checks import autocasts, check_integer, check_tensor
from .config import DNCConfig
from .controllers import CONTROLLERS, check_controller
from .engine import (
    MemoryReport,
    Plan,
    checkpoint_interval,
    is_built_in,
    is_plain,
    memory_report,
    run_checkpointed,
    run_precision,
    unroll,
)
from .links import SeparableLink, linkage_of
from .sequences import Sequences
from .state import DNCState, MemorySizes, MemoryState, check_memory_state, map_tensors, tensors
from .trace import Trace, join_steps, trace_step

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


class DNCCell(nn.Module):
    """One time step of a Differentiable Neural Computer (Graves et al., Nature 2016).

    Takes the place of nn.LSTMCell: `output, state = cell(x, state)`. The arguments are those of
    `DNC`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        num_layers: int = 1,
        dropout: float = 0.0,
        num_cells: int = 64,
        cell_size: int = 32,
        num_read_heads: int = 4,
        num_write_heads: int = 1,
        output_size: int | None = None,
        controller: str | nn.Module | Callable[[int], nn.Module] = "lstm",
        activation_clip: float | None = None,
        input_gain: float = 1.0,
        usage_order: str = "exact",
        linkage: str = "dense",
        link_fan_out: int = 8,
        link_threshold: float | None = None,
        link_unit_sums: bool = False,
        link_history: int = 1024,
        read_topk: int | None = None,
        write_topk: int | None = None,
        state_dtype: torch.dtype | None = None,
        checkpoint_interval: int | None = None,
        checkpoint_dtype: torch.dtype | None = None,
        backend: str = "auto",
        cuda_graphs: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = DNCConfig(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            dropout=dropout,
            num_cells=num_cells,
            cell_size=cell_size,
            num_read_heads=num_read_heads,
            num_write_heads=num_write_heads,
            output_size=output_size,
            controller=controller,
            activation_clip=activation_clip,
            input_gain=input_gain,
            usage_order=usage_order,
            linkage=linkage,
            link_fan_out=link_fan_out,
            link_threshold=link_threshold,
            link_unit_sums=link_unit_sums,
            link_history=link_history,
            read_topk=read_topk,
            write_topk=write_topk,
            state_dtype=state_dtype,
            checkpoint_interval=checkpoint_interval,
            checkpoint_dtype=checkpoint_dtype,
            backend=backend,
            cuda_graphs=cuda_graphs,
        )
        self._build(config, device, dtype)

    @classmethod
    def from_config(
        cls,
        config: DNCConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DNCCell:
        """The cell of a checked configuration."""
        cell = cls.__new__(cls)
        cell._build(config, device, dtype)
        return cell

    def _build(
        self, config: DNCConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating-point dtype, got {dtype}")
        self.config = config
        controller_input = config.input_size + config.read_size
        if isinstance(config.controller, str):
            self.controller = CONTROLLERS[config.controller](
                controller_input,
                config.hidden_size,
                config.num_layers,
                config.bias,
                config.dropout,
                config.activation_clip,
                device=device,
                dtype=dtype,
            )
        elif isinstance(config.controller, nn.Module):
            self.controller = check_controller(config.controller)
        else:
            self.controller = check_controller(config.controller(controller_input))
        features = self.controller.output_size
        self.interface = nn.Linear(
            features, config.interface_size, config.bias, device=device, dtype=dtype
        )
        self.output = nn.Linear(
            features + config.read_size,
            config.output_size or config.hidden_size,
            config.bias,
            device=device,
            dtype=dtype,
        )
        self._scale_inputs()

    @property
    def state_dtype(self) -> torch.dtype:
        """The dtype of the memory: float64 in a double model, else float32, unless configured."""
        if self.config.state_dtype is not None:
            return self.config.state_dtype
        double = self.interface.weight.dtype == torch.float64
        return torch.float64 if double else torch.float32

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> DNCState:
        """The state before the first step, everything zero.

        Args:
            batch_size: B.
            num_cells: N; the parameters do not depend on it, so it need not be the model's own.
        """
        return DNCState(
            self.controller.zero_state(batch_size),
            self._zero_memory(batch_size, num_cells),
            self._zero_read_vectors(batch_size),
        )

    def _zero_memory(
        self, batch_size: int, num_cells: int | None = None, device: str | None = None
    ) -> MemoryState:
        config = self.config
        return MemoryState.zeros(
            batch_size,
            config.num_cells if num_cells is None else num_cells,
            config.cell_size,
            config.num_read_heads,
            config.num_write_heads,
            linkage=config.linkage,
            link_fan_out=config.link_fan_out,
            dtype=self.state_dtype,
            device=self.interface.weight.device if device is None else device,
        )

    def _zero_read_vectors(self, batch_size: int) -> Tensor:
        shape = (batch_size, self.config.num_read_heads, self.config.cell_size)
        return self.interface.weight.new_zeros(shape, dtype=self.state_dtype)

    def complete_state(self, state: DNCState | None, batch_size: int) -> DNCState:
        """Check a state given by the user, and put zeros where it has None.

        Raises:
            TypeError: `state` is not a `DNCState`, or a part is of the wrong type.
            ValueError: a part's shape, dtype or device does not fit the model and the batch.
        """
        if state is None:
            return self.zero_state(batch_size)
        controller, memory, read_vectors = state
        if memory is None:
            memory = self._zero_memory(batch_size)
        if controller is None:
            controller = self.controller.zero_state(batch_size)
        if read_vectors is None:
            read_vectors = self._zero_read_vectors(batch_size)
        given, expected = linkage_of(memory.link), self.config.linkage
        num_cells = check_memory_state(memory).num_cells
        if given != expected:
            raise ValueError(
                f"state.memory.link must be of linkage {expected!r} like the model's, got that of "
                f"{given!r}"
            )
        zero_memory = self._zero_memory(batch_size, num_cells, "meta")
        if isinstance(memory.link, SeparableLink):  # of any number of writes
            zero_memory = zero_memory._replace(link=map_tensors(_on_meta, memory.link))
        zeros = DNCState(
            self.controller.zero_state(batch_size),
            zero_memory,
            self._zero_read_vectors(batch_size),
        )
        state = DNCState(controller, memory, read_vectors)
        for field in ("memory", "read_vectors", "controller"):
            self._check_state_part(field, state, zeros, batch_size)
        return state

    def _check_state_part(
        self, field: str, state: DNCState, zeros: DNCState, batch_size: int
    ) -> None:
        """Raise unless a field of a state has the shapes and dtypes of `zeros`, on our device."""
        whole, expected = getattr(state, field), getattr(zeros, field)
        try:
            shapes = map_tensors(lambda tensor: tuple(tensor.shape), whole)
        except TypeError as error:
            raise TypeError(f"state.{field} is not a state: {error}") from None
        expected_shapes = map_tensors(lambda tensor: tuple(tensor.shape), expected)
        if shapes != expected_shapes:
            raise ValueError(
                f"state.{field} must have shapes {expected_shapes} for a batch of {batch_size}, "
                f"got {shapes}"
            )
        device = self.interface.weight.device
        for part, zero in zip(tensors(whole), tensors(expected), strict=True):
            if part.device != device:
                raise ValueError(
                    f"state.{field} must be on {device} like the model, got {part.device}; "
                    f"state.to({str(device)!r}) moves it"
                )
            if part.dtype != zero.dtype:
                raise ValueError(
                    f"state.{field} must be {zero.dtype} in this model, got {part.dtype}; "
                    + (
                        f"cast each of its tensors with .to({zero.dtype})"
                        if field == "controller"
                        else f"state.{field}.to({zero.dtype}) casts it"
                    )
                )

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as when the module was made."""
        for part in (self.controller, self.interface, self.output):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        self._scale_inputs()

    def _scale_inputs(self) -> None:
        """Let parameters that were just drawn start with `input_gain`."""
        if self.config.input_gain != 1:  # so the controller is one of ours
            self.controller.scale_inputs(self.config.input_size, self.config.input_gain)

    def forward(self, input: Tensor, state: DNCState | None = None) -> tuple[Tensor, DNCState]:
        """One step.

        Args:
            input: x_t, (B, X), or (X) with a state that has no batch axis either.
            state: from the step before; None for zeros.

        Returns:
            output y_t, (B, Y) or (Y), and the state after the step.

        Raises:
            TypeError, ValueError: an argument's type, shape, dtype or device does not fit.
        """
        weight = self.interface.weight
        check_tensor("input", input, weight.device, weight.dtype)
        if input.dim() not in (1, 2) or input.shape[-1] != self.config.input_size:
            raise ValueError(
                f"input must have shape (B, {self.config.input_size}) or "
                f"({self.config.input_size},), got {tuple(input.shape)}"
            )
        check_state_type(state)
        unbatched = input.dim() == 1
        if unbatched:
            input = input.unsqueeze(0)
            state = map_tensors(lambda tensor: tensor.unsqueeze(0), state)
        state = self.complete_state(state, input.shape[0])
        if self.config.linkage == "dense":
            features, state = self.step(input, state)
        else:
            features, state = self.run(input, [len(input)], state, None)
        output = self.output(features)
        if unbatched:
            return output.squeeze(0), map_tensors(lambda tensor: tensor.squeeze(0), state)
        return output, state

    def step(
        self, inputs: Tensor, state: DNCState, trace: list[Trace] | None = None
    ) -> tuple[Tensor, DNCState]:
        """One step without checks and without the output layer.

        Args:
            inputs: x_t, (B, X).
            state: complete, as from `complete_state`.
            trace: where to put what the step did, if wanted.

        Returns:
            [h_t^1; ...; h_t^L; r_t], (B, L H + R W), and the state after the step.
        """
        assert state.read_vectors is not None and state.memory is not None
        last_read = state.read_vectors.flatten(1).to(inputs.dtype)
        hidden, controller_state = self.controller(
            torch.cat([inputs, last_read], dim=-1), state.controller
        )
        if autocasts(inputs.device):  # what is carried keeps the model's dtype
            dtype = self.interface.weight.dtype
            controller_state = map_tensors(lambda tensor: tensor.to(dtype), controller_state)
        vector, options = self.interface(hidden), self.config.step_options
        if trace is None:
            read_vectors, memory = unchecked_step(
                vector, state.memory, self.config.backend, options
            )
        else:  # whatever the backend, only the reference shows what it weighs
            read_vectors, memory, interface, weightings = inspected_step(
                vector, state.memory, options
            )
            trace.append(trace_step(interface, weightings, memory, read_vectors))
        features = torch.cat([hidden, read_vectors.flatten(1).to(hidden.dtype)], dim=-1)
        return features, DNCState(controller_state, memory, read_vectors)

    def run(
        self, rows: Tensor, batch_sizes: list[int], state: DNCState, trace: list[Trace] | None
    ) -> tuple[Tensor, DNCState]:
        """Whole sequences, by the fastest way that the backend and the dtypes allow.

        Args:
            rows: (sum of batch_sizes, X), step after step.
            batch_sizes: how many sequences each step still has; never grows.
            state: complete, before the first step.
            trace: where to put what each step did, if wanted.

        Returns:
            features (rows, L H + R W), and the state of each sequence after its own last step.
        """
        backend = resolve_backend(self.config.backend, rows.device, self.state_dtype)
        precision = run_precision(self.interface.weight, rows, self.state_dtype)
        plain = type(self.interface) is nn.Linear and is_plain(self) and is_plain(self.interface)
        if precision is not None and precision.half is not None:
            # A controller of your own is called where torch's autocast reaches it.
            plain = plain and is_built_in(self.controller)
        plain = plain and not self.config.dense_and_cut
        if backend == "reference" or trace is not None or not plain or precision is None:
            return unroll(partial(self.step, trace=trace), rows, batch_sizes, state)
        plan = Plan(
            primitives=primitives(backend),
            options=self.config.step_options,
            parts=None if self.config.linkage == "dense" else composed_parts(backend),
            in_place=self.config.in_place,
            interval=self.config.checkpoint_interval,
            checkpoint_dtype=self.config.checkpoint_dtype,
            precision=precision,
            capture=self.config.cuda_graphs,
        )
        return run_checkpointed(self.controller, self.interface, rows, batch_sizes, state, plan)

    def memory_report(self, batch_size: int, steps: int) -> MemoryReport:
        """See `DNC.memory_report`."""
        config, weight = self.config, self.interface.weight
        backend = resolve_backend(config.backend, weight.device, self.state_dtype)
        if backend == "reference" or config.dense_and_cut:
            cut = "dense links with read_topk or write_topk"
            way = cut if config.dense_and_cut else '"reference"'
            raise ValueError(
                'memory_report is of the engine, of backend "cpu", "eager" or "triton"; got '
                f"{way}, which keeps what autograd keeps: several link matrices for every step"
            )
        sizes = MemorySizes(
            batch_size,
            config.num_cells,
            config.cell_size,
            config.num_read_heads,
            config.num_write_heads,
        )
        itemsize = self.state_dtype.itemsize
        interval = config.checkpoint_interval or checkpoint_interval(
            steps, sizes, itemsize, config.linkage == "dense", config.in_place
        )
        cut_heads = config.num_write_heads if config.in_place else 0
        if config.in_place and config.read_topk is not None:
            cut_heads += config.num_read_heads
        kept = getattr(self.controller, "kept_numbers", None)
        return memory_report(
            steps=steps,
            sizes=sizes,
            interval=interval,
            eager=backend == "eager",
            itemsize=weight.element_size(),
            state_itemsize=itemsize,
            checkpoint_itemsize=(config.checkpoint_dtype or self.state_dtype).itemsize,
            interface_size=config.interface_size,
            controller_numbers=0 if kept is None else kept(),
            features=self.output.in_features,
            output_size=self.output.out_features,
            parameters=sum(p.numel() for p in self.parameters() if p.requires_grad),
            linkage=config.linkage,
            fan_out=config.link_fan_out,
            in_place=config.in_place,
            cut_heads=cut_heads,
        )

    def extra_repr(self) -> str:
        return describe(self.config)


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
            only, and made anew in between. None for 1 where all steps' link matrices take at most
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

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        num_cells: int = 64,
        cell_size: int = 32,
        num_read_heads: int = 4,
        num_write_heads: int = 1,
        output_size: int | None = None,
        controller: str | nn.Module | Callable[[int], nn.Module] = "lstm",
        activation_clip: float | None = None,
        input_gain: float = 1.0,
        usage_order: str = "exact",
        linkage: str = "dense",
        link_fan_out: int = 8,
        link_threshold: float | None = None,
        link_unit_sums: bool = False,
        link_history: int = 1024,
        read_topk: int | None = None,
        write_topk: int | None = None,
        state_dtype: torch.dtype | None = None,
        checkpoint_interval: int | None = None,
        checkpoint_dtype: torch.dtype | None = None,
        backend: str = "auto",
        cuda_graphs: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = DNCConfig(
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            num_cells=num_cells,
            cell_size=cell_size,
            num_read_heads=num_read_heads,
            num_write_heads=num_write_heads,
            output_size=output_size,
            controller=controller,
            activation_clip=activation_clip,
            input_gain=input_gain,
            usage_order=usage_order,
            linkage=linkage,
            link_fan_out=link_fan_out,
            link_threshold=link_threshold,
            link_unit_sums=link_unit_sums,
            link_history=link_history,
            read_topk=read_topk,
            write_topk=write_topk,
            state_dtype=state_dtype,
            checkpoint_interval=checkpoint_interval,
            checkpoint_dtype=checkpoint_dtype,
            backend=backend,
            cuda_graphs=cuda_graphs,
        )
        self._build(config, device, dtype)

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


def _on_meta(tensor: Tensor) -> Tensor:
    return tensor.to("meta")


def check_state_type(state: Any) -> None:
    """Raise unless a state given by the user is a `DNCState` or None."""
    if state is not None and not isinstance(state, DNCState):
        raise TypeError(
            f"state must be a DNCState or None, got {type(state).__name__}; a DNC's state is "
            "what an earlier call returned, or zero_state(batch_size)"
        )


def describe(config: DNCConfig) -> str:
    """The sizes, and the options that are not at their defaults, for a module's repr."""
    shown = [f"{config.input_size}, {config.hidden_size}"]
    for name, field in DNCConfig.__dataclass_fields__.items():
        value = getattr(config, name)
        if name in ("num_cells", "cell_size", "num_read_heads") or (
            name not in ("input_size", "hidden_size") and value != field.default
        ):
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)
