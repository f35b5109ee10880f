"""What all pictures share: colours, fonts, layout, and how they are saved."""

from __future__ import annotations

import os
import secrets
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which readers with colour-blindness can tell apart.
BLACK, GREY, PALE = "#000000", "#767676", "#D9D9D9"
BLUE, GREEN = "#0072B2", "#009E73"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"


class Look(NamedTuple):
    """How one line among several looks; without colours, dashes and marker tell them apart."""

    color: str
    linestyle: str | tuple[float, tuple[float, ...]]
    marker: str


LOOKS = (
    Look(BLUE, "-", "o"),
    Look(VERMILLION, (0, (5, 1.5)), "s"),
    Look(GREEN, (0, (5, 1.5, 1, 1.5)), "^"),
    Look(PURPLE, (0, (1, 1.2)), "D"),
    Look(BLACK, (0, (8, 2)), "v"),
)

# Perceptually uniform, and safe for colour-blindness; the diverging one is white at zero.
BIT_MAP = "Blues"
WEIGHT_MAP = "viridis"
SIGNED_MAP = "PuOr"

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so pictures look the same everywhere
    "font.size": 8.5,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 4.0,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.edgecolor": "#444444",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.fontsize": 8.0,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.5,
}

DPI = 150
# Inches, all whole numbers of pixels. In a README, about 900 pixels wide, an inch is 100 pixels.
WIDTH = 9.0
LEFT = 0.86
LABEL = 0.48  # from the panel to the name of its vertical axis
TITLE_ROW = 0.3  # above each group of panels
GAP = 0.12  # between the panels of a group
HEADING_LINE = 0.2
BOTTOM = 0.5


@contextmanager
def house_style() -> Iterator[None]:
    """Draw with our settings, whatever the user's are, and restore the user's afterwards.

    Raises:
        ImportError: matplotlib is not installed, or broken.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "the pictures of dnc_fast need matplotlib, which could not be imported "
            f"({error}); `pip install matplotlib` installs it"
        ) from error
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield


def whole_pixels(height: float) -> float:
    """Height in inches, rounded so that every panel begins and ends between two pixels."""
    return round(height * DPI) / DPI


def titled_figure(title: str, height: float, left: float = LEFT) -> Figure:
    """A new figure with a title at the top.

    Args:
        title: an empty one is left out.
        height: of the figure, inches; all are as wide.
        left: inches from the figure's edge to the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)
    if title:
        figure.text(
            left / WIDTH,
            1 - 0.12 / height,
            title,
            fontsize=11,
            fontweight="bold",
            verticalalignment="top",
            parse_math=False,
        )
    return figure


def stack_panels(
    title: str, groups: Sequence[Sequence[float]], right: float, bottom: float = BOTTOM
) -> tuple[Figure, list[list[Axes]]]:
    """A new figure with panels one above another, which share one horizontal axis.

    All have the same left and right edges, so a column of pixels is the same step in every panel.

    Args:
        title: above all panels; a long one is wrapped, an empty one takes no space.
        groups: the heights of each group's panels, inches. A group has one title row above it.
        right: inches to the right of the panels, for colour bars and the like.
        bottom: inches below them, for the numbers and the name of the horizontal axis.

    Returns:
        the figure, and the axes of each group from top to bottom.
    """
    groups = [[whole_pixels(height) for height in heights] for heights in groups]
    lines = [line for part in title.splitlines() for line in textwrap.wrap(part, 85)]
    top = 0.08 + HEADING_LINE * len(lines)
    group_heights = [sum(heights) + GAP * (len(heights) - 1) for heights in groups]
    height = top + TITLE_ROW * len(groups) + sum(group_heights) + bottom
    # Agg drops any fraction of a pixel.
    figure = titled_figure("\n".join(lines), height + 1e-6)
    panel_width = WIDTH - LEFT - right
    stacked: list[list[Axes]] = []
    place = height - top
    for heights in groups:
        place -= TITLE_ROW - GAP
        panels: list[Axes] = []
        for panel_height in heights:
            place -= GAP + panel_height
            axes = figure.add_axes(
                (LEFT / WIDTH, place / height, panel_width / WIDTH, panel_height / height),
                sharex=figure.axes[0] if figure.axes else None,
            )
            axes.yaxis.set_label_coords(-LABEL / panel_width, 0.5)
            panels.append(axes)
        stacked.append(panels)
    for axes in figure.axes[:-1]:
        axes.tick_params(labelbottom=False)
    return figure, stacked


def save_picture(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG, whole or not at all.

    It is written beside `path` under another name and then renamed, so that nobody reads half a
    picture and a failure leaves the old one in place.

    Args:
        figure: from `learning_curve` or `memory_view`, or any other matplotlib figure.
        path: must end in .png. Missing folders are made.

    Returns:
        `path`.

    Raises:
        ValueError: `path` does not end in .png.
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, the format that is written, got {str(path)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with house_style(), open(unfinished, "xb") as file:
            figure.savefig(file, format="png", dpi=DPI)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path
