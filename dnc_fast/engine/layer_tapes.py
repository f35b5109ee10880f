"""Controller layers over the steps of a batch, with hand-derived backward.

What a layer makes of x_t is computed for all steps at once before the loop (`x_part`), and the
gradients of its weights for all steps at once after it; only what depends on the step before stays
in the loop. A layer's `inputs` at a step are what it sees of [r_{t-1}; h_t^{l-1}; h_{t-1}^l].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.arrays import GRU, LSTM, PLAIN
from .precision import Precision
from .rows import Rows

sigmoid_backward = torch.ops.aten.sigmoid_backward
tanh_backward = torch.ops.aten.tanh_backward


class LayerBuffers(NamedTuple):
    """What is kept of every step: of one layer, or of all with a leading L. S: what a layer sees.

    | field    | shape                                           | precision |
    |----------|-------------------------------------------------|-----------|
    | inputs   | (step rows, S)                                  | half      |
    | active   | (step rows, gates H), activations               | full      |
    | cells    | (state rows, H), of an LSTM, else without rows  | full      |
    | squashed | (step rows, H), tanh of the cells, likewise     | full      |
    """

    inputs: Tensor
    active: Tensor
    cells: Tensor
    squashed: Tensor


class LayerTape:
    """What the layers have in common: weights, inputs, hidden activations.

    Args:
        primitives: a module of `dnc_fast.backends`.
        precision: of the run.
        rows: where the states lie.
        x_part, weight: as `prepare` returned them.
        hidden: (output rows, H), the layer's own columns of the output.
        initial: the layer's state before the first step, a list of (B, H).
        buffers: to be filled.
    """

    gates = 1
    """Pre-activations for each hidden unit."""

    kind = PLAIN
    """How the kernels know it."""

    has_cells = False
    """Whether the state has c besides h."""

    recurrent = True
    """Whether h_{t-1} is seen."""

    def __init__(
        self,
        primitives: Any,
        precision: Precision,
        rows: Rows,
        x_part: Tensor,
        weight: Tensor,
        hidden: Tensor,
        initial: list[Tensor],
        buffers: LayerBuffers,
    ) -> None:
        self.primitives = primitives
        self.precision = precision
        self.rows = rows
        self.x_part, self.weight = x_part, weight
        self.operand = precision.operand(weight)
        self.hidden = hidden
        self.initial = initial
        self.inputs, self.active, self.cells, self.squashed = buffers
        self.final = [torch.empty_like(tensor) for tensor in initial]
        self.d_state: list[Tensor] = []

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        """What a layer's tape computes from, by differentiable operations.

        Returns:
            x_part (rows, gates H), with the biases, and the weight (gates H, inputs).
        """
        bias = None if layer.bias_ih is None else layer.bias_ih + layer.bias_hh
        x_part = F.linear(x, layer.weight_ih[:, :x_size], bias)
        return [x_part, torch.cat([layer.weight_ih[:, x_size:], layer.weight_hh], dim=1)]

    def hidden_before(self, t: int) -> Tensor:
        """(b, H): h_{t-1}."""
        size = self.rows.batch_sizes[t]
        if t == 0:
            return self.initial[0][:size]
        start = self.rows.output(t - 1).start
        return self.hidden[start : start + size]

    def forward(self, t: int, seen: list[Tensor]) -> None:
        """Take step t: from [r_{t-1}; h_t^{l-1}] to the hidden activations."""
        inputs = self.inputs[self.rows.step(t)]
        torch.cat([*seen, self.hidden_before(t)], dim=1, out=inputs)
        product = torch.mm(inputs, self.operand.t())
        self.activate(t, product, self.x_part[self.rows.output(t)])

    def finish(self, t: int) -> None:
        """Put away the state of the sequences whose last step was t."""
        ending = self.rows.ending(t)
        for final, state in zip(self.final, self.states_after(t), strict=True):
            final[ending] = state[ending]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        """Fill what is kept of step t and the hidden activations.

        Args:
            t: the step.
            product, x_part: (b, gates H), the pre-activations are their sum.
        """
        raise NotImplementedError

    def states_after(self, t: int) -> list[Tensor]:
        """The layer's state after step t, each (b, H)."""
        return [self.hidden[self.rows.output(t)]]

    def start_backward(self, d_state: list[Tensor], d_active: Tensor) -> None:
        """Begin at the end.

        Args:
            d_state: gradients of the final state, each (B, H); go from step to step in place.
            d_active: to be filled.
        """
        self.d_state = d_state
        self.d_active = d_active

    def backward(self, t: int, d_hidden: Tensor, clip: float | None) -> Tensor:
        """Play step t.

        Args:
            t: steps come in falling order.
            d_hidden: (b, H), gradient of h_t but for what step t + 1 adds.
            clip: bound of the activations' gradients, see `DNC`.

        Returns:
            (b, inputs - H): gradient of what the layer saw besides its own state.
        """
        size = self.rows.batch_sizes[t]
        d_state = [part[:size] for part in self.d_state]
        d_active = self.d_active[self.rows.step(t)]
        direct = self.activate_backward(t, d_hidden, d_state, clip, d_active)
        d_inputs = torch.mm(d_active, self.operand)
        seen = d_inputs.shape[1] - d_hidden.shape[1]
        d_state[0].copy_(d_inputs[:, seen:])
        if direct is not None:
            d_state[0].add_(direct)
        return d_inputs[:, :seen]

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> Tensor | None:
        """Fill d_active; of d_state, all but the hidden activations goes to step t - 1.

        Returns:
            (b, H): what goes to h_{t-1} besides the pre-activations, if anything.
        """
        raise NotImplementedError

    def gradients(self) -> list[Tensor]:
        """Gradients of x_part and weight, of all steps at once."""
        d_weight = torch.mm(self.d_active.t(), self.inputs)
        return [self.d_active.to(self.x_part.dtype), d_weight.to(self.weight.dtype)]


