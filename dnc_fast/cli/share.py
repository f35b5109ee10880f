"""`dnc-fast share`: the model of a run as a folder for others."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checks import check_integer
from ..training.shared import share
from .compiling import shown_compiling
from .options import HALVES, check_folder


def add_share_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast share`."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the folder of a DNC's run")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the model and its card"
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(HALVES),
        default="float32",
        help="of the weights in the file (default: float32)",
    )
    parser.add_argument(
        "--sequences",
        type=int,
        metavar="INT",
        help="held-out sequences to score (default: the run's evaluation size)",
    )
    parser.add_argument("--notes", default="", metavar="TEXT", help="for the card, in Markdown")
    parser.set_defaults(run=_share)


def _share(options: argparse.Namespace) -> int:
    check_folder("--out", options.out)
    if options.sequences is not None:
        check_integer("--sequences", options.sequences, minimum=1)
    with shown_compiling():
        card = share(
            options.run_folder,
            options.out,
            HALVES[options.dtype],
            options.sequences,
            options.notes,
        )
    print(card, end="")
    return 0
