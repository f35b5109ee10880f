"""Groups of panels that show one sequence, one below the other on one time axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from .panels import MOST_HEADS, MOST_ROWS, colour_range, draw_images, integer_ticks, runs
from .style import BOTTOM, DPI, LEFT, WEIGHT_MAP, WIDTH, stack_panels, whole_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = 0.92  # inches, for the colour bars
LETTER = 0.0085  # inches, the width of a letter for each point of its size


class Group(NamedTuple):
    """Panels under one title, still to be drawn; their heights are in inches."""

    heights: list[float]
    draw: Callable[[list[Axes]], None]


def draw_over_time(
    title: str, groups: list[Group], counts: Tensor, words: Sequence[str] | None = None
) -> Figure:
    """All groups on one time axis.

    Args:
        title: above all.
        groups: from top to bottom.
        counts: (T) bool, the steps at which the answer counts.
        words: of each step, below the lowest panel; None for the numbers of the steps.

    Raises:
        ValueError: there is not a word for each step.
    """
    if words is not None and len(words) != len(counts):
        raise ValueError(f"words must be one for each of {len(counts)} steps, got {len(words)}")
    bottom, longest = BOTTOM, 0
    if words is not None:
        longest, size = max(map(len, words)), min(7.0, 68 * (WIDTH - LEFT - RIGHT) / len(words))
        bottom = whole_pixels(0.2 + LETTER * size * longest)
    heights = [group.heights for group in groups]
    figure, stacked = stack_panels(title, heights, RIGHT, bottom)
    for panels, group in zip(stacked, groups, strict=True):
        group.draw(panels)
        for axes in panels:
            draw_answer_edges(axes, counts)
    lowest = stacked[-1][-1]
    lowest.set_xlim(-0.5, len(counts) - 0.5)
    if words is None:
        lowest.set_xlabel("time step")
        lowest.xaxis.set_major_locator(integer_ticks(12))
    else:
        turned = 90 if longest > 1 else 0
        lowest.set_xticks(
            range(len(words)), words, rotation=turned, fontsize=size, parse_math=False
        )
        for axes in figure.axes:
            axes.tick_params(axis="x", length=0)
    return figure


def draw_answer_edges(axes: Axes, counts: Tensor) -> None:
    """Dotted lines where the steps that count begin and end, unless there are very many."""
    edges = {edge for first, last in runs(counts) for edge in (first - 0.5, last + 0.5)}
    edges -= {-0.5, counts.shape[0] - 0.5}
    if len(edges) <= 24:
        dark = any(image.get_cmap().name == WEIGHT_MAP for image in axes.images)
        colour = "white" if dark else "#444444"
        for edge in edges:
            axes.axvline(edge, color=colour, linestyle=(0, (1, 1.5)), linewidth=0.9)


def image_height(rows: int, row_height: float = 0.09, most: float = 1.2) -> float:
    """The height of a panel with that many rows, inches."""
    return min(max(row_height * rows, 0.62), most)


def image_group(
    values: Tensor,
    title: str,
    row: str,
    height: float | None = None,
    finish: Callable[[Axes], None] = lambda axes: None,
) -> Group:
    """Values (T, rows) as one panel of colours.

    Args:
        values: what is shown.
        title: of the panel.
        row: what a row is, such as "bit".
        height: inches; None for `image_height` of the rows.
        finish: draws on top.
    """

    def draw(panels: list[Axes]) -> None:
        draw_images(panels, values.unsqueeze(1), title, row, "value", colour_range(values))
        finish(panels[0])

    return Group([height or image_height(values.shape[1])], draw)


def output_group(outputs: Tensor, row: str, finish: Callable[[Axes], None]) -> Group:
    """Outputs (T, Y), probabilities, as one panel of colours."""

    def draw(panels: list[Axes]) -> None:
        draw_images(panels, outputs.unsqueeze(1), "outputs", row, "probability", (0.0, 1.0))
        finish(panels[0])

    return Group([image_height(outputs.shape[1])], draw)


def weighting_group(values: Tensor, title: str, unit: str = "weight") -> Group:
    """Weightings or usage (T, heads, N), a panel for each head, cell 0 at the top."""
    heads, cells = values.shape[1:]
    if heads > MOST_HEADS:
        values = values.sum(dim=1, keepdim=True)
        title = f"{title}, sum of {heads} heads"
        heads = 1
    limits = colour_range(values)
    rows = -(-cells // -(-cells // MOST_ROWS))
    # The same number of pixels for each row, at least two: a write to one cell must be visible.
    pixels = max(round((1.1 if heads == 1 else 0.9) * DPI / rows), 2)
    return Group(
        [pixels * rows / DPI] * heads,
        lambda panels: draw_images(panels, values, title, "cell", unit, limits, weights=True),
    )
