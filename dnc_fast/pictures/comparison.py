"""Several models on one task: how each learned, and how each does on longer sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .curve import FEW, read_columns, scale_by_decades, scale_by_share
from .panels import integer_ticks, legend_above
from .style import LOOKS, ORANGE, Look, house_style, stack_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = 0.25  # inches
SMALLEST = 1e-9  # share of the largest gradient
MANY_LOOKS = (*LOOKS, Look(ORANGE, "-", "X"), Look("#56B4E9", (0, (3, 1, 1, 1, 1, 1)), "P"))

Runs = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""By model, for each seed the rows of its evaluations."""


@house_style()
def comparison_curves(runs: Runs, title: str) -> Figure:
    """Draw loss and share of sequences right over the steps: medians, from least to greatest seed.

    A run that ended early, because it was solved, is drawn on with its last values.

    Args:
        runs: by model, for each seed rows with the keys `step`, `loss` and `solved`.
        title: above all.

    Raises:
        ValueError: a row lacks a key or holds no number, or a share is outside [0, 1].
    """
    keys = ("step", "loss", "solved")
    columns = {
        name: [read_columns(name, rows, keys) for rows in seeds if rows]
        for name, seeds in runs.items()
    }
    last = max((float(one["step"][-1]) for seeds in columns.values() for one in seeds), default=1)
    figure, ((loss,), (solved,)) = stack_panels(title, [[2.4], [2.0]], RIGHT)
    for (name, seeds), look in zip(columns.items(), _looks(len(columns)), strict=True):
        for axes, key, factor in ((loss, "loss", 1), (solved, "solved", 100)):
            if seeds:
                steps, values = _side_by_side(seeds, key, last)
                _draw_spread(axes, steps, factor * values, name, look)
    loss.set_title("loss of evaluations")
    loss.set_ylabel("loss")
    drawn = [one["loss"] for seeds in columns.values() for one in seeds]
    scale_by_decades(loss, torch.cat(drawn) if drawn else torch.zeros(0))
    legend_above(loss)
    solved.set_title("sequences entirely right")
    scale_by_share(solved)
    solved.set_xlabel("training step")
    solved.xaxis.set_major_locator(integer_ticks(8))
    solved.xaxis.set_major_formatter("{x:,.0f}")
    for axes in (loss, solved):
        axes.grid(True)
        axes.set_axisbelow(True)
    return figure


@house_style()
def comparison_of_lengths(
    shares: Mapping[str, Sequence[Mapping[int, float]]], title: str, unit: str = "bit"
) -> Figure:
    """Draw the share of answers that are right on longer sequences, over the factor.

    Args:
        shares: by model, for each seed the share in [0, 1] by factor; 1 is the length of training.
        title: above all.
        unit: what one answer is called.
    """
    figure, ((axes,),) = stack_panels(title, [[2.6]], RIGHT)
    for (name, seeds), look in zip(shares.items(), _looks(len(shares)), strict=True):
        factors = sorted(set.intersection(*map(set, seeds))) if seeds else []
        values = torch.tensor([[100 * seed[factor] for factor in factors] for seed in seeds])
        if factors:
            steps = torch.tensor(factors, dtype=torch.float32)
            _draw_spread(axes, steps, values, name, look)
    axes.set_title(f"{unit}s right")
    scale_by_share(axes)
    legend_above(axes)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("times the greatest length in training; 1: all lengths of training")
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure


@house_style()
def comparison_of_gradients(gradients: Mapping[str, Sequence[Tensor]], title: str) -> Figure:
    """Draw the size of the gradient that reaches inputs of earlier steps.

    Norms below a billionth of the largest are not shown.

    Args:
        gradients: by model, for each seed the norm by time lag, (lags), the first of lag 0.
        title: above all.
    """
    figure, ((axes,),) = stack_panels(title, [[2.6]], RIGHT)
    drawn = [torch.zeros(0)]
    for (name, seeds), look in zip(gradients.items(), _looks(len(gradients)), strict=True):
        if seeds:
            lags = min(map(len, seeds))
            norms = torch.stack([norm[:lags] for norm in seeds])
            _draw_spread(axes, torch.arange(lags), norms, name, look)
            drawn.append(norms.flatten())
    axes.set_title("gradient of the last answer's loss by an input")
    axes.set_ylabel("norm")
    values = torch.cat(drawn)
    values = values[values > SMALLEST * values.max()] if len(values) else values
    scale_by_decades(axes, values)
    if len(values):
        axes.set_ylim(0.5 * float(values.min()), 2 * float(values.max()))
    axes.set_xlabel("time lag: steps from that input to the last answer")
    axes.xaxis.set_major_locator(integer_ticks(8))
    legend_above(axes)
    axes.grid(True)
    axes.set_axisbelow(True)
    return figure


def _looks(count: int) -> list[Look]:
    return [MANY_LOOKS[number % len(MANY_LOOKS)] for number in range(count)]


def _side_by_side(
    seeds: Sequence[Mapping[str, Tensor]], key: str, last: float
) -> tuple[Tensor, Tensor]:
    """All steps at which a seed has a value, and each seed's latest value there, (seeds, steps)."""
    steps = torch.cat([seed["step"] for seed in seeds]).unique()
    steps = steps[steps >= max(float(seed["step"][0]) for seed in seeds)]
    if float(steps[-1]) < last:
        steps = torch.cat([steps, steps.new_tensor([last])])
    places = [
        torch.searchsorted(seed["step"].contiguous(), steps, right=True) - 1 for seed in seeds
    ]
    pairs = zip(seeds, places, strict=True)
    return steps, torch.stack([seed[key][place] for seed, place in pairs])


def _draw_spread(axes: Axes, steps: Tensor, values: Tensor, name: str, look: Look) -> None:
    """The median of values (seeds, steps), with a band from the least to the greatest."""
    style: dict[str, Any] = {**look._asdict(), "markersize": 3.5}
    if steps.numel() > FEW:
        style["marker"] = ""
    axes.plot(steps.numpy(), values.quantile(0.5, dim=0).numpy(), label=name, **style)
    if len(values) > 1:
        least, greatest = values.amin(0).numpy(), values.amax(0).numpy()
        axes.fill_between(steps.numpy(), least, greatest, color=look.color, alpha=0.15, linewidth=0)
