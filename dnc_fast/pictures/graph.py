"""A graph with the path asked and the path answered, and which triples were read on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..trace import Trace
from .memory import TRACE_AXES, checked
from .style import (
    BLACK,
    BLUE,
    GREY,
    PALE,
    VERMILLION,
    WEIGHT_MAP,
    WIDTH,
    house_style,
    stack_panels,
    whole_pixels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Triple = tuple[str, str, str]

GRAPH_HEIGHT = 6.0
ROUNDS = 300
"""Moves of all nodes while they are spread out."""
GRAVITY = 0.5
"""Pull of all nodes to their middle, beside that of the edges."""
ROW_HEIGHT = 0.13
NAMES_WIDTH = 3.3
"""Inches for the names of triples."""
LEAST_WRITE = 0.1
"""A cell is taken to hold the last triple that was written to it with at least this weight."""


@house_style()
def graph_view(
    triples: Sequence[Triple], asked: Sequence[Triple], answered: Sequence[Triple], title: str
) -> Figure:
    """Draw a graph, the path that was asked for and the one that was answered.

    Nodes lie where springs would pull them; their places mean nothing. The wanted path is a wide
    band, the answered one an arrow with the name of its edge, red where it is neither wanted nor an
    edge of the graph.

    Args:
        triples: names of source, edge and destination of each edge.
        asked: the edges wanted.
        answered: the edges answered.
        title: above all.

    Returns:
        the figure; `save_picture` writes it.

    Raises:
        ValueError: there are no triples.
        ImportError: matplotlib is not installed.
    """
    if not triples:
        raise ValueError("triples must hold at least one edge, got none")
    known = list(dict.fromkeys(name for source, _, end in triples for name in (source, end)))
    strange = [name for source, _, end in answered for name in (source, end) if name not in known]
    names = [*known, *dict.fromkeys(strange)]
    joined = [*triples, *answered]
    edges = [(names.index(source), names.index(end)) for source, _, end in joined]
    spots = [(x, y) for x, y in spread_out(len(names), edges).tolist()]
    places = dict(zip(names, spots, strict=True))
    figure, ((axes,),) = stack_panels(title, [[GRAPH_HEIGHT]], 0.3)
    axes.set_axis_off()
    for source, _, end in triples:
        draw_edge(axes, places[source], places[end], PALE, 0.8)
    for source, _, end in asked:
        draw_edge(axes, places[source], places[end], BLUE, 7.0, alpha=0.3)
    for number, (source, edge, end) in enumerate(answered, 1):
        right = (source, edge, end) in (*triples, *asked)
        colour = BLACK if right else VERMILLION
        draw_edge(axes, places[source], places[end], colour, 1.4)
        (x, y), (to_x, to_y) = places[source], places[end]
        axes.annotate(
            f"{number}: {edge}",
            (0.65 * x + 0.35 * to_x, 0.65 * y + 0.35 * to_y),  # apart from that of the way back
            ha="center",
            va="center",
            fontsize=6.5,
            color=colour,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    ends = {source for source, _, _ in asked[:1]} | {end for _, _, end in asked[-1:]}
    for name, (x, y) in places.items():
        axes.plot(x, y, "o", color=GREY if name in known else VERMILLION, markersize=4)
        axes.annotate(
            name,
            (x, y),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            fontweight="bold" if name in ends else "normal",
            parse_math=False,
        )
    from matplotlib.lines import Line2D

    looks = ((PALE, 0.8, "edge"), ("#B2D4E7", 7.0, "wanted"), (BLACK, 1.4, "answered"))
    lines = [
        Line2D([], [], color=colour, linewidth=width, label=what) for colour, width, what in looks
    ]
    lines.append(Line2D([], [], color=VERMILLION, linewidth=1.4, label="answered, no such edge"))
    axes.legend(handles=lines, loc="lower left", frameon=False)
    axes.margins(0.08)
    return figure


def draw_edge(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    width: float,
    alpha: float = 1.0,
) -> None:
    """An arrow from node to node, bent to the side so that there and back differ."""
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": "-|>" if width < 5 else "-",
            "color": colour,
            "alpha": alpha,
            "linewidth": width,
            "shrinkA": 4,
            "shrinkB": 4,
            "connectionstyle": "arc3,rad=0.08",
            "mutation_scale": 8,
        },
    )


def spread_out(nodes: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Places of nodes in the unit square: edges pull, nodes push each other away.

    After Fruchterman and Reingold (1991), from a circle, without any chance.

    Returns:
        (nodes, 2) float64.
    """
    turns = torch.arange(nodes, dtype=torch.float64) * (2 * torch.pi / nodes)
    places = 0.5 + 0.4 * torch.stack([turns.cos(), turns.sin()], 1)
    wish = 0.9 / nodes**0.5  # the distance at which both forces are even
    pulls = torch.zeros(nodes, nodes, dtype=torch.float64)
    for source, end in edges:
        pulls[source, end] = pulls[end, source] = 1.0
    for number in range(ROUNDS):
        between = places.unsqueeze(1) - places.unsqueeze(0)
        apart = between.norm(dim=-1).clamp(min=1e-3)
        force = (wish / apart).square() - pulls * apart / wish
        force = (force / apart).fill_diagonal_(0.0)
        move = (between * force.unsqueeze(-1)).sum(1) * wish
        move = move + GRAVITY * (places.mean(0) - places)  # what nothing joins stays in sight
        length = move.norm(dim=1, keepdim=True).clamp(min=1e-9)
        places = places + move / length * length.clamp(max=0.1 * (1 - number / ROUNDS))
    low, high = places.amin(0), places.amax(0)
    return (places - low) / (high - low).clamp(min=1e-9)


