"""Which of the things told the read heads point at afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..trace import Trace
from .arguments import checked
from .style import VERMILLION, WEIGHT_MAP, WIDTH, house_style, stack_panels, whole_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_HEIGHT = 0.13
NAMES_WIDTH = 3.3
"""Inches for the names of what was told."""
RIGHT = 0.75
LEAST_WRITE = 0.02
"""A write with less weight than this does not count."""


@house_style()
def read_view(told: Mapping[int, str], trace: Trace, title: str, unit: str = "triple") -> Figure:
    """Draw which of the triples told each read head points at afterwards.

    A cell is taken to hold the triple that was written to it with the largest weight; each later
    write of weight w leaves 1 - w of that. Each row is a triple, in the order in which heads first
    point at them; the dot of each column is on the triple that the head reads most. Triples that no
    head ever points at are left out; the lowest row stands for all cells that hold no triple.

    Args:
        told: the name of the triple told at each step, for steps from 0 on.
        trace: of this sequence alone, (T, ...) in every field.
        title: above all.
        unit: what a thing told is called.

    Raises:
        TypeError: trace is not a `Trace`.
        ValueError: a shape does not fit, or no step follows the triples.
    """
    from matplotlib import colormaps

    trace, _ = checked(trace, ("read_weights", "write_weights"))
    read = trace.read_weights
    first = max(told, default=-1) + 1
    if not 0 < first < len(read):
        raise ValueError(
            f"told must end before the last of {len(read)} steps and hold one, got {first} steps"
        )
    shares = triples_read(read, trace.write_weights.sum(1), first)  # (T - first, R, first + 1)
    pointed = shares.argmax(-1)
    rows = [row for row in dict.fromkeys(pointed.flatten().tolist()) if row < first]
    rows.append(first)
    place = {row: number for number, row in enumerate(rows)}
    labels = [*(told.get(row, "") for row in rows[:-1]), f"(no {unit})"]
    heads = shares.shape[1]
    height = whole_pixels(max(ROW_HEIGHT * len(rows), 0.5))
    figure, stacked = stack_panels(title, [[height] for _ in range(heads)], RIGHT)
    width = (WIDTH - NAMES_WIDTH - RIGHT) / WIDTH
    for head, (axes,) in enumerate(stacked):
        box = axes.get_position()
        axes.set_position((NAMES_WIDTH / WIDTH, box.y0, width, box.height))
        image = axes.imshow(
            shares[:, head][:, rows].T.numpy(),
            cmap=colormaps[WEIGHT_MAP],
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            interpolation="nearest",
            extent=(first - 0.5, len(read) - 0.5, len(rows) - 0.5, -0.5),
        )
        dots = [place[row] for row in pointed[:, head].tolist()]
        axes.plot(range(first, len(read)), dots, "o", color=VERMILLION, markersize=3)
        axes.set_yticks(range(len(rows)), labels, fontsize=6.5, parse_math=False)
        axes.set_title(f"read head {head}: share of its weighting by {unit}")
    top, low = stacked[0][0].get_position(), stacked[-1][0].get_position()
    bar = figure.add_axes((top.x1 + 0.1 / WIDTH, low.y0, 0.1 / WIDTH, top.y1 - low.y0))
    figure.colorbar(image, cax=bar, ticks=[0, 0.5, 1]).set_label("share of the weighting")
    stacked[-1][0].set_xlabel(f"time step; a dot marks the {unit} that is read most")
    stacked[-1][0].set_xlim(first - 0.5, len(read) - 0.5)
    return figure


def triples_read(read: Tensor, write: Tensor, first: int) -> Tensor:
    """How much of each head's weighting lies on cells that hold each triple.

    Args:
        read: (T, R, N) read weightings.
        write: (T, N) write weightings, of all heads together.
        first: the steps before this one tell the triples.

    Returns:
        (T - first, R, first + 1): shares that sum to one, the last of cells that hold none.
    """
    steps, heads, cells = read.shape
    holder, held = torch.full((cells,), first), torch.full((cells,), LEAST_WRITE)
    found = []
    for step in range(steps):
        left = held * (1.0 - write[step])
        written = write[step] > left
        holder = torch.where(written, min(step, first), holder)
        held = torch.where(written, write[step], left)
        if step >= first:
            shares = torch.zeros(heads, first + 1)
            shares.index_add_(1, holder, read[step])
            shares[:, first] += (1.0 - read[step].sum(-1)).clamp(min=0.0)
            found.append(shares)
    return torch.stack(found)
