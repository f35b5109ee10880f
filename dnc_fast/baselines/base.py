"""What all baselines share: options, checks, forms of input, and a state that starts at zero.

Letters: B batch, T steps, X input size, Y output size, H hidden size, L layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.serialization import add_safe_globals

from ..checks import check_choice, check_flag, check_integer, check_number
from ..options import option, read_options
from ..sequences import Sequences
from ..state import map_tensors, reset_rows, tensors


@dataclass(frozen=True)
class BaselineConfig:
    """The options that every baseline has; those with a help text are command-line options too.

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    input_size: int
    output_size: int
    hidden_size: int = option(64, "size of each layer")
    batch_first: bool = False

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(one.default, str):
                check_choice(one.name, value, one.metadata["choices"])
            elif isinstance(one.default, bool):
                check_flag(one.name, value)
            elif isinstance(one.default, float):
                check_number(one.name, value, 0.0, one.metadata.get("maximum", 1.0))
            else:
                check_integer(one.name, value, one.metadata.get("minimum", 1))

    @property
    def hidden_step(self) -> int:
        """hidden_size must be a multiple of this."""
        return 1

    def check_hidden_step(self) -> None:
        """Raise unless hidden_size is a multiple of `hidden_step`."""
        if self.hidden_size % self.hidden_step:
            raise ValueError(
                f"hidden_size must be a multiple of {self.hidden_step} for these heads, got "
                f"{self.hidden_size}"
            )


class BaselineState(NamedTuple):
    """What a baseline carries from call to call, by name; the batch is the first axis of each.

    Zeros are the state before the first step.
    """

    parts: dict[str, Tensor]

    def detach(self) -> BaselineState:
        """The same values, detached from the graph (for truncated backpropagation)."""
        return map_tensors(Tensor.detach, self)

    def to(self, *args: Any, **kwargs: Any) -> BaselineState:
        """Every tensor moved or cast as by `Tensor.to`."""
        return map_tensors(lambda tensor: tensor.to(*args, **kwargs), self)

    def reset_rows(self, mask: Tensor) -> BaselineState:
        """The state with zeros for some sequences, those that start over.

        Args:
            mask: (B,), bool; True for each sequence to reset.

        Raises:
            ValueError: `mask` is not a bool tensor (B,).
        """
        return reset_rows(mask, 0, self)

    def slice_batch(self, rows: slice | Tensor) -> BaselineState:
        """The batch elements that a slice or an index tensor selects."""
        return map_tensors(lambda tensor: tensor[rows], self)


