"""How a model learned: loss and scores over the training steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .panels import integer_ticks, legend_above
from .style import BLACK, BLUE, LOOKS, VERMILLION, house_style, stack_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = 0.6  # inches, for the name of the line at 99.5 %
SOLVED = 0.995  # share of sequences entirely right from which a task is called solved
FEW = 60  # up to so many points each is marked
MEDIAN_SHARE = 20  # the running median looks at one row in so many


@house_style()
def learning_curve(
    train: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]], title: str
) -> Figure:
    """Draw the loss and, where there are evaluations, wrong bits and sequences entirely right.

    Values that are None, NaN or infinite are left out. Of rows of the same step the last counts,
    since a resumed run writes some steps again. Scales are logarithmic, with a linear piece around
    zero where there are values of zero or less.

    Args:
        train: rows with the keys `step` and `loss`.
        evaluations: rows with the keys `step`, `loss`, `wrong_bits` (mean wrong bits per sequence)
            and `solved` (share of sequences entirely right, in [0, 1]).
        title: above all.

    Returns:
        the figure; `save_picture` writes it.

    Raises:
        ValueError: a row lacks a key or holds no number, or a `solved` is outside [0, 1].
        ImportError: matplotlib is not installed.
    """
    training = read_columns("train", train, ("step", "loss"))
    scores = read_columns("evaluations", evaluations, ("step", "loss", "wrong_bits", "solved"))
    wild = (scores["solved"] < 0) | (scores["solved"] > 1)
    if wild.any():
        raise ValueError(
            "evaluations must have solved in [0, 1], the share of sequences entirely right, got "
            f"{scores['solved'][wild][0]:g}"
        )
    has_scores = scores["step"].numel() > 0
    groups = [[2.2], [1.4], [1.4]] if has_scores else [[2.6]]
    figure, stacked = stack_panels(title, groups, RIGHT)
    panels = [axes for (axes,) in stacked]
    draw_loss(panels[0], training, scores)
    note_absence(panels[0], torch.cat([training["loss"], scores["loss"]]))
    if has_scores:
        draw_wrong_bits(panels[1], scores)
        note_absence(panels[1], scores["wrong_bits"])
        draw_solved(panels[2], scores)
        note_absence(panels[2], scores["solved"])
    for axes in panels:
        axes.grid(True)
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("training step")
    panels[-1].xaxis.set_major_locator(integer_ticks(8))
    panels[-1].xaxis.set_major_formatter("{x:,.0f}")
    return figure


def read_columns(
    name: str, rows: Sequence[Mapping[str, Any]], keys: tuple[str, ...]
) -> dict[str, Tensor]:
    """The rows' values by key, float64 and in the order of the steps; NaN where there is none."""
    by_step: dict[float, list[float]] = {}
    for index, row in enumerate(rows):
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(f"{name}[{index}] must have the keys {keys}, got {tuple(row)}")
        values = []
        for key in keys:
            try:
                value = math.nan if row[key] is None else float(row[key])
            except (TypeError, ValueError):
                raise ValueError(
                    f"{name}[{index}][{key!r}] must be a number, got {row[key]!r}"
                ) from None
            values.append(value if math.isfinite(value) else math.nan)
        if not math.isnan(values[0]):
            by_step[values[0]] = values
    table = torch.tensor([by_step[step] for step in sorted(by_step)], dtype=torch.float64)
    return dict(zip(keys, table.reshape(-1, len(keys)).unbind(dim=1), strict=True))


def running_median(steps: Tensor, values: Tensor, most: int = 500) -> tuple[Tensor, Tensor]:
    """Median of the values around each of at most `most` rows.

    Args:
        steps: (rows), ascending.
        values: (rows), NaN where there is none.
        most: so that many rows take no longer.

    Returns:
        steps and medians, of the chosen rows.
    """
    rows = steps.numel()
    half = rows // (2 * MEDIAN_SHARE)
    chosen = torch.linspace(0, rows - 1, min(rows, most)).round().long()
    medians = [values[max(row - half, 0) : row + half + 1].nanmedian() for row in chosen.tolist()]
    return steps[chosen], torch.stack(medians) if medians else values


def draw_line(axes: Axes, steps: Tensor, values: Tensor, **look: Any) -> None:
    """A line, broken where there is no value; each point marked when they are few."""
    if values.isfinite().any():
        if steps.numel() > FEW:
            look["marker"] = ""
        axes.plot(steps.numpy(), values.numpy(), **look)


def note_absence(axes: Axes, values: Tensor) -> None:
    """Say so in a panel that has no value to show."""
    if not values.isfinite().any():
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center")


def scale_by_decades(axes: Axes, values: Tensor) -> None:
    """A log scale for the vertical axis, with a linear piece around zero where it is needed."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    values = values[values.isfinite()]
    sizes = values[values != 0].abs()
    if sizes.numel() == 0:
        axes.set_ylim(-0.06, 1)
        return
    least, largest = float(sizes.min()), float(sizes.max())
    if (values > 0).all():
        axes.set_yscale("log")
        if least < largest < 3 * least:
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        elif largest < 30 * least:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        threshold = 10.0 ** math.floor(math.log10(min(max(least, 1e-8 * largest), 1.0)))
        axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
        if (values >= 0).all():
            axes.set_ylim(bottom=-0.2 * threshold)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def draw_loss(axes: Axes, train: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
    """The loss of training, raw and smoothed, and that of the evaluations."""
    axes.set_title("loss")
    axes.set_ylabel("loss")
    steps, losses = train["step"], train["loss"]
    several = steps.numel() > 2 * MEDIAN_SHARE
    raw = {"color": BLUE, "marker": ".", "markersize": 5}
    if several:
        draw_line(axes, steps, losses, label="training", alpha=0.3, linewidth=0.7, **raw)
        medians = running_median(steps, losses)
        draw_line(axes, *medians, label="training, running median", color=BLUE, linewidth=1.8)
    else:
        draw_line(axes, steps, losses, label="training", **raw)
    look = {"linestyle": LOOKS[1].linestyle, "marker": "s", "markersize": 3.5}
    draw_line(axes, scores["step"], scores["loss"], label="evaluation", color=VERMILLION, **look)
    scale_by_decades(axes, torch.cat([losses, scores["loss"]]))
    if axes.lines:
        legend_above(axes)


def draw_wrong_bits(axes: Axes, scores: dict[str, Tensor]) -> None:
    """Mean wrong bits per sequence."""
    axes.set_title("wrong bits per sequence")
    axes.set_ylabel("bits (mean)")
    look = {"color": VERMILLION, "marker": "s", "markersize": 3.5}
    draw_line(axes, scores["step"], scores["wrong_bits"], **look)
    scale_by_decades(axes, scores["wrong_bits"])


def draw_solved(axes: Axes, scores: dict[str, Tensor]) -> None:
    """Share of sequences without a wrong bit, with the line from which a task counts as solved."""
    axes.set_title("sequences entirely right")
    axes.set_ylabel("share")
    look = {"color": VERMILLION, "marker": "s", "markersize": 3.5}
    draw_line(axes, scores["step"], 100 * scores["solved"], **look)
    axes.set_ylim(-5, 108)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.axhline(100 * SOLVED, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{SOLVED:.1%}".replace("%", " %"),
        (1.0, 100 * SOLVED),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        verticalalignment="center",
        fontsize=8.0,
    )
    reached = scores["step"][scores["solved"] >= SOLVED]
    if reached.numel():
        axes.set_title(
            f"first at {100 * SOLVED:g} % in step {int(reached[0]):,}",
            loc="right",
            fontsize=8.0,
            fontweight="normal",
        )
