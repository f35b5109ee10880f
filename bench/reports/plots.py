"""Plots of results: time and peak memory of a training step as one letter grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnc_fast.pictures import panels, style

from ..harness.providers import LINKAGES
from ..harness.results import Results
from ..harness.sizes import LARGE
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
LOOKS: dict[str, dict[str, Any]] = {
    name: {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
    for name, look in zip(("cpu", "dnc", "reference", "lstm", "triton"), style.LOOKS, strict=True)
}
KINDS = dict(zip(("none", "sparse", "separable", "dense"), style.LOOKS, strict=False))
LOOKS |= {
    name: {
        "color": KINDS[options["linkage"]].color,
        "linestyle": "-" if "read_topk" in options else "--",
        "marker": KINDS[options["linkage"]].marker,
    }
    for name, options in LINKAGES.items()
}
GREY = {"color": style.GREY, "linestyle": ":"}


def draw(axes: Axes, curve: growth.Curve, scale: float) -> None:
    found = curve.exponents() if curve.name in LOOKS else None
    label = curve.name + (f" ~ {found[1]:.2f}" if found else "")
    look = {**LOOKS[curve.name], "markersize": 4} if curve.name in LOOKS else GREY
    axes.loglog(curve.x, [value * scale for value in curve.y], label=label, **look)


def growth_picture(results: Results, study: str, path: Path) -> Path:
    """Time above and, if it was measured, peak memory below.

    Exponents in the legend are of the last points. With the limit of time, `growth.limit`, or in
    the study of large memories with the size of the memory matrix below.
    """
    large, letter = study == LARGE, study[-1]
    times = growth.curves(results, study, "seconds")
    peaks = growth.curves(results, study, "peak_bytes")
    sizes = next(r["sizes"] for r in results.records if r.get("size", "").startswith(f"{study}="))
    others = ", ".join(f"{name} = {value}" for name, value in sizes.items() if name != letter)
    if large:
        bytes_a_cell = 4 * sizes["B"] * sizes["W"]
        x = max((curve.x for curve in peaks), key=len)
        peaks.append(growth.Curve("the memory itself", x, [bytes_a_cell * N for N in x]))
    else:
        times.append(growth.limit(results, letter))
    dry = "DRY RUN, NO MEASUREMENT: " if results.dry else ""
    what = "A training step by linkage" if large else "A training step"
    with style.house_style():
        title = f"{dry}{what} as {letter} grows\n{results.provenance['device']}"
        heights = [[2.4]] + [[2.4 if large else 2.0]] * bool(peaks)
        figure, stacked = style.stack_panels(title, heights, right=0.15)
        for [axes], curves, scale, unit in zip(
            stacked, (times, peaks), (1e3, 2**-20),
            ("ms a time step" if large else "ms", "peak MiB"), strict=False,
        ):  # fmt: skip
            for curve in curves:
                draw(axes, curve, scale)
            axes.set_ylabel(unit)
            axes.grid(True)
            if large:
                axes.legend(fontsize=7, ncols=2, frameon=False, handlelength=4)
            else:
                panels.legend_above(axes)
        bottom, ticks = stacked[-1][0], max((curve.x for curve in times), key=len)
        bottom.set_xticks(ticks, [f"{x:,}" for x in ticks])
        bottom.minorticks_off()
        bottom.set_xlabel(f"{MEANING[letter]}; {others}")
        return style.save_picture(figure, path)
