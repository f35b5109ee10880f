"""What the memory holds after some steps: its cells, and its links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import check_shapes
from .panels import colour_range, draw_matrix
from .style import BIT_MAP, SIGNED_MAP, WEIGHT_MAP, WIDTH, house_style, titled_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, RIGHT, TOP, BOTTOM = 0.6, 0.75, 0.6, 0.45
GAP, ROW_GAP = 0.12, 0.72
"""Inches around the panels and between them."""


@house_style()
def contents_view(
    steps: Sequence[int], memories: Tensor, links: Tensor | None, title: str
) -> Figure:
    """Draw the memory after some steps, a column for each: its cells, and its link matrices.

    A link matrix has a bright entry in row i and column j where cell i was written right after
    cell j. Those of several write heads are summed.

    Args:
        steps: the number of each of S steps, from 0.
        memories: (S, N, W), any range.
        links: (S, Hw, N, N), in [0, 1]; None where the link is not a matrix.
        title: above all.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a shape does not fit.
    """
    given = {"memories": memories} if links is None else {"memories": memories, "links": links}
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    check_shapes({"memories": "S N W", "links": "S Hw N N"}, **given)
    if len(steps) != len(memories):
        raise ValueError(f"steps must be {len(memories)} numbers, as many as memories, got {steps}")
    memories = memories.detach().to("cpu", torch.float32)
    limits = colour_range(memories)
    colours = SIGNED_MAP if limits[0] < 0 else BIT_MAP
    rows = [("cells", "cell", "element", memories, limits, colours, "value")]
    if links is not None:
        links = links.detach().to("cpu", torch.float32).sum(1)
        rows.append(("links", "cell", "cell", links, colour_range(links), WEIGHT_MAP, "link"))

    width = (WIDTH - LEFT - RIGHT - GAP * (len(steps) - 1)) / len(steps)
    height = TOP + len(rows) * width + ROW_GAP * (len(rows) - 1) + BOTTOM
    figure = titled_figure(title, height, LEFT)
    for row, (name, down, across, values, limits, colours, unit) in enumerate(rows):
        place = height - TOP - row * (width + ROW_GAP) - width
        for column, (step, value) in enumerate(zip(steps, values, strict=True)):
            left = LEFT + column * (width + GAP)
            box = (left / WIDTH, place / height, width / WIDTH, width / height)
            axes = figure.add_axes(box)
            draw_matrix(axes, value, limits, colours)
            axes.set_xlabel(across)
            axes.set_title(f"{name} after step {step}" if column == 0 else f"step {step}")
            if column == 0:
                axes.set_ylabel(down)
            else:
                axes.tick_params(labelleft=False)
        bar = figure.add_axes(
            ((WIDTH - RIGHT + 0.1) / WIDTH, place / height, 0.1 / WIDTH, width / height)
        )
        scale = figure.colorbar(axes.images[0], cax=bar, ticks=limits, format="{x:.2g}")
        scale.set_label(unit)
    return figure
