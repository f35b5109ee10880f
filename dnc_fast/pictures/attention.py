"""Where a model with attention looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .groups import LETTER
from .panels import draw_matrix, integer_ticks
from .style import GAP, HEADING_LINE, WEIGHT_MAP, WIDTH, house_style, titled_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT, RIGHT, TITLE, BELOW = 0.6, 0.75, 0.26, 0.5
"""Inches around the panels and above each."""
WORD_SIZE = 7.0
"""Points."""


@house_style()
def attention_view(
    weights: Tensor,
    title: str,
    head: str = "head",
    asked: str = "answer",
    place: str = "step",
    asked_words: Sequence[str] | None = None,
    place_words: Sequence[str] | None = None,
) -> Figure:
    """Draw which places a model looks at: a panel for each head, a row of panels for each layer.

    Args:
        weights: (L, K, A, S), the shares of each of S places for each of A answers.
        title: above all.
        head: what the K panels are.
        asked: what a row of a panel is.
        place: what a column of a panel is.
        asked_words, place_words: each row and column in words; None for numbers.

    Raises:
        TypeError: weights are not a tensor.
        ValueError: they have another number of axes, or there is not a word for each row or column.
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor, got {type(weights).__name__}")
    if weights.dim() != 4:
        raise ValueError(f"weights must have shape (L, K, A, S), got {tuple(weights.shape)}")
    layers, heads, answers, places = weights.shape
    for name, words, count in (
        ("asked_words", asked_words, answers),
        ("place_words", place_words, places),
    ):
        if words is not None and len(words) != count:
            raise ValueError(f"{name} must be {count} words, got {len(words)}")

    letter = LETTER * WORD_SIZE
    left = LEFT + (letter * max(map(len, asked_words)) if asked_words else 0.0)
    below = 0.15 + letter * max(map(len, place_words)) if place_words else BELOW
    width = (WIDTH - left - RIGHT - GAP * (heads - 1)) / heads
    height = min(max(0.16 * answers, 0.8), width)
    top = 0.1 + HEADING_LINE
    size = top + layers * (TITLE + height) + below
    figure = titled_figure(title, size, LEFT)
    for layer, of_layer in enumerate(weights.detach().to("cpu", torch.float32)):
        base = size - top - (layer + 1) * (TITLE + height)
        for number, values in enumerate(of_layer):
            box = (left + number * (width + GAP), base, width, height)
            axes = figure.add_axes(_in_figure(box, size))
            draw_matrix(axes, values, (0.0, 1.0), WEIGHT_MAP)
            if layers * heads > 1:
                name = f"{head} {number}"
                axes.set_title(f"layer {layer}, {name}" if layers > 1 else name)
            _name(axes, "y", asked, asked_words, number == 0)
            _name(axes, "x", place, place_words, layer == layers - 1)
    bar = figure.add_axes(
        _in_figure((WIDTH - RIGHT + 0.1, below, 0.1, size - top - TITLE - below), size)
    )
    figure.colorbar(axes.images[0], cax=bar, ticks=[0, 0.5, 1]).set_label("share")
    return figure


Box = tuple[float, float, float, float]


def _in_figure(box: Box, height: float) -> Box:
    """A box in inches, from the left and from below, as shares of the figure."""
    return box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height


def _name(
    axes: Axes, axis: Literal["x", "y"], name: str, words: Sequence[str] | None, outer: bool
) -> None:
    """Name an axis and its places, on the outer panels only."""
    side = axes.xaxis if axis == "x" else axes.yaxis
    if words is None:
        side.set_major_locator(integer_ticks(6))
    else:
        side.set_ticks(range(len(words)), words, fontsize=WORD_SIZE, parse_math=False)
        axes.tick_params(axis, rotation=90 if axis == "x" else 0)
    if not outer:
        axes.tick_params(axis, labelbottom=axis != "x", labelleft=axis != "y")
    elif words is None:
        side.set_label_text(name)