class Baseline(nn.Module, ABC):
    """A model that is called as `DNC` is: `output, state = model(x, state)`.

    Options are those of its `Config`, as keyword arguments. x is (T, B, X), or (B, T, X) with
    `batch_first`, or unbatched (T, X); the output has Y features. A sequence that is cut, and goes
    on from the state, gives the same outputs as a whole one.

    A subclass has `build`, `state_shapes` and `run`.

    Raises:
        TypeError, ValueError: an option has the wrong type or value.
    """

    Config: ClassVar[Callable[..., Any]] = BaselineConfig

    fixed_cells: ClassVar[bool] = False
    """Whether it runs only with the number of cells that it was made with."""

    def __init__(
        self,
        *arguments: Any,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.config = read_options(self.Config, *arguments, given=options)
        with nullcontext() if device is None else torch.device(device):
            self.build(self.config)
        self.to(dtype=dtype)

    @classmethod
    def from_config(
        cls,
        config: BaselineConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Baseline:
        """Build a model from a checked configuration."""
        return cls(device=device, dtype=dtype, **vars(config))

    @abstractmethod
    def build(self, config: Any) -> None:
        """Make the layers."""

    @abstractmethod
    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        """The shape of each part of the state before the first step, without the batch.

        Args:
            num_cells: memory cells; None for the model's own. Only models that have cells look.
        """

    @abstractmethod
    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """From inputs (T, B, X) and state to outputs (T, B, Y) and the state after them."""

    def units(self, state: BaselineState) -> tuple[Tensor, ...]:
        """The hidden state of the last layer, and the cell state if there is one, (B, H) each."""
        return ()

    def zero_state(self, batch_size: int, num_cells: int | None = None) -> BaselineState:
        """The state before the first step.

        Args:
            batch_size: B.
            num_cells: memory cells, for models that have them; None for the model's own.

        Raises:
            ValueError: the model has no cells, but `num_cells` is given.
        """
        if num_cells is not None and not hasattr(self.config, "num_cells"):
            raise ValueError(
                f"num_cells must be None for a {type(self).__name__}, which has no cells, got "
                f"{num_cells}"
            )
        like = next(self.parameters())
        shapes = self.state_shapes(num_cells)
        return BaselineState(
            {name: like.new_zeros(batch_size, *shape) for name, shape in shapes.items()}
        )

    def forward(
        self, input: Tensor, state: BaselineState | None = None
    ) -> tuple[Tensor, BaselineState]:
        """Run a batch of whole sequences, or the next part of it.

        Args:
            input: (T, B, X), or (B, T, X) with batch_first, or unbatched (T, X).
            state: from an earlier call or `zero_state`; None for zeros. No B when unbatched.

        Returns:
            output: in the form of the input, with Y features.
            state: after the last step.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, dtype or device, or (on
                a CPU) the input is not finite.
        """
        config = self.config
        like = next(self.parameters())
        sequences = Sequences.of(input, config.input_size, config.batch_first, like)
        if sequences.packed is not None:
            raise TypeError(
                f"input of a {type(self).__name__} must be a tensor, got a PackedSequence; pad it "
                "with torch.nn.utils.rnn.pad_packed_sequence"
            )
        if state is None:
            state = self.zero_state(sequences.batch_size)
        else:
            state = sequences.with_batch(state)
            self._check_state(state, sequences.batch_size)
        x = sequences.rows.unflatten(0, (sequences.steps, sequences.batch_size))
        output, parts = self.run(x, state.parts)
        restored: Any = sequences.restore(output.flatten(0, 1))
        return restored, sequences.restore_state(BaselineState(parts))

    def _check_state(self, state: Any, batch_size: int) -> None:
        """Raise unless a state is one of this model, with B sequences."""
        names = tuple(self.state_shapes(None))
        if not isinstance(state, BaselineState) or tuple(state.parts) != names:
            got = tuple(state.parts) if isinstance(state, BaselineState) else type(state).__name__
            raise TypeError(
                f"state must be a BaselineState with the parts {names}, got {got}; take one from "
                "an earlier call or from zero_state"
            )
        sizes = {tensor.shape[0] for tensor in tensors(state)}
        if sizes != {batch_size}:
            raise ValueError(
                f"state must have {batch_size} sequences, as the input has, got {sorted(sizes)}"
            )


class WholePast(Baseline):
    """A baseline that looks at all inputs so far again: its state is these inputs.

    So a call takes time for the whole past, and nothing of it is cut off by `detach`. A subclass
    has `build` and `answer`.
    """

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        return {"inputs": (0, self.config.input_size), "seen": (0,)}

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        steps, batch_size, _ = x.shape
        inputs = torch.cat([parts["inputs"], x.transpose(0, 1).to(parts["inputs"])], dim=1)
        seen = torch.cat([parts["seen"], parts["seen"].new_ones(batch_size, steps)], dim=1)
        outputs = self.answer(inputs.transpose(0, 1), seen.t() > 0)[-steps:]
        return outputs, {"inputs": inputs, "seen": seen}

    @abstractmethod
    def answer(self, inputs: Tensor, seen: Tensor) -> Tensor:
        """From the inputs of all steps to their outputs; none depends on later steps.

        Args:
            inputs: (T, B, X).
            seen: (T, B), bool; False for steps before a sequence began, which must not count.

        Returns:
            (T, B, Y).
        """


class AnswersLast(WholePast):
    """A baseline that reads a source whole and then answers; a subclass has `build` and `respond`.

    The source ends with the last input that is not zero; each step after it is answered. Before
    that outputs are zero.
    """

    def answer(self, inputs: Tensor, seen: Tensor) -> Tensor:
        steps, batch_size, _ = inputs.shape
        zeros = inputs.new_zeros(steps, batch_size, self.config.output_size)
        count = torch.arange(1, steps + 1, device=inputs.device).unsqueeze(1)
        ends = (count * (inputs.any(-1) & seen)).amax(0)
        begins = torch.where(seen, count, steps + 1).amin(0) - 1
        answers = steps - int(ends.min()) if batch_size else 0
        if not answers:
            return zeros + 0 * next(self.parameters()).sum()  # so that it has a gradient
        places = (begins + count - 1).clamp(max=steps - 1)
        source = inputs.gather(0, places.unsqueeze(-1).expand_as(inputs))
        said = self.respond(source, (ends - begins).clamp(min=1), answers)
        place = (count - 1 - ends).unsqueeze(-1)  # of each step, which of the answers it has
        chosen = said.gather(0, place.clamp(0, answers - 1).expand_as(zeros))
        return torch.where(place >= 0, chosen, zeros)

    @abstractmethod
    def respond(self, source: Tensor, lengths: Tensor, steps: int) -> Tensor:
        """The answers, (steps, B, Y).

        Args:
            source: (S, B, X).
            lengths: (B), int64, steps of each source, at least 1.
            steps: how many answers.
        """


# So that torch.load loads saved states with its default, weights_only=True.
add_safe_globals([BaselineState])
