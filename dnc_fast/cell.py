"""`DNCCell`: one time step of a DNC. It also runs whole sequences, for `DNC`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .backends import inspected_step, resolve_backend, unchecked_step
from .checks import autocasts, check_tensor
from .config import OPTION_NAMES, DNCConfig, describe
from .controllers import call_controller, zero_state
from .engine import (
    InterfaceForm,
    InterfaceTensors,
    MemoryReport,
    Plan,
    Start,
    has_tape,
    interface_is_plain,
    is_plain,
    memory_report,
    rehearse_batch,
    run_alone,
    run_sequences,
    sequences_operation,
    unroll,
)
from .given_state import check_like, check_memory, check_state_type
from .linkages import LINKAGES, linkage_of
from .opaque import is_traced, refuse_jit_script, refuse_jit_trace
from .options import read_options, takes_options
from .precision import Precision, run_precision
from .sequences import Sequences, add_batch_axis
from .state import DNCState, MemoryState, map_tensors
from .trace import Trace, trace_step

OF_SEQUENCES = ("batch_first", "bidirectional", "bidirectional_controller")
"""Options for whole sequences; a cell does not have them."""


class DNCCell(nn.Module):
    """One time step of a Differentiable Neural Computer (Graves et al., Nature 2016).

    Used like nn.LSTMCell: `output, state = cell(x, state)`. The arguments are those of `DNC`.
    """

    @takes_options(DNCConfig, OPTION_NAMES, without=OF_SEQUENCES)
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        also = ("device", "dtype")
        given = {"bias": bias, **options}
        config = read_options(
            DNCConfig, input_size, hidden_size, given=given, also=also, without=OF_SEQUENCES
        )
        config.warn_of_idle_options()
        self._build(config, device, dtype)

    @classmethod
    def from_config(
        cls,
        config: DNCConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DNCCell:
        """Build a cell from a checked configuration."""
        cell = cls.__new__(cls)
        cell._build(config, device, dtype)
        return cell

    def _build(
        self, config: DNCConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype must be a floating-point dtype, got {dtype!r}")
        self.config = config
        where: Any = {"device": device, "dtype": dtype}
        self.controller = config.make_controller(config.input_size + config.read_size, **where)
        self.reverse_controller = None
        if config.bidirectional_controller:
            self.reverse_controller = config.make_controller(config.input_size, **where)
        features = sum(part.output_size for part in self._controllers)
        self.interface = nn.Linear(features, config.interface_size, config.bias, **where)
        self.interface_norm = None
        if config.interface_norm:
            self.interface_norm = nn.LayerNorm(config.interface_size, **where)
        self.output = nn.Linear(
            features + config.read_size,
            config.output_size or config.hidden_size,
            config.bias,
            **where,
        )
        self._scale_inputs()

    @property
    def _controllers(self) -> list[Any]:
        """The controller, and that from the end if there is one."""
        reverse = self.reverse_controller
        return [self.controller] if reverse is None else [self.controller, reverse]

    @property
    def like(self) -> Tensor:
        """A tensor with the device and the dtype of the parameters."""
        weight = self.interface.weight
        # torch's dynamic quantization replaces it by a function, and runs in float32 on a CPU.
        return weight if isinstance(weight, Tensor) else torch.empty(0, device="cpu")

    @property
    def state_dtype(self) -> torch.dtype:
        """Dtype of the memory; by default float64 in a double model, otherwise float32."""
        if self.config.state_dtype is not None:
            return self.config.state_dtype
        return torch.float64 if self.like.dtype == torch.float64 else torch.float32

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> DNCState:
        """The state before the first step: all zeros.

        Args:
            batch_size: B.
            num_cells: N; may differ from the model's, since the parameters do not depend on it.
        """
        memory = self._zero_memory(batch_size, num_cells)  # first, since it checks both
        reads = self._zero_read_vectors(batch_size)
        return DNCState(self._zero_controller(batch_size), memory, reads)

    def _zero_controller(self, batch_size: int) -> Any:
        return zero_state(self.controller, batch_size, self.like)

    def _zero_memory(self, batch_size: int, num_cells: int | None = None) -> MemoryState:
        config, sizes = self.config, self.config.memory_sizes(batch_size, num_cells)
        return MemoryState.zeros(
            *sizes,
            linkage=config.linkage,
            link_fan_out=config.link_fan_out,
            dtype=self.state_dtype,
            device=self.like.device,
        )

    def _zero_read_vectors(self, batch_size: int) -> Tensor:
        shape = (batch_size, self.config.num_read_heads, self.config.cell_size)
        return self.like.new_zeros(shape, dtype=self.state_dtype)

    def complete_state(self, state: DNCState | None, batch_size: int) -> DNCState:
        """Check a user's state, and replace each None by zeros.

        Raises:
            TypeError: `state` is not a `DNCState`, or a part is of the wrong type.
            ValueError: a part's shape, dtype or device does not match the model and the batch.
        """
        if state is None:
            return self.zero_state(batch_size)
        controller, memory, read_vectors = state
        zero_controller = self._zero_controller(batch_size)
        zero_reads = self._zero_read_vectors(batch_size)
        if memory is None:
            memory = self._zero_memory(batch_size)
        else:
            check_memory(memory, self.config, batch_size, self.like.device, self.state_dtype)
        read_vectors = zero_reads if read_vectors is None else read_vectors
        controller = zero_controller if controller is None else controller
        check_like("read_vectors", read_vectors, zero_reads, batch_size)
        check_like("controller", controller, zero_controller, batch_size)
        return DNCState(controller, memory, read_vectors)

    def reset_parameters(self) -> None:
        """Draw new initial values for all parameters, as at construction."""
        for part in (*self._controllers, self.interface, self.interface_norm, self.output):
            if hasattr(part, "reset_parameters"):
                part.reset_parameters()
        self._scale_inputs()

    def _scale_inputs(self) -> None:
        """Apply `input_gain` to freshly drawn parameters."""
        if self.config.input_gain != 1:  # only with a built-in controller
            for part in self._controllers:
                part.scale_inputs(self.config.input_size, self.config.input_gain)

    def forward(
        self, input: Tensor, state: DNCState | None = None, *, memory: bool = True
    ) -> tuple[Tensor, DNCState]:
        """One step.

        Args:
            input: x_t, (B, X); or (X), with a state without a batch axis.
            state: from the previous step; None for zeros.
            memory: see `DNC.forward`.

        Returns:
            output y_t, (B, Y) or (Y), and the state after the step.

        Raises:
            TypeError, ValueError: an argument is invalid, or a controller runs from the end.
        """
        refuse_jit_trace()
        weight = self.like
        if self.reverse_controller is not None:
            raise ValueError(
                "a cell must have bidirectional_controller=False to be called step by step, got "
                "True: the second controller begins at the last input; call the DNC"
            )
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
            state = add_batch_axis(state)
        state = self.complete_state(state, input.shape[0])
        step = self.step if memory and input.shape[0] else self._step_without_memory
        features, state = step(input, state)
        output = self.outputs(features)
        if unbatched:
            return output.squeeze(0), map_tensors(lambda tensor: tensor.squeeze(0), state)
        return output, state

    def outputs(self, features: Tensor) -> Tensor:
        """The output layer: y of features (..., F) as from `step`."""
        clip, dropout = self.config.value_clip, self.config.bypass_dropout
        if dropout and self.training:
            hidden, reads = features.tensor_split((-self.config.read_size,), dim=-1)
            features = torch.cat([nn.functional.dropout(hidden, dropout), reads], dim=-1)
        output = self.output(features)
        return output if clip is None else output.clamp(-clip, clip)

    def step(
        self, inputs: Tensor, state: DNCState, trace: list[Trace] | None = None
    ) -> tuple[Tensor, DNCState]:
        """One step without checks and without the output layer.

        Args:
            inputs: x_t, (B, X), followed by what the controller from the end puts out, if any.
            state: complete, as from `complete_state`.
            trace: if given, the step's trace is appended to it.

        Returns:
            features [h_t^1; ...; h_t^L; r_t], (B, L H + R W), with what the controller from the end
            puts out before r_t, and the state after the step.
        """
        assert state.read_vectors is not None and state.memory is not None
        hidden, controller_state = self._control(inputs, state.read_vectors, state.controller)
        vector, options = self._vector(hidden), self.config
        if trace is None:
            read_vectors, memory = unchecked_step(
                vector, state.memory, self.config.backend, options
            )
        else:  # only the reference returns its weightings
            read_vectors, memory, interface, weightings = inspected_step(
                vector, state.memory, options
            )
            trace.append(trace_step(interface, weightings, memory, read_vectors))
        features = torch.cat([hidden, read_vectors.flatten(1).to(hidden.dtype)], dim=-1)
        return features, DNCState(controller_state, memory, read_vectors)

    def _step_without_memory(self, inputs: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
        """One step as in `step` that reads zeros and writes nothing."""
        reads = self._zero_read_vectors(inputs.shape[0])
        hidden, controller = self._control(inputs, reads, state.controller)
        if not inputs.shape[0]:  # an empty batch, of which the interface layer gets gradients too
            reads = reads + self._vector(hidden).sum().to(reads.dtype)
        features = torch.cat([hidden, reads.flatten(1).to(hidden.dtype)], dim=-1)
        return features, DNCState(controller, state.memory, reads)

    def _control(self, inputs: Tensor, reads: Tensor, state: Any) -> tuple[Tensor, Any]:
        """What the controllers put out at a step, (B, F - R W), and the controller's state."""
        two, X = self.reverse_controller is not None, self.config.input_size
        x = inputs[:, :X] if two else inputs
        seen = torch.cat([x, reads.flatten(1).to(x.dtype)], dim=-1)
        hidden, state = self._called(self.controller, seen, state)
        if two:
            hidden = torch.cat([hidden, inputs[:, X:].to(hidden.dtype)], dim=-1)
        return hidden, state

    def _vector(self, hidden: Tensor) -> Tensor:
        """The interface vector, before its activations."""
        vector = self.interface(hidden)
        return vector if self.interface_norm is None else self.interface_norm(vector)

    def _called(self, controller: Any, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of a controller."""
        hidden, state = call_controller(controller, inputs, state)
        if autocasts(inputs.device):  # the state keeps the model's dtype
            dtype = self.like.dtype
            state = map_tensors(lambda tensor: tensor.to(dtype), state)
        return hidden, state

    def _ahead(
        self, rows: Tensor, sequences: Sequences, reversal: Tensor | None, plan: Plan | None
    ) -> Tensor | None:
        """What the controller from the end puts out, (rows, size); by autograd without a plan."""
        controller = self.reverse_controller
        if controller is None:
            return None
        assert reversal is not None
        rows, zeros = rows[reversal], zero_state(controller, sequences.batch_size, self.like)
        if plan is not None and has_tape(controller):
            return run_alone(controller, rows, sequences.batch_sizes, zeros, plan)[reversal]

        def step(inputs: Tensor, state: DNCState) -> tuple[Tensor, DNCState]:
            hidden, after = self._called(controller, inputs, state.controller)
            return hidden, DNCState(after)

        return unroll(step, rows, sequences, DNCState(zeros))[0][reversal]

    def _with_ahead(self, rows: Tensor, sequences: Sequences, reversal: Tensor | None) -> Tensor:
        """The inputs of `step` at all steps."""
        ahead = self._ahead(rows, sequences, reversal, None)
        return rows if ahead is None else torch.cat([rows, ahead.to(rows.dtype)], dim=-1)

    def run(
        self,
        rows: Tensor,
        sequences: Sequences,
        state: DNCState | None,
        trace: list[Trace] | None,
        memory: bool = True,
        reversal: Tensor | None = None,
    ) -> tuple[Tensor, DNCState]:
        """Run whole sequences, as fast as the backend and the dtypes allow.

        Args:
            rows: those of the sequences, one step after another, in either direction.
            sequences: how many rows each step has.
            state: complete, before the first step; None for zeros.
            trace: if given, each step's trace is appended to it.
            memory: whether to use the memory, see `DNC.forward`.
            reversal: the order of rows that reverses each sequence, for a controller from the end.

        Returns:
            features as from `step`, (rows, F), and each sequence's state after its own last step.
        """
        B = sequences.batch_size
        if not memory or not B:
            rows = self._with_ahead(rows, sequences, reversal)
            state = self.zero_state(B) if state is None else state
            return unroll(self._step_without_memory, rows, sequences, state)
        backend = resolve_backend(self.config.backend, rows.device, self.state_dtype)
        precision = run_precision(self.like, rows, self.state_dtype)
        recorded = is_traced() and sequences.sizes is None
        inspected = backend == "reference" or trace is not None or _is_quick(sequences, precision)
        if inspected or not self._is_plain(precision, recorded):
            rows = self._with_ahead(rows, sequences, reversal)
            state = self.zero_state(B) if state is None else state
            return unroll(partial(self.step, trace=trace), rows, sequences, state)
        assert precision is not None
        if recorded:
            interface = InterfaceTensors.of(self.interface, self.interface_norm, None)
            state = self.zero_state(B) if state is None else state
            parts = self.controller, interface, rows
            return sequences_operation(*parts, state, self.config, backend, precision.half)
        start, plan = self._start(state, B), Plan.of(self.config, backend, precision)
        ahead = self._ahead(rows, sequences, reversal, plan)
        interface = InterfaceTensors.of(self.interface, self.interface_norm, ahead)
        parts = self.controller, interface, rows
        features, final = run_sequences(*parts, sequences.batch_sizes, start, plan)
        if ahead is not None:
            hidden, reads = features.tensor_split((-self.config.read_size,), dim=-1)
            features = torch.cat([hidden, ahead.to(hidden.dtype), reads], dim=-1)
        return features, final

    def _is_plain(self, precision: Precision | None, recorded: bool) -> bool:
        """Whether the engine may run the cell's parts itself, in a precision that it supports.

        recorded: as one operation.
        """
        plain = is_plain(self) and interface_is_plain(self.interface, self.interface_norm)
        if precision is None or not plain:
            return False
        if not recorded and precision.half is None:
            return True
        # A custom controller is no part of an operation, and must run under torch's own autocast;
        # an operation draws no random numbers, and has no controller that runs from the end.
        if not (recorded and has_tape(self.controller)):
            return has_tape(self.controller)
        return self.reverse_controller is None and not (self.training and self.controller.dropout)

    def _start(self, state: DNCState | None, batch_size: int) -> Start:
        """The state before the first step; its number of cells may differ from the model's."""
        zeros = partial(self.zero_state, batch_size)
        if state is None:
            sizes, link = self.config.memory_sizes(batch_size), LINKAGES[self.config.linkage]
        else:
            assert state.memory is not None
            sizes, link = state.memory.sizes, linkage_of(state.memory.link)
        return Start(state, sizes, link.is_matrix, zeros)

    def rehearse(self, batch_size: int, half: torch.dtype | None = None) -> None:
        """Make the launches of training and inference by backend "triton" on tensors without data.

        Args:
            batch_size: B.
            half: of the controller's products; None for full precision. The cell is on "meta".
        """
        plan = Plan.of(self.config, "triton", Precision(self.state_dtype, half))
        state, X = self.zero_state(batch_size), self.config.input_size
        interface = self.interface, self.interface_norm
        for keep in (False, True):
            rehearse_batch(self._controllers, interface, plan, state, X, keep)

    def memory_report(self, batch_size: int, steps: int) -> MemoryReport:
        """See `DNC.memory_report`."""
        config, weight = self.config, self.like
        backend = resolve_backend(config.backend, weight.device, self.state_dtype)
        if backend == "reference":
            raise ValueError(
                'memory_report needs backend "cpu", "eager" or "triton", which use the engine; got '
                '"reference", which keeps what autograd keeps: several link matrices for every step'
            )
        kept = [getattr(part, "kept_numbers", int)() for part in self._controllers]
        return memory_report(
            Plan.of(config, backend, Precision(self.state_dtype)),
            config.memory_sizes(batch_size),
            LINKAGES[config.linkage],
            weight.device,
            steps=steps,
            fan_out=config.link_fan_out,
            state_dtype=self.state_dtype,
            itemsize=weight.element_size(),
            controller_numbers=sum(kept),
            interface=InterfaceForm(True, config.bidirectional_controller, config.interface_norm),
            features=self.output.in_features,
            output_size=self.output.out_features,
            parameters=sum(p.numel() for p in self.parameters() if p.requires_grad),
        )

    __prepare_scriptable__ = refuse_jit_script

    def extra_repr(self) -> str:
        return describe(self.config)


def _is_quick(sequences: Sequences, precision: Precision | None) -> bool:
    """Whether there is one step only, on a CPU: it takes less time than the engine's buffers do."""
    if is_traced() or precision is None or precision.half is not None:
        return False
    return sequences.steps == 1 and sequences.rows.device.type == "cpu"
