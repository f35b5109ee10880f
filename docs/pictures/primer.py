"""The pictures of docs/primer.md, from a model that copies two sequences one after the other.

dnc-fast train copy --num-cells 10 --max-length 6 --num-sequences 2 --seed 2 --threads 1 --out RUN
python docs/pictures/primer.py RUN
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dnc_fast
from dnc_fast.linkages.dense import update_link
from dnc_fast.pictures import save_picture
from dnc_fast.pictures.groups import Group, draw_over_time
from dnc_fast.pictures.memory import gate_groups, read_mode_group
from dnc_fast.pictures.panels import colour_range, draw_images
from dnc_fast.pictures.style import GREY, ORANGE, house_style
from dnc_fast.reference import allocation_weighting
from dnc_fast.training import Probe, probe

HEIGHT = 0.85
"""Inches of a panel with a row for each cell."""


def cells(values: Tensor, title: str, unit: str) -> Group:
    """Ten cells over time, (T, N) in [0, 1]."""

    def draw(panels: list[Any]) -> None:
        limits = (0.0, 1.0)
        draw_images(panels, values.unsqueeze(1), title, "cell", unit, limits, weights=True)

    return Group([HEIGHT], draw)


def bits(values: Tensor, title: str, row: str) -> Group:
    """Bits or probabilities over time, (T, rows)."""

    def draw(panels: list[Any]) -> None:
        limits = colour_range(values)
        draw_images(panels, values.unsqueeze(1), title, row, "value", limits)

    return Group([0.55], draw)


def over_time(seen: Probe) -> dict[str, Any]:
    """The pictures with time from left to right."""
    trace, mask = seen.trace, seen.mask
    write, read = trace.write_weights[:, 0], trace.read_weights[:, 0]
    gates = gate_groups(trace)
    groups = {
        "sequence": [
            bits(seen.inputs, "inputs: six bits, and two cues (start, recall)", "feature"),
            bits(seen.outputs * mask.unsqueeze(1), "answers", "bit"),
            cells(write, "where it writes", "weight"),
            cells(read, "where it reads", "weight"),
        ],
        "usage": [
            cells(write, "write weighting", "weight"),
            cells(read, "read weighting", "weight"),
            gates[1],
            cells(trace.usage, "usage", "usage"),
        ],
        "precedence": [
            cells(write, "write weighting", "weight"),
            cells(trace.precedence[:, 0], "precedence", "share"),
        ],
        "reads": [
            cells(trace.backward_weights[:, 0, 0], "backward: one write earlier", "weight"),
            cells(trace.read_content_weights[:, 0], "content: most similar to the key", "weight"),
            cells(trace.forward_weights[:, 0, 0], "forward: one write later", "weight"),
            read_mode_group(trace.read_modes),
            cells(
                read, "read weighting: the sum of the three, weighted by the read modes", "weight"
            ),
        ],
    }
    return {name: draw_over_time("", parts, mask) for name, parts in groups.items()}


def allocation(seen: Probe, step: int) -> Any:
    """Usages and allocation weightings, with the cells in the order of the free list."""
    from matplotlib.figure import Figure

    crowded = torch.tensor([0.95, 0.4, 0.9, 0.6, 0.9, 0.5, 0.8, 0.95, 0.7, 0.9])
    shown = {
        f"the model at step {step}: the next write goes to one cell": seen.trace.usage[step],
        "a memory that is almost full: it is spread out": crowded,
    }
    figure = Figure(figsize=(9.0, 2.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (title, usage) in zip(panels, shown.items(), strict=True):
        order = torch.argsort(usage, stable=True)
        weights = allocation_weighting(usage.unsqueeze(0))[0, order]
        places = torch.arange(len(order))
        axes.bar(places - 0.2, usage[order].numpy(), 0.4, color=GREY, label="usage")
        axes.bar(places + 0.2, weights.numpy(), 0.4, color=ORANGE, label="allocation weighting")
        axes.set_xticks(places.tolist(), order.tolist())
        axes.set_ylim(0, 1.05)
        axes.set_yticks([0, 0.5, 1])
        axes.set_title(title)
        axes.set_xlabel("cell, from the least used to the most used")
    panels[1].legend(loc="upper left")
    return figure


def links(seen: Probe, steps: list[int]) -> Any:
    """The link matrix after some steps, and which cell was written after which."""
    from matplotlib.figure import Figure

    write, precedence = seen.trace.write_weights, seen.trace.precedence
    link = torch.zeros(1, 1, write.shape[-1], write.shape[-1])
    figure = Figure(figsize=(9.0, 3.1), layout="constrained")
    panels = iter(figure.subplots(1, len(steps), sharey=True))
    before = torch.zeros_like(precedence[:1])
    for step in range(max(steps) + 1):
        link = update_link(link, before, write[step : step + 1])
        before = precedence[step : step + 1]
        if step in steps:
            axes = next(panels)
            image = axes.imshow(link[0, 0].numpy(), vmin=0, vmax=1)
            axes.set_title(f"after step {step}")
            axes.set_xlabel("j: the cell written before")
            ticks = range(0, write.shape[-1], 2)
            axes.set_xticks(ticks)
            axes.set_yticks(ticks)
            if step == steps[0]:
                axes.set_ylabel("i: the cell written after")
    figure.colorbar(image, ax=figure.axes, ticks=[0, 0.5, 1], shrink=0.85).set_label("link")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the trained model")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="(%(default)s)")
    options = parser.parse_args()
    seen = probe(*dnc_fast.load_run(options.run), seed=2)
    with house_style():
        figures = {
            **over_time(seen),
            "allocation": allocation(seen, 20),
            "links": links(seen, [3, 6, 20]),
        }
        for name, figure in figures.items():
            print(save_picture(figure, options.out / f"primer_{name}.png"))


if __name__ == "__main__":
    main()
