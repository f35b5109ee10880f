"""What the memory did during one sequence, all on one time axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..trace import Trace
from .panels import (
    MOST_HEADS,
    MOST_ROWS,
    colour_range,
    draw_heads,
    draw_images,
    draw_shares,
    integer_ticks,
    mark_places,
    note_above,
    runs,
    shade_steps,
)
from .style import BLUE, DPI, LEFT, ORANGE, PALE, WEIGHT_MAP, WIDTH, house_style, stack_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT = 0.92  # inches, for the colour bars
LINES_HEIGHT = 0.62
ONE_SEQUENCE = (
    "; a trace is of one sequence: of a batch choose sequence b with "
    "Trace(*(part[:, b] for part in trace))"
)
# The axes of the trace's fields that are shown.
TRACE_AXES = {
    "write_weights": ("T", "Hw", "N"),
    "read_weights": ("T", "R", "N"),
    "usage": ("T", "N"),
    "allocation_gates": ("T", "Hw"),
    "write_gates": ("T", "Hw"),
    "free_gates": ("T", "R"),
    "read_modes": ("T", "R", "1+2Hw"),
    "write_strengths": ("T", "Hw"),
    "read_strengths": ("T", "R"),
}


class Group(NamedTuple):
    """Panels under one title, still to be drawn; their heights are in inches."""

    heights: list[float]
    draw: Callable[[list[Axes]], None]


@house_style()
def memory_view(
    inputs: Tensor,
    outputs: Tensor,
    targets: Tensor,
    mask: Tensor,
    trace: Trace,
    title: str,
    num_classes: int = 0,
) -> Figure:
    """Draw what went in and out in one sequence, and what the memory did at each step.

    From top to bottom: inputs, targets, outputs; the write weighting of each write head, the read
    weighting of each read head, the usage; allocation, write and free gates; the read modes of each
    read head; the strengths. More than four heads of a kind are shown by their sum or their mean
    and range. Steps, cells, bits and heads are counted from 0, as in the tensors. White or grey
    dotted lines are where the answer begins and ends.

    Args:
        inputs: (T, X), any range.
        outputs: (T, Y), probabilities in [0, 1].
        targets: (T, Y), in [0, 1].
        mask: (T), not zero at the steps where the answer counts. Only there one can be wrong.
        trace: of this sequence alone, (T, ...) in every field.
        title: above all.
        num_classes: how many outputs make one answer, the class of the largest: all Y or a part
            that divides Y. 0: each is a bit, one where it is above 0.5.

    Returns:
        the figure; `save_picture` writes it.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape does not fit, or `outputs` are no probabilities.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(trace, Trace):
        hint = "; of a bidirectional pair show one direction" if isinstance(trace, tuple) else ""
        raise TypeError(f"trace must be a dnc_fast.Trace, got {type(trace).__name__}{hint}")
    sizes: dict[str, int] = {}
    inputs = checked("inputs", inputs, ("T", "X"), sizes)
    outputs = checked("outputs", outputs, ("T", "Y"), sizes)
    targets = checked("targets", targets, ("T", "Y"), sizes)
    counts = checked("mask", mask, ("T",), sizes) != 0
    if num_classes and outputs.shape[1] % num_classes:
        raise ValueError(
            f"num_classes must divide the {outputs.shape[1]} outputs of a step, got {num_classes}"
        )
    wild = outputs[(outputs < 0) | (outputs > 1)]
    if wild.numel():
        raise ValueError(
            f"outputs must be probabilities in [0, 1], got {wild[0]:g}; "
            "torch.sigmoid turns logits into them"
        )
    shown = {}
    for field, letters in TRACE_AXES.items():
        values = getattr(trace, field)
        shown[field] = checked(f"trace.{field}", values, letters, sizes, hint=ONE_SEQUENCE)
        sizes.setdefault("1+2Hw", 1 + 2 * sizes["Hw"])
    trace = trace._replace(**shown)

    groups = [
        *data_groups(inputs, outputs, targets, counts, num_classes),
        *weighting_groups(trace),
        *gate_groups(trace),
        read_mode_group(trace.read_modes),
        *strength_groups(trace),
    ]
    return draw_over_time(title, groups, counts)


