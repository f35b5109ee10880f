"""`DNC`, `SAM` and `SDNC`: the models of pytorch-dnc by its own names."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..checks import check_flag
from ..options import arguments_of, read_options
from ..sequences import Sequences
from ..state import DNCState
from .arguments import DNCArguments, SAMArguments, SDNCArguments
from .debug import join_looks
from .stage import Stage
from .states import read_states, write_states


class DNC(nn.Module):
    """pytorch-dnc's `DNC`: `output, (controller_hidden, memory, read_vectors) = dnc(x, hx)`.

    Every layer is a DNC of this package: a controller of `num_hidden_layers` layers around a
    memory. docs/migration.md lists what differs from pytorch-dnc, and why.

    Args:
        input_size: X, features of each step's input, and of its output.
        hidden_size: H, size of each of the controllers' hidden layers.
        rnn_type: "lstm", "gru" or "rnn".
        num_layers: layers, each with a controller; between layers there are H features.
        num_hidden_layers: hidden layers of each controller; each sees the layer's input, the read
            vectors and the hidden layer below.
        bias: whether controllers, interface and output layers have biases.
        batch_first: tensors are (B, T, X) instead of (T, B, X).
        dropout: probability of dropout between hidden layers.
        bidirectional: only False.
        nr_cells: N, memory cells.
        read_heads: R.
        cell_size: W, size of a memory cell.
        nonlinearity: "tanh" or "relu", of rnn_type="rnn".
        gpu_id: which CUDA device; -1 for the CPU.
        independent_linears: has no effect: a layer for each part of the interface is the same
            function, with the same initial distribution, as one layer for all.
        share_memory: whether the layers write to one memory and read from it, in turn at each step;
            otherwise each has its own. It runs step by step with more than one layer.
        debug: also return what each step left in the memory; runs step by step.
        clip: clip what controllers output to [-clip, clip]; 0 for not at all.
        share_memory_between_layers: pytorch-dnc 2.0's name of share_memory.
        device: its way to give the device, instead of gpu_id.

    Raises:
        TypeError, ValueError: an argument is unknown, or has the wrong type or value.
    """

    @arguments_of(DNCArguments, ())
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._build(DNCArguments, arguments, named)

    def _build(self, kind: type[DNCArguments], values: Any, named: dict[str, Any]) -> None:
        super().__init__()
        arguments = read_options(kind, *values, given=named)
        arguments.warn_of_idle_arguments()
        self.arguments = arguments
        for field in fields(arguments):
            if field.name != "share_memory":  # which is a method of nn.Module
                setattr(self, field.name, getattr(arguments, field.name))
        self.share_memory_between_layers = arguments.one_memory
        layers = arguments.layers()
        groups = [layers] if arguments.one_memory else [[layer] for layer in layers]
        self.stages = nn.ModuleList(Stage(group, arguments.parameter_device) for group in groups)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        reset_experience: bool = False,
        pass_through_memory: bool = True,
    ) -> Any:
        """Run a batch of whole sequences, or the next part of it.

        Args:
            input: (B, T, X), or (T, B, X) without batch_first, or a PackedSequence.
            hx: (controller_hidden, memory, read_vectors) from an earlier call; None, or None in a
                place of it, for zeros.
            reset_experience: start with an empty memory, whatever hx holds.
            pass_through_memory: False reads zeros and writes nothing.

        Returns:
            output: in the form of the input, X features.
            hx: after each sequence's own last step: controller_hidden is a list with (h, c), or h,
                for each layer, each (num_hidden_layers, B, H); memory a dict, see
                `dnc_fast.compat.states`, or a list of dicts if the layers do not share it, or if an
                argument of pytorch-dnc 2.0 was given; read_vectors (B, R W) of the last layer.
            debug: only with debug=True: a dict of NumPy arrays (T * num_layers, size), what each
                step left in the memory of the first sequence, by the keys of the memory.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, dtype or device, or (on
                a CPU) the input is not finite.
        """
        check_flag("reset_experience", reset_experience)
        check_flag("pass_through_memory", pass_through_memory)
        stages: list[Any] = list(self.stages)
        like = stages[0].cells[0].like
        sequences = Sequences.of(input, self.arguments.input_size, self.arguments.batch_first, like)
        if sequences.unbatched or (self.arguments.debug and not sequences.batch_size):
            raise ValueError(
                "input must have a batch axis, with debug=True at least one sequence, got rows "
                f"{tuple(sequences.rows.shape)} of {sequences.batch_size} sequences"
            )
        rows = sequences.rows
        ended: list[DNCState] = []
        looks: list[Any] = []
        place = _place_of_first(sequences)
        states = read_states(hx, self.arguments, sequences.batch_size)
        for stage, state in zip(stages, states, strict=True):
            if state is not None:
                state = state.reset("memory") if reset_experience else state
                state = sequences.sort_state(stage.complete_state(state, sequences.batch_size))
            looks.append([] if self.arguments.debug else None)
            rows, state = stage.run(rows, sequences, state, pass_through_memory, looks[-1], place)
            ended.append(sequences.restore_state(state))
        result = sequences.restore(rows), write_states(ended, self.arguments.memory_list)
        return (*result, join_looks(looks)) if self.arguments.debug else result


def _place_of_first(sequences: Sequences) -> int:
    """Where the first sequence of the input is among the rows of a step."""
    packed = sequences.packed
    if packed is None or packed.unsorted_indices is None or not sequences.batch_size:
        return 0
    return int(packed.unsorted_indices[0])


class SAM(DNC):
    """pytorch-dnc's `SAM`, Sparse Access Memory: reads and writes of few cells, and no links.

    A DNC with `linkage="none"` and cut weightings, see docs/large_memories.md: each head reads the
    `sparse_reads` cells whose read weights are largest, and each step writes to R sparse_reads + 1.

    Args:
        sparse_reads: cells that a read head reads.
        others: see `DNC`.
    """

    @arguments_of(SAMArguments, ())
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._build(SAMArguments, arguments, named)


class SDNC(DNC):
    """pytorch-dnc's `SDNC`, the Sparse DNC: reads and writes of few cells, and few links of each.

    A DNC with `linkage="sparse"` and cut weightings, see docs/large_memories.md: each head reads
    sparse_reads + 2 temporal_reads cells, and each step writes to R sparse_reads +
    2 temporal_reads + 1. Each row of the link matrix keeps its `temporal_reads` largest entries.

    Args:
        sparse_reads: cells that a read head reads by content.
        temporal_reads: cells that it reads after, and before, those that it read last.
        others: see `DNC`.
    """

    @arguments_of(SDNCArguments, ())
    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._build(SDNCArguments, arguments, named)
