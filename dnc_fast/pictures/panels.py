"""What a panel of a picture can show: an image over time, lines, stacked shares; and legends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .style import BIT_MAP, GREY, LOOKS, SIGNED_MAP, VERMILLION, WEIGHT_MAP, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.ticker import MaxNLocator

MOST_HEADS = 4  # more heads are shown together
MOST_ROWS = 128  # more rows are shown in groups, since one alone would be too thin to see


def legend_above(axes: Axes) -> None:
    """The legend beside the panel's title, where it hides nothing."""
    if not axes.get_legend_handles_labels()[0]:
        return
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=6,
        frameon=False,
        borderpad=0.0,
        borderaxespad=0.2,
        handlelength=2.4,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def note_above(axes: Axes, note: str) -> None:
    """A remark at the right, in the line of the panel's title."""
    axes.set_title(note, loc="right", fontsize=8.0, fontweight="normal", color="#444444")


def integer_ticks(most: int) -> MaxNLocator:
    """A locator of at most about `most` whole numbers."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)


def colour_range(values: Tensor) -> tuple[float, float]:
    """The range of a colour map: [0, 1], or up to the maximum where that is below 0.5 or above 1.

    Symmetric about zero when there are negative values.
    """
    finite = values[torch.isfinite(values)]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    if largest == 0.0 or 0.5 <= largest <= 1.0:
        largest = 1.0
    negative = bool((finite < 0).any())
    return (-largest if negative else 0.0), largest


def pool_rows(values: Tensor, most: int) -> tuple[Tensor, int]:
    """Reduce (T, rows) to at most `most` rows, each the largest of a group of neighbours.

    Returns:
        (T, groups), and the number of rows in a group.
    """
    size = -(-values.shape[1] // most)
    if size > 1:
        rest = -values.shape[1] % size
        values = torch.cat([values, values[:, -1:].expand(-1, rest)], dim=1)
        values = values.unflatten(1, (-1, size)).amax(dim=2)
    return values, size


def head_labels(heads: int, what: str) -> list[str]:
    """Names of the vertical axes of a group of panels, one panel a head."""
    return [what] if heads == 1 else [f"head {head}\n{what}" for head in range(heads)]


def draw_matrix(
    axes: Axes, values: Tensor, limits: tuple[float, float], colours: str, **options: Any
) -> AxesImage:
    """A matrix as colours, its first entry at the top left.

    Args:
        axes: where.
        values: (rows, columns).
        limits: the values of the first and the last colour.
        colours: the name of a colour map.
        options: more of `imshow`.
    """
    from matplotlib import colormaps

    return axes.imshow(
        values.numpy(),
        cmap=colormaps[colours].with_extremes(bad=VERMILLION),
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
        interpolation="nearest",
        **options,
    )


def draw_images(
    panels: Sequence[Axes],
    values: Tensor,
    title: str,
    row: str,
    unit: str,
    limits: tuple[float, float],
    weights: bool = False,
) -> None:
    """Values over time as colours, row 0 at the top, with a colour bar beside all panels.

    Args:
        panels: where to draw each head.
        values: (T, heads, rows).
        title: of the group of panels.
        row: what a row is, such as "cell".
        unit: what a colour is, such as "usage".
        limits: the range of the colours.
        weights: whether these are weightings or usages, which have their own colours.
    """
    steps, heads, rows = values.shape
    colours = SIGNED_MAP if limits[0] < 0 else WEIGHT_MAP if weights else BIT_MAP
    for axes, head, label in zip(panels, values.unbind(1), head_labels(heads, row), strict=True):
        shown, size = pool_rows(head, MOST_ROWS)
        extent = (-0.5, steps - 0.5, shown.shape[1] * size - 0.5, -0.5)
        image = draw_matrix(axes, shown.T, limits, colours, extent=extent)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_ylabel(label)
        axes.yaxis.set_major_locator(integer_ticks(4))
    panels[0].set_title(title)
    if size > 1:
        note_above(panels[0], f"each row the largest of {size} {row}s")

    figure = panels[0].figure
    assert figure is not None
    top, bottom = panels[0].get_position(), panels[-1].get_position()
    bar = figure.add_axes((top.x1 + 0.1 / WIDTH, bottom.y0, 0.1 / WIDTH, top.y1 - bottom.y0))
    ticks = [limits[0], *([(limits[0] + 1) / 2] if limits[1] == 1 else []), limits[1]]
    figure.colorbar(image, cax=bar, ticks=ticks, format="{x:.2g}").set_label(unit)
    bar.tick_params(size=2)
    bar.yaxis.set_label_coords(0.6 / 0.1, 0.5)


def draw_heads(axes: Axes, heads: Sequence[tuple[str, Tensor]], title: str) -> None:
    """One value over time for each of several heads.

    Args:
        axes: where to draw.
        heads: name and values (T) of each line. Values may also be (T, heads), of more heads than
            can be told apart: their mean and range are drawn.
        title: of the panel.
    """
    axes.set_title(title)
    steps = torch.arange(heads[0][1].shape[0]).numpy()
    size = min(max(160 / len(steps), 1.4), 2.8)
    for (name, values), look in zip(heads, LOOKS[: len(heads)], strict=True):
        if values.dim() == 2:
            low, high = values.amin(dim=1).numpy(), values.amax(dim=1).numpy()
            axes.fill_between(steps, low, high, color=look.color, alpha=0.25, linewidth=0)
            if len(steps) == 1:
                axes.vlines(steps, low, high, color=look.color, alpha=0.25, linewidth=4)
            values = values.mean(dim=1)
        axes.plot(steps, values.numpy(), label=name, markersize=size, **look._asdict())
    axes.grid(True, axis="y")
    axes.set_axisbelow(True)
    if len(heads) > 1 or heads[0][1].dim() == 2:
        legend_above(axes)


def draw_shares(
    panels: Sequence[Axes], parts: Sequence[tuple[str, Tensor, str]], title: str
) -> None:
    """Shares that sum to one, stacked, a column for each step.

    Args:
        panels: where to draw each head.
        parts: name, values (T, heads) and colour of each, from the bottom up.
        title: of the group of panels.
    """
    steps, heads = parts[0][1].shape
    edges = (torch.arange(steps + 1) - 0.5).numpy()
    for head, (axes, label) in enumerate(zip(panels, head_labels(heads, "share"), strict=True)):
        floor = torch.zeros(steps)
        for name, values, colour in parts:
            top = floor + values[:, head]
            axes.stairs(
                top.numpy(), edges, baseline=floor.numpy(), fill=True, color=colour, label=name
            )
            floor = top
        axes.set_ylabel(label)
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        if heads > 1:  # keep the outer numbers away from those of the panels above and below
            lowest, _, highest = axes.get_yticklabels()
            lowest.set_verticalalignment("bottom")
            highest.set_verticalalignment("top")
    panels[0].set_title(title)
    legend_above(panels[0])


def runs(flags: Tensor) -> Iterator[tuple[int, int]]:
    """First and last index of each run of true values of `flags` (T)."""
    start = None
    for index, flag in enumerate([*flags.tolist(), False]):
        if flag and start is None:
            start = index
        elif not flag and start is not None:
            yield start, index - 1
            start = None


def shade_steps(axes: Axes, steps: Tensor) -> None:
    """Hatch the steps where `steps` (T) is true in grey."""
    for first, last in runs(steps):
        axes.axvspan(
            first - 0.5,
            last + 0.5,
            facecolor=(0.87, 0.87, 0.87, 0.8),
            edgecolor=GREY,
            hatch="////",
            linewidth=0,
        )


def mark_places(axes: Axes, places: Tensor, width: float, height: float) -> None:
    """A small cross on each true entry of `places` (T, rows), in a panel of that size in inches."""
    from matplotlib.patheffects import withStroke

    steps, rows = places.nonzero(as_tuple=True)
    points = 72 * min(width / places.shape[0], height / places.shape[1])
    size = min(max(0.7 * points, 3.0), 6.0)
    axes.plot(
        steps.numpy(),
        rows.numpy(),
        linestyle="none",
        marker="x",
        markersize=size,
        markeredgewidth=size / 4,
        color=VERMILLION,
        path_effects=[withStroke(linewidth=size / 2, foreground="white")],
    )
