"""The gates of an LSTM or a GRU during one sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .arguments import checked
from .groups import Group, draw_over_time, image_group, image_height, output_group
from .hidden import by_time_of_change
from .panels import draw_images, shade_steps
from .style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style()
def gates_view(
    inputs: Tensor,
    outputs: Tensor,
    hidden: Tensor,
    gates: Mapping[str, Tensor],
    mask: Tensor,
    title: str,
    words: Sequence[str] | None = None,
) -> Figure:
    """Draw the gates over one sequence, with inputs and outputs; units as in `hidden_view`.

    Args:
        inputs: (T, X), any range.
        outputs: (T, Y), probabilities in [0, 1].
        hidden: (T, H), the hidden state that the gates belong to; it orders the units.
        gates: by name, (T, H) in [0, 1].
        mask: (T), not zero at the steps where the answer counts.
        title: above all.
        words: of each step, shown on the time axis; None for numbers.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape does not fit.
    """
    named = {"inputs": inputs, "outputs": outputs, "hidden": hidden, "mask": mask}
    stacked = torch.stack(list(gates.values()), 1)
    _, (inputs, outputs, hidden, mask, stacked) = checked(None, (), **named, gates=stacked)
    counts = mask != 0
    order = by_time_of_change(hidden)
    height = image_height(hidden.shape[1], 0.035, most=1.8)
    groups = [image_group(inputs, "inputs", "feature", image_height(inputs.shape[1], most=1.6))]
    remark = "units in the order of the largest change of their hidden state"
    for name, values in zip(gates, stacked[:, :, order].unbind(1), strict=True):
        groups.append(_gate_group(values, f"{name}, {remark}", height))
        remark = "likewise"
    groups.append(output_group(outputs, "output", lambda axes: shade_steps(axes, ~counts)))
    return draw_over_time(title, groups, counts, words)


def _gate_group(values: Tensor, title: str, height: float) -> Group:
    """A gate (T, H) as one panel of colours."""
    return Group(
        [height],
        lambda panels: draw_images(panels, values.unsqueeze(1), title, "unit", "gate", (0.0, 1.0)),
    )