def pre_activations(product: Tensor, x_part: Tensor, active: Tensor) -> Tensor:
    """Fill active with their sum; returns it."""
    return torch.add(product, x_part, out=active)


def clipped_gradient(d_hidden: Tensor, d_last: Tensor, clip: float | None) -> Tensor:
    """The gradient of h_t with what step t + 1 adds, clipped, in the place of the latter."""
    d_last.add_(d_hidden)
    return d_last if clip is None else d_last.clamp_(-clip, clip)


class LSTMTape(LayerTape):
    """State: h and c. Gates: input, forget, cell, output, as in nn.LSTMCell."""

    gates = 4
    kind = LSTM
    has_cells = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cells[: self.rows.batch_size] = self.initial[1]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        step = self.rows.step(t)
        self.primitives.lstm_forward(
            product,
            x_part,
            self.cells[self.rows.before(t)],
            self.active[step],
            self.cells[self.rows.after(t)],
            self.squashed[step],
            self.hidden[self.rows.output(t)],
        )

    def states_after(self, t: int) -> list[Tensor]:
        return [*super().states_after(t), self.cells[self.rows.after(t)]]

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> None:
        step = self.rows.step(t)
        d_last, d_cells = d_state
        self.primitives.lstm_backward(
            self.active[step],
            self.squashed[step],
            self.cells[self.rows.before(t)],
            d_hidden,
            d_last,
            clip,
            d_cells,
            d_active,
        )


class RNNTape(LayerTape):
    """State: h. One tanh, as in nn.RNNCell."""

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        active = pre_activations(product, x_part, self.active[self.rows.step(t)])
        torch.tanh(active, out=self.hidden[self.rows.output(t)])

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> None:
        d_hidden = clipped_gradient(d_hidden, d_state[0], clip)
        tanh_backward(d_hidden, self.hidden[self.rows.output(t)], grad_input=d_active)


class FeedForwardTape(RNNTape):
    """No state: h_{t-1} is not seen."""

    recurrent = False

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        x_part = F.linear(x, layer.weight[:, :x_size], layer.bias)
        return [x_part, layer.weight[:, x_size:]]

    def hidden_before(self, t: int) -> Tensor:
        return self.hidden.new_empty(self.rows.batch_sizes[t], 0)

    def states_after(self, t: int) -> list[Tensor]:
        return []

    def backward(self, t: int, d_hidden: Tensor, clip: float | None) -> Tensor:
        if clip is not None:
            d_hidden = d_hidden.clamp(-clip, clip)
        d_active = self.d_active[self.rows.step(t)]
        tanh_backward(d_hidden, self.hidden[self.rows.output(t)], grad_input=d_active)
        return torch.mm(d_active, self.operand)


class GRUTape(LayerTape):
    """State: h. As nn.GRUCell: h_t = (1 - z) n + z h, n = tanh(a + r b), with b made of h alone.

    The pre-activations are those of r, z, a and b; where a does not see h, and b nothing else, the
    weight is zero.
    """

    gates = 4
    kind = GRU

    @staticmethod
    def prepare(layer: Any, x: Tensor, x_size: int) -> list[Tensor]:
        H, seen = layer.hidden_size, layer.weight_ih.shape[1] - x_size
        x_weight, seen_weight = layer.weight_ih.split([x_size, seen], dim=1)
        none = x_weight.new_zeros(1)
        x_weight = torch.cat([x_weight, none.expand(H, x_size)])
        if layer.bias_ih is None:
            bias = None
        else:
            both = layer.bias_ih[: 2 * H] + layer.bias_hh[: 2 * H]
            bias = torch.cat([both, layer.bias_ih[2 * H :], layer.bias_hh[2 * H :]])
        hidden_weight = layer.weight_hh
        weight = torch.cat(
            [
                torch.cat([seen_weight, none.expand(H, seen)]),
                torch.cat([hidden_weight[: 2 * H], none.expand(H, H), hidden_weight[2 * H :]]),
            ],
            dim=1,
        )
        return [F.linear(x, x_weight, bias), weight]

    def activate(self, t: int, product: Tensor, x_part: Tensor) -> None:
        active = pre_activations(product, x_part, self.active[self.rows.step(t)])
        H = active.shape[1] // self.gates
        active[:, : 2 * H].sigmoid_()
        reset, update, new, hidden_new = active.chunk(4, dim=1)
        new.addcmul_(reset, hidden_new).tanh_()
        before = self.hidden_before(t).to(active.dtype)
        self.hidden[self.rows.output(t)] = torch.lerp(new, before, update)

    def activate_backward(
        self, t: int, d_hidden: Tensor, d_state: list[Tensor], clip: float | None, d_active: Tensor
    ) -> Tensor:
        d_hidden = clipped_gradient(d_hidden, d_state[0], clip)
        active = self.active[self.rows.step(t)]
        reset, update, new, hidden_new = active.chunk(4, dim=1)
        d_reset, d_update, d_new, d_hidden_new = d_active.chunk(4, dim=1)
        tanh_backward(d_hidden * (1 - update), new, grad_input=d_new)
        sigmoid_backward(d_hidden * (self.hidden_before(t) - new), update, grad_input=d_update)
        sigmoid_backward(d_new * hidden_new, reset, grad_input=d_reset)
        torch.mul(d_new, reset, out=d_hidden_new)
        return d_hidden * update


LAYER_TAPES = {
    nn.LSTMCell: LSTMTape,
    nn.GRUCell: GRUTape,
    nn.RNNCell: RNNTape,
    nn.Linear: FeedForwardTape,
}
