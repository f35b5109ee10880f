"""What the passes over the steps of a batch do; independent of the tensors' values."""

from __future__ import annotations

from ..layout import Layout
from ..linkages import linkage_of
from ..state import DNCState, map_tensors
from .called_controller import CalledModule
from .interface_layer import InterfaceForm
from .layered_controller import Layers
from .memory_tape import checkpoint_interval
from .plan import Plan
from .report import checkpoints_held, matrices_held


class Passes:
    """The forward and the backward pass over a batch of sequences; holds no data.

    Args:
        plan: how to run.
        controller: how the controller runs.
        layout: the rows of each step.
        state: gives the structure and sizes of the states.
        interface: which tensors the interface layer has.
    """

    def __init__(
        self,
        plan: Plan,
        controller: Layers | CalledModule,
        layout: Layout,
        state: DNCState,
        interface: InterfaceForm,
    ) -> None:
        assert state.memory is not None
        self.plan = plan
        self.controller = controller
        self.layout = layout
        self.sizes = state.memory.sizes
        self.device = state.memory.memory.device
        self.is_matrix = linkage_of(state.memory.link).is_matrix
        itemsize = state.memory.memory.element_size()
        self.interval = plan.interval or checkpoint_interval(
            layout.steps, self.sizes, itemsize, self.is_matrix, plan.in_place, self.device
        )
        self.interface = interface
        self.form = map_tensors(lambda tensor: tensor.new_empty(0), state)

    @property
    def held_bytes(self) -> int:
        """About what the passes hold at their peak."""
        B, N, W, R, Hw = self.sizes
        steps, controller = self.layout.steps, self.controller
        assert isinstance(controller, Layers)
        rows = B * steps
        matrices, vectors = 4, 2 * B  # first, last, and two that alternate
        if self.layout.keep:
            matrices = matrices_held(steps, self.interval, in_torch=False)
            matrices += checkpoints_held(steps, self.interval)
            vectors = rows + B
        numbers = matrices * B * N * (Hw * N + W) + vectors * (1 + 2 * Hw + R) * N
        options, backend = self.plan.options, self.plan.backend
        if self.layout.keep and backend.fuses(options, self.is_matrix):
            numbers += rows * backend.kept_numbers(self.sizes, options)
        vectors = options.interface_length(W, R, Hw) + R * W
        numbers += 2 * rows * (vectors + controller.kept_numbers)
        return numbers * self.plan.precision.full.itemsize
