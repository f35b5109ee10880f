"""What a person sees while a model trains: a bar in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
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

    def reached(self, step: int, shares: dict[str, float]) -> None:
        """Milestones were tested; the shares that were right, by their names."""

    def spiked(self, step: int, norm: float, factor: float, tensor: str, skipped: bool) -> None:
        """The norm of the gradient was a spike, see `health.UsualNorm`."""

    def solved(self, step: int) -> None:
        """The task is solved, so no more steps are needed."""

    def close(self) -> None:
        """Training has ended."""


def spike_line(step: int, norm: float, factor: float, tensor: str, skipped: bool) -> str:
    """A spike in a line."""
    done = ", step skipped" if skipped else ""
    return (
        f"step {step}: gradient norm {norm:.3g}, {factor:.0f} times the usual, "
        f"mostly in {tensor}{done}"
    )


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

    def reached(self, step: int, shares: dict[str, float]) -> None:
        figures = "; ".join(f"{name}: {100 * share:.0f} %" for name, share in shares.items())
        print(f"step {step}: {figures}", file=sys.stderr)

    def spiked(self, *spike: Any) -> None:
        print(spike_line(*spike), file=sys.stderr)


class Bar(Progress):
    """A tqdm bar with the loss, the lesson, and the shares right in the last evaluation.

    It fits in 80 columns. The clock starts with the first step, which takes longer than the others.
    """

    FORMAT = "{percentage:3.0f}%|{bar:10}| {n_fmt}/{total_fmt} [{remaining}, {rate_fmt}{postfix}]"

    def __init__(self, task: Task, first_step: int, max_steps: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            initial=first_step,
            total=max_steps,
            unit="",
            dynamic_ncols=True,
            smoothing=0.1,
            bar_format=self.FORMAT,
        )
        self._unit = task.unit
        self._found: dict[str, str] = {}
        self._is_first = True

    def stepped(self, loss: float) -> None:
        parts = [f"loss {loss:.3g}", *self._found.values()]
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        if self._is_first:
            self._bar.initial = self._bar.n = self._bar.n + 1
            self._restart_clock()
            self._is_first = False
        else:
            self._bar.update()

    def _restart_clock(self) -> None:
        """Count time from now on."""
        self._bar.start_t = self._bar.last_print_t = self._bar._time()
        self._bar.last_print_n = self._bar.n
        self._bar.refresh()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        right, solved = 100 * evaluation.right, 100 * evaluation.solved
        self._found["score"] = f"{right:.1f}% {self._unit}s, {solved:.0f}% solved"

    def tested(self, step: int, lesson: int, share: float) -> None:
        self._found["lesson"] = f"lesson {lesson} {100 * share:.0f}%"

    def spiked(self, *spike: Any) -> None:
        self._bar.write(spike_line(*spike), file=sys.stderr)

    def solved(self, step: int) -> None:
        self._bar.total = self._bar.n = step
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


def takes_bar(stream: Any) -> bool:
    """Whether tqdm can show a bar there: in a terminal, unless it says that it has no columns."""
    if find_spec("tqdm") is None or not stream.isatty():
        return False
    try:  # such as that of `script` or `docker run --tty` without a window
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return True


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
    if kind == "auto":
        kind = "bar" if takes_bar(sys.stderr) else "lines"
    if kind == "bar":
        if find_spec("tqdm") is None:
            raise ModuleNotFoundError("progress 'bar' needs tqdm; `pip install tqdm` installs it")
        return Bar(task, first_step, max_steps)
    return Lines(task) if kind == "lines" else Progress()
