"""A graph with the path that was asked for and the one that was answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .style import BLACK, BLUE, GREY, PALE, VERMILLION, house_style, stack_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Triple = tuple[str, str, str]

GRAPH_HEIGHT = 6.0
ROUNDS = 300
"""How often all nodes are moved while they are spread out."""
GRAVITY = 0.5
"""The pull of all nodes towards their centre, besides that of the edges."""


@house_style()
def graph_view(
    triples: Sequence[Triple], asked: Sequence[Triple], answered: Sequence[Triple], title: str
) -> Figure:
    """Draw a graph, the path that was asked for and the one that was answered.

    Nodes lie where springs would pull them; their positions mean nothing. The path asked for is a
    wide band. Each edge answered is an arrow with its number and name, red where it is neither an
    edge of the graph nor asked for.

    Args:
        triples: names of source, edge and destination of each edge.
        asked: the edges of the right answer.
        answered: the edges that the model gave.
        title: above all.

    Raises:
        ValueError: there are no triples.
    """
    if not triples:
        raise ValueError("triples must hold at least one edge, got none")
    known = {name for source, _, end in triples for name in (source, end)}
    drawn = [*triples, *answered]
    names = list(dict.fromkeys(name for source, _, end in drawn for name in (source, end)))
    edges = [(names.index(source), names.index(end)) for source, _, end in drawn]
    spots = spread_out(len(names), edges).tolist()
    places = {name: (x, y) for name, (x, y) in zip(names, spots, strict=True)}
    figure, ((axes,),) = stack_panels(title, [[GRAPH_HEIGHT]], 0.3)
    axes.set_axis_off()
    for source, _, end in triples:
        draw_edge(axes, places[source], places[end], PALE, 0.8)
    for source, _, end in asked:
        draw_edge(axes, places[source], places[end], BLUE, 7.0, alpha=0.3)
    labels: list[Annotation] = []
    for number, (source, edge, end) in enumerate(answered, 1):
        right = (source, edge, end) in (*triples, *asked)
        colour = BLACK if right else VERMILLION
        draw_edge(axes, places[source], places[end], colour, 1.4)
        (x, y), (to_x, to_y) = places[source], places[end]
        label = axes.annotate(
            f"{number}: {edge}",
            (0.65 * x + 0.35 * to_x, 0.65 * y + 0.35 * to_y),  # away from that of an edge back
            ha="center",
            va="center",
            fontsize=6.5,
            color=colour,
            bbox={"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            parse_math=False,
        )
        labels.append(label)
    ends = {source for source, _, _ in asked[:1]} | {end for _, _, end in asked[-1:]}
    for name, (x, y) in places.items():
        axes.plot(x, y, "o", color=GREY if name in known else VERMILLION, markersize=4)
        label = axes.annotate(
            name,
            (x, y),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            fontweight="bold" if name in ends else "normal",
            parse_math=False,
        )
        labels.append(label)
    from matplotlib.lines import Line2D

    looks = ((PALE, 0.8, "edge"), ("#B2D4E7", 7.0, "wanted"), (BLACK, 1.4, "answered"))
    lines = [
        Line2D([], [], color=colour, linewidth=width, label=what) for colour, width, what in looks
    ]
    lines.append(Line2D([], [], color=VERMILLION, linewidth=1.4, label="answered, no such edge"))
    axes.legend(handles=lines, loc="lower left", frameon=False)
    axes.margins(0.08)
    move_apart(figure, labels)
    return figure


def move_apart(figure: Figure, labels: list[Annotation]) -> None:
    """Move labels that cover each other up and down, each by as little as will do."""
    figure.draw_without_rendering()
    boxes = torch.tensor([list(label.get_window_extent().extents) for label in labels])
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    start = middle.clone()
    for _ in range(ROUNDS):
        between = middle.unsqueeze(1) - middle.unsqueeze(0)
        overlap = (half.unsqueeze(1) + half.unsqueeze(0) + 1.0 - between.abs()).clamp(min=0.0)
        covered = (overlap > 0).all(-1).fill_diagonal_(False)
        if not covered.any():
            break
        lower = torch.arange(len(labels)).unsqueeze(1) < torch.arange(len(labels))
        way = torch.where(
            between[..., 1] == 0, torch.where(lower, -1.0, 1.0), between[..., 1].sign()
        )
        middle[:, 1] += 0.25 * (way * overlap[..., 1] * covered).sum(1)
    for label, (_, moved) in zip(labels, (middle - start).tolist(), strict=True):
        if moved and label.get_anncoords() != "offset points":
            x, y = label.get_transform().transform(label.xy)
            label.set_anncoords("figure pixels")
            label.xyann = (x, y + moved)
        elif moved:
            x, y = label.xyann
            label.xyann = (x, y + 72 * moved / figure.dpi)


def draw_edge(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str,
    width: float,
    alpha: float = 1.0,
) -> None:
    """An arrow from node to node, bent so that edges there and back can be told apart."""
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
    """Positions of nodes in the unit square: edges pull, nodes push each other away.

    After Fruchterman and Reingold (1991), but starting from a circle, so nothing is random.

    Returns:
        (nodes, 2) float64.
    """
    turns = torch.arange(nodes, dtype=torch.float64) * (2 * torch.pi / nodes)
    places = 0.5 + 0.4 * torch.stack([turns.cos(), turns.sin()], 1)
    wish = 0.9 / nodes**0.5  # the distance at which both forces are equal
    pulls = torch.zeros(nodes, nodes, dtype=torch.float64)
    for source, end in edges:
        pulls[source, end] = pulls[end, source] = 1.0
    for number in range(ROUNDS):
        between = places.unsqueeze(1) - places.unsqueeze(0)
        apart = between.norm(dim=-1).clamp(min=1e-3)
        force = (wish / apart).square() - pulls * apart / wish
        force = (force / apart).fill_diagonal_(0.0)
        move = (between * force.unsqueeze(-1)).sum(1) * wish
        move = move + GRAVITY * (places.mean(0) - places)  # unconnected nodes stay in the picture
        length = move.norm(dim=1, keepdim=True).clamp(min=1e-9)
        places = places + move / length * length.clamp(max=0.1 * (1 - number / ROUNDS))
    low, high = places.amin(0), places.amax(0)
    return (places - low) / (high - low).clamp(min=1e-9)
