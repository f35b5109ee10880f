"""What a person sees while a model trains: a bar in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from ..tasks import Task
from .evaluation import Evaluation, describe

KINDS = ("auto", "bar", "lines", "off")


class Progress:
    """Shows nothing; the other kinds show more."""

    def stepped(self, loss: float) -> None:
        """A training step is done. loss: nats per answer."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """The model was evaluated."""

    def tested(self, step: int, lesson: int, share: float) -> None:
        """A lesson, counted from 1, was tested; `share` was right."""

    def close(self) -> None:
        """Training has ended."""


class Lines(Progress):
    """A line for each evaluation and each test of a lesson."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._loss = 0.0

    def stepped(self, loss: float) -> None:
        self._loss = loss

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        figures = describe(self._task, evaluation)
        print(f"step {step}: loss {self._loss:.4f}, {figures}", file=sys.stderr)

    def tested(self, step: int, lesson: int, share: float) -> None:
        print(f"step {step}: lesson {lesson}, {100 * share:.1f} % right", file=sys.stderr)


class Bar(Progress):
    """A tqdm bar with the loss, the lesson, and the shares right in the last evaluation."""

    def __init__(self, task: Task, first_step: int, max_steps: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            initial=first_step, total=max_steps, unit="step", dynamic_ncols=True, smoothing=0.1
        )
        self._unit = task.unit
        self._found: dict[str, str] = {}

    def stepped(self, loss: float) -> None:
        shown = {"loss": f"{loss:.4f}", **self._found}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self._found |= {
            f"{self._unit}s right": f"{100 * evaluation.right:.1f}%",
            "sequences right": f"{100 * evaluation.solved:.1f}%",
        }

    def tested(self, step: int, lesson: int, share: float) -> None:
        self._found |= {"lesson": f"{lesson}, {100 * share:.0f}% right"}

    def close(self) -> None:
        self._bar.close()


def make_progress(kind: str, task: Task, first_step: int, max_steps: int) -> Progress:
    """The display of a kind.

    Args:
        kind: one of `KINDS`; "auto" is a bar in a terminal where tqdm is installed, otherwise
            lines.
        task: what is trained on.
        first_step: how many steps are done already.
        max_steps: how many there are at most.

    Raises:
        ModuleNotFoundError: kind is "bar" and tqdm is not installed.
    """
    has_tqdm = importlib.util.find_spec("tqdm") is not None
    if kind == "bar" and not has_tqdm:
        raise ModuleNotFoundError("progress 'bar' needs tqdm; `pip install tqdm` brings it")
    if kind == "auto":
        kind = "bar" if has_tqdm and sys.stderr.isatty() else "lines"
    if kind == "bar":
        return Bar(task, first_step, max_steps)
    return Lines(task) if kind == "lines" else Progress()
