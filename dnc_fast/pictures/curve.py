"""How a model learned: loss, scores and lessons over the training steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .panels import integer_ticks, legend_above, note_above
from .style import BLACK, BLUE, LOOKS, house_style, stack_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = 0.6  # inches, for the name of the line at 99.5 %
SOLVED = 0.995  # share of sequences entirely right from which a task is called solved
FEW = 60  # up to this many points, each is marked
EVALUATION_LOOK: dict[str, Any] = {**LOOKS[1]._asdict(), "markersize": 3.5}
MEDIAN_SHARE = 20  # the running median is of one row in this many
SHARES = {
    "right": "the share of answers that are right",
    "solved": "the share of sequences entirely right",
    "share": "the share right in the test of a lesson",
}
SMALL: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.0}  # of text beside a line


@house_style()
def learning_curve(
    train: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    title: str,
    lessons: Sequence[Mapping[str, Any]] = (),
    unit: str = "bit",
    spikes: Sequence[Mapping[str, Any]] = (),
) -> Figure:
    """Draw the loss and, where there are evaluations, wrong answers and shares that are right.

    Tests of lessons are drawn too where there are any. Values that are None, NaN or infinite are
    left out. Of rows of the same step the last counts, since a resumed run writes some steps again.
    Scales are logarithmic, with a linear piece around zero where some values are zero or less.

    Args:
        train: rows with the keys `step` and `loss`.
        evaluations: rows with the keys `step`, `loss`, `wrong` (mean wrong answers per sequence),
            `right` (share of answers that are right, in [0, 1]) and `solved` (share of sequences
            entirely right, in [0, 1]).
        title: above all.
        lessons: rows of tests with the keys `step`, `lesson` (from 1) and `share` (right, [0, 1]).
        unit: what one answer is called.
        spikes: rows with the keys `step` and `factor`, how many times the usual the norm of the
            gradient was.

    Raises:
        ValueError: a row lacks a key or holds no number, or a share is outside [0, 1].
    """
    training = read_columns("train", train, ("step", "loss"))
    scores = read_columns("evaluations", evaluations, ("step", "loss", "wrong", "right", "solved"))
    sudden = read_columns("spikes", spikes, ("step", "factor"))
    tests = read_columns("lessons", lessons, ("step", "lesson", "share"))
    has_scores = scores["step"].numel() > 0
    panels: list[tuple[float, Callable[[Axes], None]]] = [
        (
            2.2 if has_scores else 2.6,
            lambda axes: draw_loss(axes, training, scores, sudden, tests["step"].numel() > 0),
        )
    ]
    if has_scores:
        panels.append((1.4, lambda axes: draw_wrong(axes, scores, unit)))
        panels.append((1.4, lambda axes: draw_right(axes, scores, unit)))
    if tests["step"].numel():
        panels.append((1.4, lambda axes: draw_lessons(axes, tests)))
    figure, stacked = stack_panels(title, [[height] for height, _ in panels], RIGHT)
    for (axes,), (_, draw) in zip(stacked, panels, strict=True):
        draw(axes)
        axes.grid(True)
        axes.set_axisbelow(True)
    lowest = stacked[-1][0]
    lowest.set_xlabel("training step")
    lowest.xaxis.set_major_locator(integer_ticks(8))
    lowest.xaxis.set_major_formatter("{x:,.0f}")
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
            value = value if math.isfinite(value) else math.nan
            if key in SHARES and (value < 0 or value > 1):
                raise ValueError(f"{name} must have {key} in [0, 1], {SHARES[key]}, got {value:g}")
            values.append(value)
        if not math.isnan(values[0]):
            by_step[values[0]] = values
    table = torch.tensor([by_step[step] for step in sorted(by_step)], dtype=torch.float64)
    return dict(zip(keys, table.reshape(-1, len(keys)).unbind(dim=1), strict=True))


def running_median(steps: Tensor, values: Tensor, most: int = 500) -> tuple[Tensor, Tensor]:
    """Median of the values around each of at most `most` rows, evenly chosen.

    Args:
        steps: (rows), ascending.
        values: (rows), NaN where there is none.
        most: limits the time that very many rows take.

    Returns:
        steps and medians, of the chosen rows.
    """
    rows = steps.numel()
    half = rows // (2 * MEDIAN_SHARE)
    chosen = torch.linspace(0, rows - 1, min(rows, most)).round().long()
    medians = [values[max(row - half, 0) : row + half + 1].nanmedian() for row in chosen.tolist()]
    return steps[chosen], torch.stack(medians) if medians else values


def draw_line(axes: Axes, steps: Tensor, values: Tensor, **look: Any) -> None:
    """A line, broken where there is no value; a few points are marked each."""
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
    """A log scale for the vertical axis, with a linear piece around zero where necessary."""
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


def draw_loss(
    axes: Axes,
    train: dict[str, Tensor],
    scores: dict[str, Tensor],
    spikes: dict[str, Tensor],
    lessons: bool,
) -> None:
    """The loss of training, raw and smoothed, that of the evaluations, and where spikes were.

    lessons: whether training is on lessons, so that the two losses are of different tasks.
    """
    axes.set_title("loss")
    axes.set_ylabel("loss")
    steps, losses = train["step"], train["loss"]
    several = steps.numel() > 2 * MEDIAN_SHARE
    raw = {"color": BLUE, "marker": ".", "markersize": 5}
    trained, evaluated = (" (lessons)", " (whole task)") if lessons else ("", "")
    if several:
        draw_line(axes, steps, losses, label=f"training{trained}", alpha=0.3, linewidth=0.7, **raw)
        medians = running_median(steps, losses)
        draw_line(axes, *medians, label="running median", color=BLUE, linewidth=1.8)
    else:
        draw_line(axes, steps, losses, label=f"training{trained}", **raw)
    label = f"evaluation{evaluated}"
    draw_line(axes, scores["step"], scores["loss"], label=label, **EVALUATION_LOOK)
    scale_by_decades(axes, torch.cat([losses, scores["loss"]]))
    if spikes["step"].numel():
        label = f"gradient spikes, up to {float(spikes['factor'].max()):,.0f} x"
        look: dict[str, Any] = {"color": BLACK, "marker": "v", "markersize": 4, "linestyle": "none"}
        place = spikes["step"].numpy(), torch.ones_like(spikes["step"]).numpy()
        axes.plot(*place, transform=axes.get_xaxis_transform(), label=label, clip_on=False, **look)
    if axes.lines:
        legend_above(axes)
    note_absence(axes, torch.cat([losses, scores["loss"]]))


def draw_wrong(axes: Axes, scores: dict[str, Tensor], unit: str) -> None:
    """Mean wrong answers per sequence."""
    axes.set_title(f"wrong {unit}s per sequence")
    axes.set_ylabel(f"{unit}s (mean)")
    draw_line(axes, scores["step"], scores["wrong"], **EVALUATION_LOOK)
    scale_by_decades(axes, scores["wrong"])
    note_absence(axes, scores["wrong"])


def draw_right(axes: Axes, scores: dict[str, Tensor], unit: str) -> None:
    """Shares of answers and of sequences right, and a line above which a task is solved."""
    axes.set_title("share right")
    steps = scores["step"]
    look = LOOKS[0]._asdict()
    draw_line(axes, steps, 100 * scores["right"], label=f"{unit}s", markersize=3.5, **look)
    reached = steps[scores["solved"] >= SOLVED]
    first = f", first at {100 * SOLVED:g} % in step {int(reached[0]):,}" if len(reached) else ""
    draw_line(axes, steps, 100 * scores["solved"], label=f"sequences{first}", **EVALUATION_LOOK)
    scale_by_share(axes)
    axes.axhline(100 * SOLVED, color=BLACK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{SOLVED:.1%}".replace("%", " %"),
        (1.0, 100 * SOLVED),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        verticalalignment="center",
        **SMALL,
    )
    if len(axes.lines) > 1:
        legend_above(axes)
    note_absence(axes, scores["solved"])


def draw_lessons(axes: Axes, tests: dict[str, Tensor]) -> None:
    """The share right in each test; a line and a number mark where each lesson's tests begin."""
    axes.set_title("tests of lessons")
    numbers, marker = tests["lesson"], "s" if tests["step"].numel() <= FEW else ""
    for lesson in numbers[numbers.isfinite()].unique().tolist():
        of_it = numbers == lesson
        steps, shares = tests["step"][of_it], 100 * tests["share"][of_it]
        colour = LOOKS[int(lesson - 1) % len(LOOKS)].color
        draw_line(axes, steps, shares, color=colour, marker=marker, markersize=3.5)
        axes.axvline(float(steps[0]), color=colour, linestyle=(0, (1, 1.5)), linewidth=0.9)
        axes.annotate(
            f"{lesson:g}",
            (float(steps[0]), 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -2),
            verticalalignment="top",
            color=colour,
            **SMALL,
        )
    scale_by_share(axes)
    note_above(axes, "numbers: where the tests of each lesson begin")
    note_absence(axes, tests["share"])


def scale_by_share(axes: Axes) -> None:
    """A vertical axis for shares of 0 to 100 %."""
    axes.set_ylabel("share")
    axes.set_ylim(-5, 108)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.yaxis.set_major_formatter("{x:g} %")
