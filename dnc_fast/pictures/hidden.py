"""What the controller carried on during one sequence, and where memory was written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..trace import Trace
from .memory import TRACE_AXES, Group, checked, draw_over_time, weighting_groups
from .panels import colour_range, draw_images, shade_steps
from .style import house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_FIELDS = ("write_weights", "read_weights", "usage")


@house_style()
def hidden_view(
    inputs: Tensor, outputs: Tensor, hidden: Tensor, mask: Tensor, trace: Trace, title: str
) -> Figure:
    """Draw the hidden state of the controller over one sequence, with inputs, weightings, outputs.

    The units of the hidden state are ordered by the step at which each changes most, the earliest
    at the top, so that what happened when is seen as a staircase.

    Args:
        inputs: (T, X), any range.
        outputs: (T, Y), probabilities in [0, 1].
        hidden: (T, H), any range; with H = 0 it is left out.
        mask: (T), not zero at the steps where the answer counts.
        trace: of this sequence alone, (T, ...) in every field.
        title: above all.

    Returns:
        the figure; `save_picture` writes it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape does not fit.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be a dnc_fast.Trace, got {type(trace).__name__}")
    sizes: dict[str, int] = {}
    inputs = checked("inputs", inputs, ("T", "X"), sizes)
    outputs = checked("outputs", outputs, ("T", "Y"), sizes)
    counts = checked("mask", mask, ("T",), sizes) != 0
    shown = {
        field: checked(f"trace.{field}", getattr(trace, field), TRACE_AXES[field], sizes)
        for field in SHOWN_FIELDS
    }

    def draw_outputs(panels: list[Axes]) -> None:
        draw_images(panels, outputs.unsqueeze(1), "outputs", "output", "probability", (0.0, 1.0))
        shade_steps(panels[0], ~counts)

    groups = [image_group(inputs, "inputs", "feature", 0.09)]
    if hidden.numel():
        hidden = checked("hidden", hidden, ("T", "H"), sizes)
        title_of_units = "hidden state, units by the step of their largest change"
        groups.append(image_group(by_time_of_change(hidden), title_of_units, "unit", 0.035))
    groups += weighting_groups(trace._replace(**shown))[:2]
    groups.append(Group([min(max(0.09 * outputs.shape[1], 0.62), 1.2)], draw_outputs))
    return draw_over_time(title, groups, counts)


def by_time_of_change(hidden: Tensor) -> Tensor:
    """The units (T, H) in the order of the step at which each changes most."""
    changes = hidden.diff(dim=0, prepend=torch.zeros_like(hidden[:1])).abs()
    return hidden[:, changes.argmax(0).argsort(stable=True)]


def image_group(values: Tensor, title: str, row: str, row_height: float) -> Group:
    """Values (T, rows) as one panel of colours."""

    def draw(panels: list[Axes]) -> None:
        draw_images(panels, values.unsqueeze(1), title, row, "value", colour_range(values))

    return Group([min(max(row_height * values.shape[1], 0.62), 2.4)], draw)