def draw_over_time(title: str, groups: list[Group], counts: Tensor) -> Figure:
    """All groups on one time axis, one below the other.

    Args:
        title: above all.
        groups: from top to bottom.
        counts: (T) bool, the steps at which the answer counts.
    """
    figure, stacked = stack_panels(title, [group.heights for group in groups], RIGHT)
    for panels, group in zip(stacked, groups, strict=True):
        group.draw(panels)
        for axes in panels:
            draw_answer_edges(axes, counts)
    lowest = stacked[-1][-1]
    lowest.set_xlim(-0.5, len(counts) - 0.5)
    lowest.set_xlabel("time step")
    lowest.xaxis.set_major_locator(integer_ticks(12))
    return figure


def checked(
    name: str, tensor: Tensor, letters: tuple[str, ...], sizes: dict[str, int], hint: str = ""
) -> Tensor:
    """The tensor as float32 on the CPU.

    Args:
        name: of the argument.
        tensor: what the user passed.
        letters: of its axes.
        sizes: of the axes known so far; new ones are added.
        hint: end of the message.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    shape = tuple(tensor.shape)
    fits = len(shape) == len(letters) and all(
        size == sizes.get(letter, size) and size > 0
        for letter, size in zip(letters, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(
            f"{letter}={sizes[letter]}" if letter in sizes else letter for letter in letters
        )
        raise ValueError(f"{name} must have shape ({expected}), got {shape}{hint}")
    sizes.update(zip(letters, shape, strict=True))
    return tensor.detach().to("cpu", torch.float32)


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
    note = f"\N{MULTIPLICATION SIGN} wrong {what}: {int(wrong.sum())} of {total}"

    def height(rows: int) -> float:
        return min(max(0.09 * rows, 0.62), 1.2)

    def draw_inputs(panels: list[Axes]) -> None:
        values, limits = inputs.unsqueeze(1), colour_range(inputs)
        draw_images(panels, values, "inputs", "feature", "value", limits)

    def draw_targets(panels: list[Axes]) -> None:
        values, limits = targets.unsqueeze(1), colour_range(targets)
        draw_images(panels, values, "targets", row, "value", limits)
        shade_steps(panels[0], ~counts)
        if not counts.all():
            note_above(panels[0], "hatched: steps where the answer does not count")

    def draw_outputs(panels: list[Axes]) -> None:
        draw_images(panels, outputs.unsqueeze(1), "outputs", row, "probability", (0.0, 1.0))
        shade_steps(panels[0], ~counts)
        mark_places(panels[0], wrong, WIDTH - LEFT - RIGHT, height(outputs.shape[1]))
        note_above(panels[0], note)

    return [
        Group([height(inputs.shape[1])], draw_inputs),
        Group([height(outputs.shape[1])], draw_targets),
        Group([height(outputs.shape[1])], draw_outputs),
    ]


def weighting_groups(trace: Trace) -> list[Group]:
    """Write weightings, read weightings and usage over time, cell 0 at the top."""
    cells = trace.usage.shape[1]
    rows = -(-cells // -(-cells // MOST_ROWS))

    def group(values: Tensor, title: str, unit: str) -> Group:
        heads = values.shape[1]
        if heads > MOST_HEADS:
            values = values.sum(dim=1, keepdim=True)
            title = f"{title}, sum of {heads} heads"
        limits = colour_range(values)
        heads = values.shape[1]
        # Equally many pixels a row, at least two: a write to one cell is to be seen.
        pixels = max(round((1.1 if heads == 1 else 0.9) * DPI / rows), 2)
        return Group(
            [pixels * rows / DPI] * heads,
            lambda panels: draw_images(panels, values, title, "cell", unit, limits, weights=True),
        )

    return [
        group(trace.write_weights, "write weighting", "weight"),
        group(trace.read_weights, "read weighting", "weight"),
        group(trace.usage.unsqueeze(1), "usage", "usage"),
    ]


def gate_groups(trace: Trace) -> list[Group]:
    """Write and allocation gates (together when there is one write head), then free gates."""
    write, allocation = trace.write_gates, trace.allocation_gates
    if write.shape[1] == 1:
        both = [("write gate", write[:, 0]), ("allocation gate", allocation[:, 0])]
        lines = {"write and allocation gate": both}
    else:
        lines = {"write gates": by_head(write), "allocation gates": by_head(allocation)}
    free = "free gate" if trace.free_gates.shape[1] == 1 else "free gates"
    lines[free] = by_head(trace.free_gates)

    def group(title: str, heads: list[tuple[str, Tensor]]) -> Group:
        def draw(panels: list[Axes]) -> None:
            draw_heads(panels[0], heads, title)
            panels[0].set_ylabel("gate")
            panels[0].set_ylim(-0.08, 1.08)
            panels[0].set_yticks([0, 0.5, 1])
            panels[0].yaxis.set_major_formatter("{x:g}")

        return Group([LINES_HEIGHT], draw)

    return [group(title, heads) for title, heads in lines.items()]


def read_mode_group(read_modes: Tensor) -> Group:
    """Read modes (T, R, 1 + 2 Hw) of each head, over all write heads' links together."""
    heads, write_heads = read_modes.shape[1], (read_modes.shape[2] - 1) // 2
    title = "read modes"
    if heads > MOST_HEADS:
        read_modes = read_modes.mean(dim=1, keepdim=True)
        title = f"read modes, mean of {heads} heads"
    parts = [
        ("backward", read_modes[..., :write_heads].sum(dim=-1), BLUE),
        ("content", read_modes[..., write_heads], PALE),
        ("forward", read_modes[..., write_heads + 1 :].sum(dim=-1), ORANGE),
    ]
    heads = read_modes.shape[1]
    heights = [LINES_HEIGHT] if heads == 1 else [0.75 * LINES_HEIGHT] * heads
    return Group(heights, lambda panels: draw_shares(panels, parts, title))


