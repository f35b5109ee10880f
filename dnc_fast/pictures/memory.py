"""What the memory did during one sequence, all on one time axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..trace import Trace
from .arguments import checked
from .groups import (
    RIGHT,
    Group,
    draw_over_time,
    image_group,
    image_height,
    output_group,
    weighting_group,
)
from .panels import (
    MOST_HEADS,
    draw_heads,
    draw_shares,
    integer_ticks,
    mark_places,
    note_above,
    shade_steps,
)
from .style import BLUE, LEFT, ORANGE, PALE, WIDTH, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES_HEIGHT = 0.62
Lines = list[tuple[str, Tensor]]
"""Names and values, as `draw_heads` takes them."""


@house_style()
def memory_view(
    inputs: Tensor,
    outputs: Tensor,
    targets: Tensor,
    mask: Tensor,
    trace: Trace,
    title: str,
    num_classes: int = 0,
    words: Sequence[str] | None = None,
) -> Figure:
    """Draw what went in and out in one sequence, and what the memory did at each step.

    From top to bottom: inputs, targets, outputs; the write weighting of each write head, the read
    weighting of each read head, the usage; allocation, write and free gates; the read modes of each
    read head; the strengths. More than four heads of a kind are shown by their sum or their mean
    and range. Steps, cells, bits and heads are counted from 0, as in the tensors. White or grey
    dotted lines mark where the answer begins and ends.

    Args:
        inputs: (T, X), any range.
        outputs: (T, Y), probabilities in [0, 1].
        targets: (T, Y), in [0, 1].
        mask: (T), not zero at the steps where the answer counts. Only there it can be wrong.
        trace: of this sequence alone, (T, ...) in every field.
        title: above all.
        num_classes: how many outputs make one answer, which is the class of the largest: all Y or a
            part that divides Y. 0: each output is a bit, one above 0.5.
        words: of each step, shown on the time axis; None for numbers.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape does not fit, or `outputs` are not probabilities.
    """
    trace, (inputs, outputs, targets, mask) = checked(
        trace, inputs=inputs, outputs=outputs, targets=targets, mask=mask
    )
    if num_classes and outputs.shape[1] % num_classes:
        raise ValueError(
            f"num_classes must divide the {outputs.shape[1]} outputs of a step, got {num_classes}"
        )
    outside = outputs[(outputs < 0) | (outputs > 1)]
    if outside.numel():
        raise ValueError(
            f"outputs must be probabilities in [0, 1], got {outside[0]:g}; "
            "torch.sigmoid turns logits into them"
        )
    groups = [
        *data_groups(inputs, outputs, targets, mask != 0, num_classes),
        weighting_group(trace.write_weights, "write weighting"),
        weighting_group(trace.read_weights, "read weighting"),
        weighting_group(trace.usage.unsqueeze(1), "usage", "usage"),
        *gate_groups(trace),
        read_mode_group(trace.read_modes),
        *strength_groups(trace),
    ]
    return draw_over_time(title, groups, mask != 0, words)


def wrong_outputs(outputs: Tensor, targets: Tensor, counts: Tensor, num_classes: int) -> Tensor:
    """Which outputs (T, Y) are wrong answers: bits, or classes that were chosen; bool (T, Y)."""
    if num_classes:
        said, wanted = (part.unflatten(1, (-1, num_classes)) for part in (outputs, targets))
        chosen = F.one_hot(said.argmax(-1), num_classes).bool()
        wrong = (chosen & (said.argmax(-1) != wanted.argmax(-1)).unsqueeze(-1)).flatten(1)
    else:
        wrong = ((outputs > 0.5) != (targets > 0.5)) | outputs.isnan()
    return wrong & counts.unsqueeze(1)


def data_groups(
    inputs: Tensor, outputs: Tensor, targets: Tensor, counts: Tensor, num_classes: int
) -> list[Group]:
    """Inputs (T, X), targets and outputs (T, Y), with wrong answers where `counts` (T) is true."""
    wrong = wrong_outputs(outputs, targets, counts, num_classes)
    row, what = ("class", "answers") if num_classes else ("bit", "bits")
    total = int(counts.sum()) * outputs.shape[1] // (num_classes or 1)

    def finish_targets(axes: Axes) -> None:
        shade_steps(axes, ~counts)
        if not counts.all():
            note_above(axes, "hatched: steps where the answer does not count")

    def finish_outputs(axes: Axes) -> None:
        shade_steps(axes, ~counts)
        mark_places(axes, wrong, WIDTH - LEFT - RIGHT, image_height(outputs.shape[1]))
        note_above(axes, f"\N{MULTIPLICATION SIGN} wrong {what}: {int(wrong.sum())} of {total}")

    return [
        image_group(inputs, "inputs", "feature"),
        image_group(targets, "targets", row, finish=finish_targets),
        output_group(outputs, row, finish_outputs),
    ]


def by_head(values: Tensor, name: str = "") -> Lines:
    """Values (T, heads) as a line for each head, or as one where there are too many."""
    heads = values.shape[1]
    if heads > MOST_HEADS:
        return [(f"{name} mean and range of {heads} heads".strip(), values)]
    if heads == 1:
        return [(name, values[:, 0])]
    return [(f"{name} head {head}".strip(), values[:, head]) for head in range(heads)]


def line_groups(
    panels: dict[str, Lines], unit: str, scale: Callable[[Axes, Lines], None]
) -> list[Group]:
    """Lines over time, a panel for each title; `scale` sets its vertical axis."""

    def group(title: str, lines: Lines) -> Group:
        def draw(panels: list[Axes]) -> None:
            draw_heads(panels[0], lines, title)
            panels[0].set_ylabel(unit)
            scale(panels[0], lines)
            panels[0].yaxis.set_major_formatter("{x:g}")

        return Group([LINES_HEIGHT], draw)

    return [group(title, lines) for title, lines in panels.items()]


def gate_groups(trace: Trace) -> list[Group]:
    """Write and allocation gates (together when there is one write head), then free gates."""
    write, allocation, free = trace.write_gates, trace.allocation_gates, trace.free_gates
    if write.shape[1] == 1:
        both = by_head(write, "write gate") + by_head(allocation, "allocation gate")
        panels = {"write and allocation gate": both}
    else:
        panels = {"write gates": by_head(write), "allocation gates": by_head(allocation)}
    panels["free gate" if free.shape[1] == 1 else "free gates"] = by_head(free)

    def scale(axes: Axes, lines: Lines) -> None:
        axes.set_ylim(-0.08, 1.08)
        axes.set_yticks([0, 0.5, 1])

    return line_groups(panels, "gate", scale)


def read_mode_group(read_modes: Tensor) -> Group:
    """Read modes (T, R, 1 + 2 Hw) of each head; those of all write heads' links are summed."""
    heads, write_heads = read_modes.shape[1], (read_modes.shape[2] - 1) // 2
    title = "read modes"
    if heads > MOST_HEADS:
        read_modes = read_modes.mean(dim=1, keepdim=True)
        title = f"read modes, mean of {heads} heads"
        heads = 1
    parts = [
        ("backward", read_modes[..., :write_heads].sum(dim=-1), BLUE),
        ("content", read_modes[..., write_heads], PALE),
        ("forward", read_modes[..., write_heads + 1 :].sum(dim=-1), ORANGE),
    ]
    heights = [LINES_HEIGHT] if heads == 1 else [0.75 * LINES_HEIGHT] * heads
    return Group(heights, lambda panels: draw_shares(panels, parts, title))


def strength_groups(trace: Trace) -> list[Group]:
    """Strengths of the content lookups, in one panel when there is one write head."""
    write, read = trace.write_strengths, trace.read_strengths
    if write.shape[1] == 1:
        panels = {"strengths": by_head(write, "write") + by_head(read, "read")}
    else:
        panels = {"write strengths": by_head(write), "read strengths": by_head(read)}

    def scale(axes: Axes, lines: Lines) -> None:
        values = torch.cat([values.flatten() for _, values in lines])
        finite = values[values.isfinite()].tolist()
        low, high = min([1.0, *finite]), max([2.0, *finite])
        if high > 20 and low > 0:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.2, high * 1.3)
            axes.yaxis.set_minor_formatter("")
        else:
            axes.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
            axes.yaxis.set_major_locator(integer_ticks(4))

    return line_groups(panels, "strength", scale)
