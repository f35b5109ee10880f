"""Pictures of results: time and peak memory of a training step as one letter grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dnc_fast.pictures import panels, style

from ..harness.results import Results
from . import growth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEANING = {
    "N": "memory cells N",
    "T": "time steps T",
    "B": "sequences in a batch B",
    "R": "read heads R",
    "W": "cell size W",
}
LOOKS = dict(zip(("cpu", "dnc", "reference", "lstm", "triton"), style.LOOKS, strict=True))


def draw_curve(axes: Axes, curve: growth.Curve, scale: float) -> None:
    look = LOOKS[curve.provider]
    found = curve.exponents()
    label = curve.provider + (f" ~ {found[1]:.2f}" if found else "")
    axes.loglog(
        curve.x, [value * scale for value in curve.y], label=label, color=look.color,
        linestyle=look.linestyle, marker=look.marker, markersize=4,
    )  # fmt: skip


def growth_picture(results: Results, letter: str, path: Path) -> Path:
    """Time above, with the limit, and peak memory below where it was measured.

    Exponents in the legend are of the last points. The limit is `growth.limit`.
    """
    times = growth.curves(results, letter, "seconds")
    peaks = growth.curves(results, letter, "peak_bytes")
    base = dict(results.of_kind("time", op="model", size=study_name(results, letter))[0]["sizes"])
    del base[letter]
    others = ", ".join(f"{name} = {value}" for name, value in base.items())
    dry = "DRY RUN, NO MEASUREMENT: " if results.dry else ""
    with style.house_style():
        title = f"{dry}A training step as {letter} grows\n{results.provenance['device']}"
        heights = [[2.4]] + [[2.0]] * bool(peaks)
        figure, stacked = style.stack_panels(title, heights, right=0.15)
        top = stacked[0][0]
        for curve in times:
            draw_curve(top, curve, 1e3)
        least = growth.limit(results, letter)
        top.loglog(
            least.x, [1e3 * y for y in least.y], color=style.GREY, linestyle=":",
            label="limit",
        )  # fmt: skip
        top.set_ylabel("ms")
        for [axes] in stacked[1:]:
            for curve in peaks:
                draw_curve(axes, curve, 2**-20)
            axes.set_ylabel("peak MiB")
        for [axes] in stacked:
            axes.grid(True)
            panels.legend_above(axes)
        bottom = stacked[-1][0]
        bottom.set_xticks(least.x, [f"{x:,}" for x in least.x])
        bottom.minorticks_off()
        bottom.set_xlabel(f"{MEANING[letter]}; {others}")
        return style.save_picture(figure, path)


def study_name(results: Results, letter: str) -> str:
    return next(
        record["size"]
        for record in results.of_kind("time", op="model")
        if record["size"].startswith(f"{letter}=")
    )