def strength_groups(trace: Trace) -> list[Group]:
    """Strengths of the content lookups, one panel when there is one write head."""
    write, read = trace.write_strengths, trace.read_strengths
    if write.shape[1] == 1:
        lines = {"strengths": by_head(write, "write") + by_head(read, "read")}
    else:
        lines = {"write strengths": by_head(write), "read strengths": by_head(read)}

    def group(title: str, heads: list[tuple[str, Tensor]]) -> Group:
        def draw(panels: list[Axes]) -> None:
            draw_heads(panels[0], heads, title)
            panels[0].set_ylabel("strength")
            values = torch.cat([values.flatten() for _, values in heads])
            finite = values[values.isfinite()]
            low, high = 1.0, 2.0
            if finite.numel():
                low, high = min(float(finite.min()), low), max(float(finite.max()), high)
            if high > 20 and low > 0:
                panels[0].set_yscale("log")
                panels[0].set_ylim(low / 1.2, high * 1.3)
                panels[0].yaxis.set_minor_formatter("")
            else:
                panels[0].set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
                panels[0].yaxis.set_major_locator(integer_ticks(4))
            panels[0].yaxis.set_major_formatter("{x:g}")

        return Group([LINES_HEIGHT], draw)

    return [group(title, heads) for title, heads in lines.items()]


def by_head(values: Tensor, name: str = "") -> list[tuple[str, Tensor]]:
    """Values (T, heads) as one line a head, or all heads in one when there are too many."""
    heads = values.shape[1]
    if heads > MOST_HEADS:
        return [(f"{name} mean and range of {heads} heads".strip(), values)]
    if heads == 1:
        return [(name, values[:, 0])]
    return [(f"{name} head {head}".strip(), values[:, head]) for head in range(heads)]


def draw_answer_edges(axes: Axes, counts: Tensor) -> None:
    """Dotted lines where the steps that count begin and end, unless there are very many."""
    edges = {edge for first, last in runs(counts) for edge in (first - 0.5, last + 0.5)}
    edges -= {-0.5, counts.shape[0] - 0.5}
    if len(edges) <= 24:
        dark = any(image.get_cmap().name == WEIGHT_MAP for image in axes.images)
        for edge in edges:
            axes.axvline(
                edge,
                color="white" if dark else "#444444",
                linestyle=(0, (1, 1.5)),
                linewidth=0.9,
            )
