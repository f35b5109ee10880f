"""`dnc-fast tasks`: what can be trained on."""

from __future__ import annotations

import argparse

from ..tasks import TASKS, summary


def add_tasks_options(parser: argparse.ArgumentParser) -> None:
    """There are none."""
    parser.set_defaults(run=_show_tasks)


def _show_tasks(options: argparse.Namespace) -> int:
    """A line for each task."""
    width = max(map(len, TASKS))
    for name, kind in TASKS.items():
        print(f"{name:<{width}}  {summary(kind)}")
    return 0