@house_style()
def read_view(told: Mapping[int, str], trace: Trace, title: str) -> Figure:
    """Draw which triples each read head points at, in the steps after they were told.

    A cell is taken to hold the last triple that was written to it with a weight of 0.1 or more. A
    row is a triple, in the order of first being pointed at; the dot of a column is on the triple
    that the head reads most of all. Triples that no head ever points at are left out; the lowest
    row is all else: cells that hold no triple.

    Args:
        told: the name of the triple told at each step, for steps from 0 on.
        trace: of this sequence alone, (T, ...) in every field.
        title: above all.

    Returns:
        the figure; `save_picture` writes it.

    Raises:
        TypeError: trace is no trace.
        ValueError: a shape does not fit, or no step follows the triples.
        ImportError: matplotlib is not installed.
    """
    from matplotlib import colormaps

    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be a dnc_fast.Trace, got {type(trace).__name__}")
    sizes: dict[str, int] = {}
    read = checked("trace.read_weights", trace.read_weights, TRACE_AXES["read_weights"], sizes)
    write = checked("trace.write_weights", trace.write_weights, TRACE_AXES["write_weights"], sizes)
    first = max(told, default=-1) + 1
    if not 0 < first < len(read):
        raise ValueError(
            f"told must end before the last of {len(read)} steps and hold one, got {first} steps"
        )
    shares = triples_read(read, write.sum(1), first)  # (T - first, R, first + 1)
    pointed = shares.argmax(-1)
    rows = [row for row in dict.fromkeys(pointed.flatten().tolist()) if row < first]
    rows.append(first)
    place = {row: number for number, row in enumerate(rows)}
    labels = [*(told.get(row, "") for row in rows[:-1]), "(no triple)"]
    heads = shares.shape[1]
    height = whole_pixels(max(ROW_HEIGHT * len(rows), 0.5))
    figure, stacked = stack_panels(title, [[height] for _ in range(heads)], 0.3)
    width = (WIDTH - NAMES_WIDTH - 0.3) / WIDTH
    steps = range(first, len(read))
    for head, (axes,) in enumerate(stacked):
        box = axes.get_position()
        axes.set_position((NAMES_WIDTH / WIDTH, box.y0, width, box.height))
        axes.imshow(
            shares[:, head][:, rows].T.numpy(),
            cmap=colormaps[WEIGHT_MAP],
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            interpolation="nearest",
            extent=(first - 0.5, len(read) - 0.5, len(rows) - 0.5, -0.5),
        )
        axes.plot(
            steps,
            [place[row] for row in pointed[:, head].tolist()],
            "o",
            color=VERMILLION,
            markersize=3,
        )
        axes.set_yticks(range(len(rows)), labels, fontsize=6.5, parse_math=False)
        axes.set_title(f"read head {head}: share of its weighting by triple")
    stacked[-1][0].set_xlabel("time step; a dot is on the triple that is read most of all")
    stacked[-1][0].set_xlim(first - 0.5, len(read) - 0.5)
    return figure


def triples_read(read: Tensor, write: Tensor, first: int) -> Tensor:
    """How much of each head's weighting lies on cells that hold each triple.

    Args:
        read: (T, R, N) read weightings.
        write: (T, N) write weightings, of all heads together.
        first: the steps before are of triples.

    Returns:
        (T - first, R, first + 1): shares of one, the last of cells that hold none.
    """
    steps, heads, cells = read.shape
    holder = torch.full((cells,), first)
    found = []
    for step in range(steps):
        written = write[step] >= LEAST_WRITE
        holder = torch.where(written, min(step, first), holder)
        if step >= first:
            shares = torch.zeros(heads, first + 1)
            shares.index_add_(1, holder, read[step])
            shares[:, first] += (1.0 - read[step].sum(-1)).clamp(min=0.0)
            found.append(shares)
    return torch.stack(found)
