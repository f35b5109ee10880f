"""The controller's hidden state during one sequence, and where memory was written and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..trace import Trace
from .arguments import checked
from .groups import draw_over_time, image_group, image_height, output_group, weighting_group
from .panels import shade_steps
from .style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style()
def hidden_view(
    inputs: Tensor,
    outputs: Tensor,
    hidden: Tensor,
    mask: Tensor,
    trace: Trace | None,
    title: str,
    cells: Tensor | None = None,
    words: Sequence[str] | None = None,
) -> Figure:
    """Draw the hidden state of the controller over one sequence, with inputs, weightings, outputs.

    The units of the hidden state are ordered by the step at which each changes most, the earliest
    at the top, so that the order of events shows as a staircase.

    Args:
        inputs: (T, X), any range.
        outputs: (T, Y), probabilities in [0, 1].
        hidden: (T, H), any range; with H = 0 it is left out.
        mask: (T), not zero at the steps where the answer counts.
        trace: of this sequence alone, (T, ...) in every field; None of a model without a memory.
        title: above all.
        cells: (T, H), the cell state of an LSTM, shown below the hidden state with its units in the
            same order; None for other controllers.
        words: of each step, shown on the time axis; None for numbers.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape does not fit.
    """
    units = {"hidden": hidden} if hidden.numel() else {}
    if units and cells is not None and cells.numel():
        units["cells"] = cells
    shown = () if trace is None else ("write_weights", "read_weights")
    trace, (inputs, outputs, mask, *states) = checked(
        trace, shown, inputs=inputs, outputs=outputs, mask=mask, **units
    )
    counts = mask != 0
    groups = [image_group(inputs, "inputs", "feature", image_height(inputs.shape[1], most=2.4))]
    if states:
        order = by_time_of_change(states[0])
        names = ("hidden state, units in the order of their largest change", "cell state, likewise")
        for name, values in zip(names, states, strict=False):
            height = image_height(values.shape[1], 0.035, most=2.4)
            groups.append(image_group(values[:, order], name, "unit", height))
    if trace is not None:
        groups.append(weighting_group(trace.write_weights, "write weighting"))
        groups.append(weighting_group(trace.read_weights, "read weighting"))
    groups.append(output_group(outputs, "output", lambda axes: shade_steps(axes, ~counts)))
    return draw_over_time(title, groups, counts, words)


def by_time_of_change(hidden: Tensor) -> Tensor:
    """The order of the units of (T, H) by the step at which each changes most."""
    changes = hidden.diff(dim=0, prepend=torch.zeros_like(hidden[:1])).abs()
    return changes.argmax(0).argsort(stable=True)
